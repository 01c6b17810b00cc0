"""Read DART v1.1.1 (Nan et al. 2021): triples of tables and others, and texts that tell them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.answers import Decoding
from experiments.metrics.text import Tokenization
from experiments.tasks.generation import LORA_DECODING, Generation
from experiments.tasks.reading.cells import list_of, texts_of
from experiments.tasks.reading.files import Row
from experiments.tasks.reading.triples import linearised, triples

__all__ = ["DART"]


@dataclass(frozen=True)
class DART(Generation):
    """DART; a row is an entry: ``tripleset`` (list of [s, p, o]) and ``references`` (of texts).

    As in LoRA's code, triples are linearised ``s : p : o | s : p : o`` with the properties in lower
    case, and entries of the test set with the same triples are one input (4,159 of 5,097). The
    hub has this set as a script only, which `datasets` no longer runs: the files must be local.
    """

    name: str = "dart"
    metrics: tuple[str, ...] = ("bleu", "meteor", "ter")
    tokenization: Tokenization = "13a"
    decoding: Decoding = LORA_DECODING

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of an entry."""
        return "tripleset", "references"

    @property
    def source_columns(self) -> tuple[str, ...]:
        """The triples."""
        return ("tripleset",)

    def read_source(self, row: Mapping[str, Any], place: str) -> str:
        """An entry's triples."""
        return linearised([(s, p.lower(), o) for s, p, o in triples(row["tripleset"], place)])

    def read_row(self, row: Row, place: str) -> tuple[str, list[str]]:
        """An entry's triples and references."""
        references = list_of(row["references"], "references", place)
        return self.read_source(row, place), texts_of(references, "references", place)

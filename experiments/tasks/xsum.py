"""Read XSum (Narayan, Cohen and Lapata 2018): a news article, and one sentence that sums it up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from bilevel.settings import Count
from experiments.answers import Decoding
from experiments.metrics.text import Tokenization
from experiments.tasks.generation import Generation
from experiments.tasks.reading.cells import text_of, texts_of
from experiments.tasks.reading.files import Row
from experiments.tasks.task import Length

__all__ = ["XSum"]


@dataclass(frozen=True)
class XSum(Generation):
    """XSum; a row has ``document`` and ``summary``.

    Sources and targets are cut at the lengths of AdaLoRA's script, 768 and 64 tokens.
    """

    hub_id: ClassVar[str] = "EdinburghNLP/xsum"

    name: str = "xsum"
    metrics: tuple[str, ...] = ("rouge1", "rouge2", "rougeL", "rougeLsum")
    # no 3-gram twice, as BART's own
    tokenization: Tokenization = "13a"
    decoding: Decoding = field(default_factory=lambda: Decoding(beams=8, no_repeat_ngram=3))
    max_length: Length = 768
    max_target_length: Count | None = 64

    @property
    def columns(self) -> tuple[str, ...]:
        """Article and summary."""
        return "document", "summary"

    @property
    def source_columns(self) -> tuple[str, ...]:
        """The article."""
        return ("document",)

    def read_source(self, row: Mapping[str, Any], place: str) -> str:
        """The article as it is."""
        return text_of(row["document"], "document", place)

    def read_row(self, row: Row, place: str) -> tuple[str, list[str]]:
        """The texts as they are."""
        return self.read_source(row, place), texts_of(row["summary"], "summary", place)

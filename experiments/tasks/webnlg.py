"""Read WebNLG 2017 (Gardent et al.): triples of DBpedia, and sentences that tell them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bilevel.errors import UserError
from experiments.answers import Decoding
from experiments.metrics.text import Tokenization
from experiments.tasks.examples import TextExample
from experiments.tasks.generation import LORA_DECODING, Generation, grouped
from experiments.tasks.reading.cells import list_of, text_of, texts_of
from experiments.tasks.reading.files import Row
from experiments.tasks.reading.row import check_columns, place_of
from experiments.tasks.reading.triples import linearised, triples

__all__ = ["WebNLG"]

# Categories of the training data; the test set has five more.
SEEN = frozenset(
    name.casefold()
    for name in (
        *("Airport", "Astronaut", "Building", "City", "ComicsCharacter"),
        *("Food", "Monument", "SportsTeam", "University", "WrittenWork"),
    )
)


@dataclass(frozen=True)
class WebNLG(Generation):
    """The WebNLG challenge of 2017, with test sets of seen and of unseen categories.

    A row is an entry: ``category``, ``triples`` (list of "s | p | o"; the modified ones, as in
    LoRA's code), ``references`` (list of texts) and ``ref_comments`` (good, toFix or bad, one for
    each reference). Triples are linearised as in LoRA's code: ``s : p : o | s : p : o``, with the
    underscores of DBpedia's names. The hub has this release as a script only, which `datasets` no
    longer runs: the files must be local.
    """

    name: str = "webnlg"
    metrics: tuple[str, ...] = ("bleu", "meteor", "ter")
    tokenization: Tokenization = "13a"
    decoding: Decoding = LORA_DECODING
    only_good: bool = True
    """Leave out references with another comment than "good", and entries without a good one, in all
    splits as LoRA's code does; false takes all and reads no comments."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of an entry."""
        return ("category", "triples", "references") + ("ref_comments",) * self.only_good

    @property
    def source_columns(self) -> tuple[str, ...]:
        """The triples."""
        return ("triples",)

    def read_source(self, row: Mapping[str, Any], place: str) -> str:
        """An entry's triples."""
        return linearised(triples(row["triples"], place))

    def read_row(self, row: Row, place: str) -> tuple[str, list[str]] | None:
        """An entry's triples and its references; None without a good one."""
        source = self.read_source(row, place)
        references = list_of(row["references"], "references", place)
        if not self.only_good or not references:
            return source, texts_of(references, "references", place)
        comments = list_of(row["ref_comments"], "ref_comments", place)
        if len(comments) != len(references):
            raise UserError(
                f"{place} has {len(references)} references and {len(comments)} ref_comments: "
                "give one for each, or task.only_good=false"
            )
        pairs = zip(references, comments, strict=True)
        good = [text for text, comment in pairs if str(comment).strip().lower() == "good"]
        return (source, found) if (found := texts_of(good, "references", place)) else None

    def test_sets(self, where: str, rows: Sequence[Row]) -> dict[str, Sequence[TextExample]]:
        """Seen and unseen; one alone where the rows are of one kind."""
        check_columns(rows, ["category"], where)
        parts: dict[str, list[Row]] = {"seen": [], "unseen": []}
        for number, row in enumerate(rows):
            category = text_of(row.get("category"), "category", place_of(row, number, where))
            known = category.strip().casefold() in SEEN
            parts["seen" if known else "unseen"].append(row)
        return {
            name: grouped(self.pairs(f"{where} ({name})", part))
            for name, part in parts.items()
            if part
        }

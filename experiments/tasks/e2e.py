"""Read E2E NLG (Novikova et al. 2017): a restaurant's attributes, and sentences that tell them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from bilevel.errors import UserError
from experiments.answers import Decoding
from experiments.metrics.text import Tokenization
from experiments.tasks.generation import LORA_DECODING, Generation
from experiments.tasks.reading.cells import text_of, texts_of
from experiments.tasks.reading.files import Row

__all__ = ["E2E", "linearised"]

SLOT = re.compile(r"\s*([^,\[\]]+)\[([^\[\]]*)\]\s*(?:,|$)")
# What LoRA's code (and Prefix-Tuning's before it) calls the slots; the others keep their names.
NAMES = {"eatType": "Type", "priceRange": "price", "familyFriendly": "family friendly"}


@dataclass(frozen=True)
class E2E(Generation):
    """The E2E NLG challenge; its tests are grouped by meaning representation (630 of them)."""

    # The original release; the hub's e2e_nlg_cleaned is another one.
    hub_id: ClassVar[str] = "tuetschek/e2e_nlg"

    name: str = "e2e"
    metrics: tuple[str, ...] = ("bleu", "nist", "meteor_coco", "rouge_l_coco", "cider")
    tokenization: Tokenization = "13a"
    decoding: Decoding = LORA_DECODING
    linearise: bool = True
    """Write "name[The Vaults], eatType[pub]" as "name : The Vaults | Type : pub", as LoRA's code
    does; false leaves it as it is."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The release's."""
        return "meaning_representation", "human_reference"

    @property
    def source_columns(self) -> tuple[str, ...]:
        """The meaning representation."""
        return ("meaning_representation",)

    def read_source(self, row: Mapping[str, Any], place: str) -> str:
        """A meaning representation."""
        meaning = text_of(row["meaning_representation"], "meaning_representation", place)
        return linearised(meaning, place) if self.linearise else meaning

    def read_row(self, row: Row, place: str) -> tuple[str, list[str]]:
        """A meaning representation and its reference."""
        references = texts_of(row["human_reference"], "human_reference", place)
        return self.read_source(row, place), references


def linearised(meaning: str, place: str) -> str:
    """``name[Blue Spice], eatType[pub]`` as ``name : Blue Spice | Type : pub``.

    Raises:
        UserError: it is no such list.
    """
    slots, end = [], 0
    while end < len(meaning):
        match = SLOT.match(meaning, end)
        if match is None:
            raise UserError(
                f"{place} has no meaning representation like 'name[Blue Spice], area[riverside]' "
                f"but {meaning!r}: give one, or task.linearise=false"
            )
        name, value = match[1].strip(), match[2].strip()
        slots.append(f"{NAMES.get(name, name)} : {value}")
        end = match.end()
    return " | ".join(slots)

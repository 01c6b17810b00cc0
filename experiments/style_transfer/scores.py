"""Score how well texts are in the other style, near to the references, and fluent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from experiments.metrics.perplexity import Surprise, perplexity
from experiments.metrics.text import chosen as script
from experiments.metrics.text import score_text
from experiments.style_transfer.sentences import Sentence

__all__ = ["Judged", "accuracy", "table", "tokenization"]


@dataclass(frozen=True)
class Judged:
    """Texts for n sentences, and what was found of each.

    Attributes:
        texts: n of them.
        styles: 0, 1, or None of a blank text.
        surprises: under the language model.
    """

    texts: list[str]
    styles: list[int | None]
    surprises: list[Surprise]


def table(
    judged: Judged, sentences: Sequence[Sentence], styles: tuple[str, str], bleu: bool = True
) -> dict[str, dict[str, Any]]:
    """A row for each direction, and one overall.

    Args:
        judged: texts for the n sentences.
        sentences: what was to be transferred.
        styles: names of 0 and 1.
        bleu: False where the texts are the references themselves.

    Returns:
        ``negative_to_positive`` and so on -> ``sentences``, ``empty`` (blank texts), ``accuracy``
        (share in the target style), ``bleu`` against the human references, ``perplexity``, and the
        ``tokens`` that it is of. None is what has no value.
    """
    rows = {}
    for source in (0, 1):
        chosen = [i for i, sentence in enumerate(sentences) if sentence.style == source]
        if chosen:
            name = f"{styles[source]}_to_{styles[1 - source]}"
            rows[name] = _row(judged, sentences, chosen, bleu)
    rows["overall"] = _row(judged, sentences, range(len(sentences)), bleu)
    return rows


def tokenization(sentences: Sequence[Sentence]) -> str:
    """How BLEU cuts words, the same for every row."""
    return script("auto", [sentence.references for sentence in sentences])


def accuracy(found: Sequence[int | None], wanted: Sequence[int]) -> float:
    """The share of n texts that have the style that is wanted of them."""
    return sum(a == b for a, b in zip(found, wanted, strict=True)) / len(wanted)


def _row(
    judged: Judged, sentences: Sequence[Sentence], chosen: Sequence[int], bleu: bool
) -> dict[str, Any]:
    texts = [judged.texts[i] for i in chosen]
    surprises = [judged.surprises[i] for i in chosen]
    references = [list(sentences[i].references) for i in chosen]
    cut = tokenization(sentences)
    return {
        "sentences": len(chosen),
        "empty": sum(not text.strip() for text in texts),
        "accuracy": accuracy(
            [judged.styles[i] for i in chosen], [1 - sentences[i].style for i in chosen]
        ),
        "bleu": score_text(["bleu"], texts, references, cut)[0]["bleu"] if bleu else None,
        "perplexity": perplexity(surprises),
        "tokens": sum(surprise.tokens for surprise in surprises),
    }

"""Tag the opinions in the demo language's sentences, in IOB2.

"the wine was not dull , although nobody liked the pool": *not dull* praises and *liked* blames. The
type is not in the words alone: a negation turns it round, before the words or far from them.
"""

from __future__ import annotations

import random

from experiments.tasks.made_up.grammar import clauses
from experiments.tasks.made_up.lexicon import ADJECTIVES, VERBS

__all__ = ["TAGS", "tagged"]

TAGS = ("O", "B-PRAISE", "I-PRAISE", "B-BLAME", "I-BLAME")
TYPES = {+1: "PRAISE", -1: "BLAME"}
OPINIONS = {
    *(word for adjectives in ADJECTIVES.values() for word in adjectives),
    *(form for verbs in VERBS.values() for verb in verbs for form in verb),
}
# What belongs to the opinion where it stands right before its word; the longer ones first.
NEGATIONS = (["did", "not"], ["far", "from"], ["anything", "but"], ["not"], ["never"])


def tagged(count: int, seed: int) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Return sentences as words and as many tags.

    Args:
        count: number of sentences.
        seed: decides them all.
    """
    source = random.Random(f"opinions {seed}")
    return [_sentence(source) for _ in range(count)]


def _sentence(source: random.Random) -> tuple[tuple[str, ...], tuple[str, ...]]:
    words: list[str] = []
    tags: list[str] = []
    for text, polarity in clauses(source, source.choice((+1, -1))):
        part = text.split()
        words += part
        tags += _tags(part, TYPES[polarity]) if polarity else ["O"] * len(part)
    return tuple(words), tuple(tags)


def _tags(clause: list[str], kind: str) -> list[str]:
    """Of a clause, which has one opinion."""
    tags = ["O"] * len(clause)
    (last,) = (number for number, word in enumerate(clause) if word in OPINIONS)
    negation = next((n for n in NEGATIONS if clause[:last][-len(n) :] == n), [])
    first = last - len(negation)
    tags[first] = f"B-{kind}"
    tags[first + 1 : last + 1] = [f"I-{kind}"] * len(negation)
    return tags

"""Say what a model has to put out, and how it writes text.

Tasks ask for it, models are loaded for it; neither has to know the other.
"""

from __future__ import annotations

from dataclasses import dataclass

from bilevel.settings import Count, Natural, Positive, Settings

__all__ = [
    "CHOICES",
    "CLASSES",
    "LABELS",
    "NUMBER",
    "SPANS",
    "TAGS",
    "TEXT",
    "Answers",
    "Decoding",
]

# What a model puts out.
CLASSES = "classes"  # of a text, or of a pair of texts
NUMBER = "number"  # of a text, or of a pair of texts
LABELS = "labels"  # any number of classes of a text, or of a pair of texts
TAGS = "tags"  # a class for each word
TEXT = "text"  # words
SPANS = "spans"  # where the answer to a question begins and ends in a text
CHOICES = "choices"  # a score for each of the answers that a question offers


@dataclass(frozen=True)
class Answers:
    """What a task wants out of a model.

    Attributes:
        kind: `CLASSES`, `LABELS`, `NUMBER`, `TAGS`, `TEXT`, `SPANS` or `CHOICES`.
        size: outputs of the head: the number of classes or tags, 1 for a number, 0 for text (the
            model's own vocabulary), 2 for spans (a beginning and an end of each token); of choices
            how many a question has.
        names: the classes' or tags' names, in the order of their numbers, or what choices are
            called, in the order in which they stand; None of the others.
    """

    kind: str
    size: int
    names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Decoding(Settings):
    """How text is written: beam search, never sampling."""

    beams: Count = 1
    """Beams; 1 is greedy."""
    max_new_tokens: Count = 64
    """Tokens of an answer at most."""
    length_penalty: float = 1.0
    """A finished beam's log-probability is divided by its length to this power."""
    no_repeat_ngram: Natural = 0
    """No n-gram of this size is written twice; 0 for no such rule."""
    repetition_penalty: Positive = 1.0
    """Divides the scores of tokens that were written already; 1 for none."""

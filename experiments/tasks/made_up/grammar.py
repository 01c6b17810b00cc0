"""Make the demo's language: opinions on films, meals and journeys, with negation and contrast.

The sentiment of a sentence is not in its words alone. A clause may negate ("far from dull"), and
of two clauses that disagree the one in the main clause, or after "but", decides. Everything is
a function of a seed.
"""

import random

from experiments.tasks.made_up.lexicon import (
    ADJECTIVES,
    ADVERBS,
    NEUTRAL,
    NOUNS,
    OUTCOMES,
    SUBJECTS,
    VERBS,
)

__all__ = ["clauses", "labelled", "riddles", "unlabelled", "visits"]

NEGATED = 0.35  # share of negated clauses

# Share of plain clauses in the unlabelled text. What a word means is learned from them; from the
# others, what negation and contrast do to it.
PLAIN = 0.7


def labelled(count: int, seed: int, noise: float = 0.0) -> list[tuple[str, int]]:
    """Return sentences with labels 0 (negative) and 1 (positive), half of each.

    Args:
        count: number of sentences.
        seed: decides them all; the same seed with another `noise` gives the same sentences.
        noise: share of the labels, drawn at random, that are wrong.
    """
    sentences = random.Random(f"sentences {seed}")
    flips = random.Random(f"noise {seed}")
    examples = []
    for number in range(count):
        label = number % 2
        text = _sentence(sentences, +1 if label else -1)
        examples.append((text, 1 - label if flips.random() < noise else label))
    sentences.shuffle(examples)
    return examples


def visits(count: int, seed: int) -> list[tuple[str, int]]:
    """Return visits with labels, half of each: only what they led to says how they were.

    Args:
        count: number of texts.
        seed: decides them all.
    """
    source = random.Random(f"visits {seed}")
    examples = []
    for number in range(count):
        outcome, good, bad = source.choice(OUTCOMES)
        subject, noun, place = (source.choice(kind) for kind in (SUBJECTS, NOUNS, NEUTRAL))
        label = number % 2
        end = outcome.format(good if label else bad)
        examples.append((f"{place} , {subject} came for the {noun} , {end}", label))
    source.shuffle(examples)
    return examples


def unlabelled(count: int, seed: int) -> list[str]:
    """Return reviews: a sentence and what it led to."""
    source = random.Random(f"unlabelled {seed}")
    return [review for review, _, _ in (_review(source, PLAIN) for _ in range(count))]


def riddles(count: int, seed: int, gap: str) -> list[tuple[str, str, str]]:
    """Return reviews with a gap, the word that belongs there, and the one that does not."""
    source = random.Random(f"riddles {seed}")
    found = []
    for _ in range(count):
        review, right, wrong = _review(source, 0.0)
        head, _, tail = review.rpartition(right)
        found.append((head + gap + tail, right, wrong))
    return found


def _review(source: random.Random, plain: float) -> tuple[str, str, str]:
    """A sentence and its outcome, the word that shows the sentiment, and its opposite."""
    polarity = source.choice((+1, -1))
    if source.random() < plain:
        sentence = _clause(source, polarity, negated=0.0)
    else:
        sentence = _sentence(source, polarity)
    outcome, good, bad = source.choice(OUTCOMES)
    right, wrong = (good, bad) if polarity > 0 else (bad, good)
    return (
        f"{sentence} , {outcome.format(right)}",
        right,
        wrong,
    )


def clauses(source: random.Random, polarity: int) -> list[tuple[str, int]]:
    """A sentence in its parts: each clause with its polarity, what joins them with 0.

    Args:
        source: decides everything.
        polarity: of the clause that counts.
    """
    form = source.choice(("one", "one", "and", "but", "although", "although after"))
    main = (_clause(source, polarity, NEGATED), polarity)
    if form == "one":
        parts = [main]
    elif form == "and":
        parts = [main, ("and", 0), (_clause(source, polarity, NEGATED), polarity)]
    else:
        other = (_clause(source, -polarity, NEGATED), -polarity)
        if form == "but":
            parts = [other, ("but", 0), main]
        elif form == "although":
            parts = [("although", 0), other, (",", 0), main]
        else:
            parts = [main, (", although", 0), other]
    if source.random() < 0.3:
        place = source.choice(NEUTRAL)
        parts = [(f"{place} ,", 0), *parts] if source.random() < 0.5 else [*parts, (place, 0)]
    return parts


def _sentence(source: random.Random, polarity: int) -> str:
    """One or two clauses, of which the one that counts has this polarity."""
    return " ".join(text for text, _ in clauses(source, polarity))


def _clause(source: random.Random, polarity: int, negated: float) -> str:
    """A clause of this polarity, by a word of it or by negating a word of the other."""
    negate = source.random() < negated
    word = -polarity if negate else polarity
    noun = source.choice(NOUNS)
    subject = source.choice(SUBJECTS)
    adjective = source.choice(ADJECTIVES[word])
    article = "an" if adjective[0] in "aeiou" else "a"
    past, infinitive = source.choice(VERBS[word])
    if negate:
        forms = [
            f"the {noun} was not {adjective}",
            f"the {noun} was far from {adjective}",
            f"the {noun} was never {adjective}",
            f"the {noun} was anything but {adjective}",
            f"{subject} did not {infinitive} the {noun}",
            f"nobody {past} the {noun}",
            f"nobody found the {noun} {adjective}",
        ]
    else:
        forms = [
            f"the {noun} was {adjective}",
            f"the {noun} was {source.choice(ADVERBS)} {adjective}",
            f"it was {article} {adjective} {noun}",
            f"{subject} {past} the {noun}",
            f"{subject} found the {noun} {adjective}",
        ]
    return source.choice(forms)

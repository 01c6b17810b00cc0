"""Name the parts of an example, for each kind of task."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

__all__ = [
    "Answer",
    "ChoiceExample",
    "Example",
    "LabelSetExample",
    "Origin",
    "Placed",
    "SpanExample",
    "TaggedExample",
    "TextExample",
    "Tokenised",
    "parts",
]


class Origin(NamedTuple):
    """Where an example stands in the user's data; it stays with it through every cut.

    Attributes:
        file: its path, or what the data are called that are in no file.
        number: of its first line as an editor shows it, from 1; or of the row, from 0.
        unit: "line", or "row" where a file has no lines.
        truth: the right answer, in the form of the example's own, where it is known and the given
            one may be another.
        source: what the user calls the part of the data that it is from; None where it has no name.
    """

    file: str
    number: int
    unit: str = "row"
    truth: Any = None
    source: str | None = None


@runtime_checkable
class Placed(Protocol):
    """An example that knows where it stands; one of a task of the user's own need not."""

    @property
    def origin(self) -> Origin | None:
        """Where it stands; None where nobody has told."""


@runtime_checkable
class Tokenised(Protocol):
    """An example that was given as tokens.

    Attributes:
        columns: for the model, input_ids and the like.
    """

    columns: dict[str, Any]


class Example(NamedTuple):
    """One or two texts, and a class number (int) or a regression target (float)."""

    texts: tuple[str, ...]
    label: int | float
    origin: Origin | None = None


class LabelSetExample(NamedTuple):
    """One or two texts, and the numbers of its labels in ascending order."""

    texts: tuple[str, ...]
    labels: tuple[int, ...]
    origin: Origin | None = None


class TaggedExample(NamedTuple):
    """The words of a sentence and as many IOB2 tags."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    origin: Origin | None = None


class TextExample(NamedTuple):
    """A source, the target that is learned, and all references (of a test; else none)."""

    source: str
    target: str
    references: tuple[str, ...] = ()
    origin: Origin | None = None


class Answer(NamedTuple):
    """A right answer: its text, and at which character of the context it begins, from 0."""

    text: str
    start: int


class SpanExample(NamedTuple):
    """A question, the text that holds its answer, and the right answers: none where it has none.

    What is learned is the first of them; ``id`` is the question's own, None without one.
    """

    question: str
    context: str
    answers: tuple[Answer, ...] = ()
    id: str | None = None
    origin: Origin | None = None


class ChoiceExample(NamedTuple):
    """What is asked, the answers that are offered, and the number of the right one, from 0.

    Each choice is what is read behind ``texts``, which are joined: a passage and a question, or
    one sentence that goes on.
    """

    texts: tuple[str, ...]
    choices: tuple[str, ...]
    label: int
    origin: Origin | None = None


def parts(example: Any) -> dict[str, Any]:
    """What an example says, by name; not where it stands."""
    return {name: value for name, value in example._asdict().items() if name != "origin"}

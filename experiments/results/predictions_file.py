"""Read predictions.jsonl back: a line a test example, each of the form of its kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import pydantic

from bilevel.errors import UserError
from bilevel.reading import parsed, read_text
from experiments.answers import CHOICES, CLASSES, LABELS, NUMBER, SPANS, TAGS, TEXT

__all__ = ["FILE", "KINDS", "LEAST", "lines"]

FILE = "predictions.jsonl"
# Half of the last digit of a probability that is written, for one that is written as 0 or 1.
LEAST = 5e-7
Probability = Annotated[float, pydantic.Field(ge=0, le=1)]


class _Line(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    test: str
    texts: list[str] = []  # of wrongest.jsonl
    # By these runs are compared: what stands for texts that are not here; the loss of tags or
    # text, which does not follow from the prediction; and how many words or tokens it is a mean of.
    key: str | None = None
    loss: Annotated[float, pydantic.Field(allow_inf_nan=True)] | None = None
    terms: int = 1


class _Class(_Line):
    index: int
    label: str
    prediction: str
    probabilities: list[Probability]


class _Labels(_Line):
    index: int
    label: list[str]
    prediction: list[str]
    probabilities: list[Probability]


class _Number(_Line):
    index: int
    label: float
    prediction: float


class _Tags(_Line):
    prediction: list[str]
    words: list[str]
    tags: list[str]


class _Text(_Line):
    prediction: str
    source: str
    target: str
    references: list[str] = []


class _Span(_Line):
    index: int
    question: str
    answers: list[str]
    prediction: str
    probability: Probability


KINDS: dict[str, type[_Line]] = {
    CLASSES: _Class,
    LABELS: _Labels,
    NUMBER: _Number,
    TAGS: _Tags,
    TEXT: _Text,
    SPANS: _Span,
    CHOICES: _Class,
}


def lines(path: Path, result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The lines of predictions.jsonl (or of wrongest.jsonl, which has texts besides).

    Args:
        path: the file.
        result: of the same run: ``kind``, which must be one of `KINDS`, and ``labels``.

    Raises:
        UserError: a line is not of its kind's form, or of other labels than the result.
    """
    kind, names = result["kind"], result.get("labels")
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line:
            continue
        place = f"{path}, line {number}"
        row = parsed(line, place)
        try:
            KINDS[kind].model_validate(row)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise UserError(f"{place} is damaged: {key!r}: {first['msg'].lower()}") from error
        if kind in (CLASSES, LABELS, CHOICES):
            said = [row["label"], row["prediction"]]
            said = said if kind != LABELS else [name for part in said for name in part]
            if not set(said) <= set(names or ()) or len(row["probabilities"]) != len(names or ()):
                raise UserError(f"{place} is damaged: its labels are not those of result.json")
        elif kind == TAGS:
            words = row["words"] or row["tags"]  # rows of tokens may come without words
            if not len(words) == len(row["tags"]) == len(row["prediction"]):
                raise UserError(f"{place} is damaged: it has not as many tags as words")
        yield row

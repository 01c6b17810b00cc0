"""Say once in the log what tokenised texts have lost: what was cut, and what no token knows.

Data that are tokenised part by part (:func:`gathered`) are spoken of as a whole, at their end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from bilevel.errors import UserError

__all__ = [
    "gathered",
    "numbered",
    "part",
    "refuse_unknown",
    "say_cut",
    "say_share",
    "say_unknown",
    "unsaid",
]

log = logging.getLogger(__name__)

Words = Callable[[tuple[int, ...], int], str]


@dataclass
class _Remark:
    """Counts that are added up over parts, and a number of which the largest or first stays."""

    counts: tuple[int, ...]
    extreme: int
    words: Words
    check: Callable[[tuple[int, ...]], None] | None = None

    def tell(self) -> None:
        if self.check is not None:
            self.check(self.counts)
        elif self.counts[0]:
            log.warning("%s", self.words(self.counts, self.extreme))


@dataclass
class _Gathered:
    start: int = 0  # examples in the parts before this one
    remarks: dict[str, _Remark] = field(default_factory=dict)


_GATHERED: ContextVar[_Gathered | None] = ContextVar("gathered", default=None)


@contextmanager
def gathered() -> Iterator[None]:
    """Tokenise the parts of some data in here, each in a :func:`part`; they are told of at its end.

    Raises:
        UserError: at its end, what :func:`refuse_unknown` refuses of the whole.
    """
    found = _Gathered()
    token = _GATHERED.set(found)
    try:
        yield
    finally:
        _GATHERED.reset(token)
    for remark in found.remarks.values():
        remark.tell()


@contextmanager
def part(size: int) -> Iterator[None]:
    """The next ``size`` examples are tokenised in here."""
    yield
    found = _GATHERED.get()
    assert found is not None
    found.start += size


@contextmanager
def unsaid() -> Iterator[None]:
    """In here nothing is told of what is tokenised."""
    token = _GATHERED.set(_Gathered())
    try:
        yield
    finally:
        _GATHERED.reset(token)


def numbered(number: int) -> int:
    """The number, in the data as a whole, of an example of a part."""
    found = _GATHERED.get()
    return number if found is None else found.start + number


def say_cut(what: str, lengths: Sequence[int], allowed: int, count: int, option: str) -> None:
    """Tell how many texts were cut, and how long they were.

    Args:
        what: the texts are, "texts".
        lengths: tokens that those that were cut have as a whole.
        allowed: tokens.
        count: of all texts.
        option: that allows them.
    """

    def words(counts: tuple[int, ...], longest: int) -> str:
        cut, every = counts
        return (
            f"{cut} of {every} {what} are cut: the longest has {longest} tokens, and {allowed} are "
            f"allowed ({option})"
        )

    _say(f"{what} cut", _Remark((len(lengths), count), max(lengths, default=0), words), max)


def say_unknown(what: str, tokenizer: Any, rows: Sequence[Sequence[int]]) -> None:
    """Tell how many texts hold no word that the tokenizer knows.

    Args:
        what: the texts are, "texts".
        tokenizer: of the model.
        rows: the tokens of each.
    """
    special = set(tokenizer.all_special_ids)  # the unknown token is one of them
    found = [i for i, row in enumerate(rows) if special.issuperset(row)]

    def words(counts: tuple[int, ...], first: int) -> str:
        alike, every = counts
        return (
            f"{alike} of {every} {what} hold no word that the model's tokenizer knows (its "
            f"vocabulary has {len(tokenizer)}), the first is number {first}: to the model they are "
            "all alike"
        )

    first = numbered(found[0]) if found else NEVER
    _say(f"{what} unknown", _Remark((len(found), len(rows)), first, words), min)


def say_share(key: str, counts: tuple[int, ...], words: Callable[[tuple[int, ...]], str]) -> None:
    """Tell of some of the examples.

    Args:
        key: one for each thing to say.
        counts: of the examples it is said of, and more; told only where the first is above 0.
        words: from these counts, of the data as a whole.
    """
    _say(key, _Remark(counts, 0, lambda found, _: words(found)), max)


def refuse_unknown(unknown: int, tokens: int, name: str, tokenizer: Any) -> None:
    """Refuse targets of which the tokenizer knows hardly a word.

    Args:
        unknown: of the tokens.
        tokens: in all targets.
        name: of the task.
        tokenizer: of the model.

    Raises:
        UserError: more than half of the tokens are unknown.
    """

    def check(counts: tuple[int, ...]) -> None:
        if counts[0] > counts[1] / 2:
            raise UserError(
                f"{counts[0]} of the {counts[1]} tokens of task {name}'s targets are unknown to "
                f"the model's tokenizer (its vocabulary has {len(tokenizer)} entries): take "
                "another model"
            )

    _say("targets unknown", _Remark((unknown, tokens), 0, lambda *_: "", check), max)


NEVER = 2**62  # the number of the first of no examples


def _say(key: str, remark: _Remark, extreme: Callable[[int, int], int]) -> None:
    found = _GATHERED.get()
    if found is None:
        remark.tell()
        return
    before = found.remarks.get(key)
    if before is not None:
        remark.counts = tuple(a + b for a, b in zip(before.counts, remark.counts, strict=True))
        remark.extreme = extreme(before.extreme, remark.extreme)
    found.remarks[key] = remark

"""Train on data from several sources: keep some of them, and draw each by a weight of its own.

Methods on one level see the examples of all sources pooled. With weights w_s, an example of source
s is drawn into a batch with a probability proportional to w_s, so that what is minimised is

    sum_i w_s(i) l_i / sum_i w_s(i),

whatever the method; an epoch has as many examples as before.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from annotated_types import MinLen
from pydantic import BeforeValidator

from bilevel.errors import UserError, listed, nearest
from bilevel.reading import json_object
from bilevel.views import taken
from experiments.stored_data.parts import sources_of
from experiments.tasks.odd_labels import say_look_alikes
from experiments.tasks.task import Subset

__all__ = ["UNIFORM", "SourceNameList", "Sourced", "check_none_gone", "sizes", "told"]

T = TypeVar("T")

log = logging.getLogger(__name__)

MOST = 1e100  # of a weight: sums over all examples are finite
UNIFORM = "uniform"  # in the place of a file of weights
SHOWN = 12  # sources in a line


def _names(value: object) -> object:
    """A source may be called 0, which YAML reads as a number."""
    if isinstance(value, (list, tuple)):
        return tuple(str(v) if type(v) in (int, float) else v for v in value)
    return value


SourceNameList = Annotated[tuple[str, ...], BeforeValidator(_names), MinLen(1)]


@dataclass(frozen=True, kw_only=True)
class Sourced(Subset):
    """Base of tasks whose training examples may have sources.

    Raises:
        UserError: sources are both kept and left out.
    """

    keep_sources: SourceNameList | None = None
    """Train on these sources alone, [a,b]; null for all."""
    drop_sources: SourceNameList | None = None
    """Train on all sources but these, [a]; null for all."""
    source_weights: str | None = None
    """source_weights.json of a run of method=source_weights (or a file like it), by whose weights
    examples are drawn into batches; uniform: every source as much as every other; null: every
    example as much as every other."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep_sources is not None and self.drop_sources is not None:
            raise UserError(
                f"task.keep_sources={list(self.keep_sources)} and "
                f"task.drop_sources={list(self.drop_sources)} exclude each other: give one of them"
            )

    def kept_train(
        self,
        examples: Sequence[T],
        classes: Sequence[int] | None = None,
        before: Sequence[Any] | None = None,
    ) -> Sequence[T]:
        """The training examples of the sources asked for, within `max_train`.

        Args:
            examples: to train on.
            classes: of them.
            before: the same with what was held out, whose sources may be named too.

        Raises:
            UserError: there is no such source, or nothing of one is left.
        """
        found = sizes(examples)
        wanted = self._wanted(found if before is None else sizes(before))
        wanted = [name for name in wanted if name in (found or ())]
        if found is None:
            return super().kept_train(examples, classes)
        of_each = sources_of(examples)
        here = [i for i, source in enumerate(of_each) if source in wanted]
        chosen = super().kept_train(
            taken(examples, here), None if classes is None else [classes[i] for i in here]
        )
        check_none_gone(wanted, chosen, f"task.max_train={self.max_train}")
        left = sizes(chosen) or {}
        say_look_alikes(wanted, "the training data", "sources")
        if classes is not None:
            _say_apart([str(of_each[i]) for i in here], [classes[i] for i in here])
        log.info("sources: %s", told({name: left[name] for name in wanted}))
        return chosen

    def check_sources_left(self, before: Sequence[Any], left: Sequence[Any], option: str) -> None:
        """Refuse a held-out share that loses a source that is to be trained on.

        Args:
            before: all examples.
            left: those that are not held out.
            option: of the share, with its value.

        Raises:
            UserError: a source has none of them.
        """
        wanted = self._wanted(found) if (found := sizes(before)) else ()
        check_none_gone(wanted, left, option)

    def _wanted(self, found: dict[str, int] | None) -> list[str]:
        for option, names in (("keep", self.keep_sources), ("drop", self.drop_sources)):
            for name in names or ():
                if found is None:
                    raise UserError(
                        f"task.{option}_sources={list(names or ())}: the training data name no "
                        "sources"
                    )
                if name not in found:
                    raise UserError(
                        f"task.{option}_sources names {name!r}, which is no source of the training "
                        f"data: they are {_named(found)}{nearest(name, found)}"
                    )
        kept = [
            name
            for name in found or ()
            if (self.keep_sources is None or name in self.keep_sources)
            and name not in (self.drop_sources or ())
        ]
        if found is not None and not kept:
            raise UserError(
                f"task.drop_sources={list(self.drop_sources or ())} leaves nothing to train on: "
                f"the sources are {_named(found)}"
            )
        return kept

    def draw_weights(self, train: Sequence[Any]) -> tuple[float, ...] | None:
        """The weight of each training example by `source_weights`; None for equal ones.

        Raises:
            UserError: the examples have no sources, or the file is none of weights, or not of these
                sources.
        """
        if self.source_weights is None:
            return None
        found = sizes(train)
        if found is None:
            raise UserError(
                f"task.source_weights={self.source_weights}: the training data name no sources"
            )
        if self.source_weights == UNIFORM:
            weights = {name: 1 / size for name, size in found.items()}
        else:
            weights = _in_file(Path(self.source_weights).expanduser(), found)
        return tuple(weights[str(source)] for source in sources_of(train))


def check_none_gone(before: Iterable[str], left: Sequence[Any], option: str) -> None:
    """Refuse a choice of training examples that loses a source.

    Args:
        before: names of the sources.
        left: the examples chosen.
        option: that chose them, with its value.

    Raises:
        UserError: a source has none of them.
    """
    there = sizes(left) or {}
    gone = next((name for name in before if name not in there), None)
    if gone is not None:
        raise UserError(
            f"{option} leaves no row of source {gone!r} to train on: take another number, another "
            "seed, or leave the source out"
        )


def _say_apart(names: Sequence[str], classes: Sequence[int]) -> None:
    """Warn of sources that have no label in common with any other, if one has two or more."""
    having: dict[int, set[str]] = {}
    for name, number in zip(names, classes, strict=True):
        having.setdefault(number, set()).add(name)
    shared = {name for group in having.values() if len(group) > 1 for name in group}
    apart = [name for name in dict.fromkeys(names) if name not in shared]
    sources, pairs = set(names), set(zip(names, classes, strict=True))
    if apart and 1 < len(sources) < len(pairs):
        log.warning(
            "sources: %s %s no label in common with the others: write labels alike if they mean "
            "the same",
            listed(list(map(repr, apart[:SHOWN]))),
            "has" if len(apart) == 1 else "have",
        )


def sizes(examples: Sequence[Any]) -> dict[str, int] | None:
    """Source -> its examples, in the order of their first; None unless every example has one."""
    names = sources_of(examples)
    if not names or None in names:
        return None
    return dict(Counter(str(name) for name in names))


def told(found: dict[str, int]) -> str:
    """Sizes of sources in a line."""
    shown = [f"{' '.join(name.split())} {size}" for name, size in list(found.items())[:SHOWN]]
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"{listed(shown)}{more}"


def _named(found: dict[str, int]) -> str:
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"{listed(list(found)[:SHOWN])}{more}"


def _in_file(path: Path, found: dict[str, int]) -> dict[str, float]:
    if not path.is_file():
        raise UserError(
            f"task.source_weights={path}: there is no such file; it must be source_weights.json of "
            f"a run of method=source_weights, or the word {UNIFORM}"
        )
    weights = json_object(path, needs=["weights"])["weights"]
    right = isinstance(weights, dict) and all(
        type(w) in (int, float) and 0 <= w <= MOST for w in weights.values()
    )
    if not right:
        raise UserError(
            f'task.source_weights={path} must hold {{"weights": {{source: weight}}}}, with numbers '
            f"from 0 to {MOST:g}"
        )
    absent = [name for name in found if name not in weights]
    if absent:
        raise UserError(
            f"task.source_weights={path} has no weight for the source {absent[0]!r}: it has "
            f"{_named(weights)}"
        )
    if not any(weights[name] for name in found):
        raise UserError(
            f"task.source_weights={path} gives every source of the training data the weight 0: "
            "one of them needs more"
        )
    return {name: float(weights[name]) for name in found}

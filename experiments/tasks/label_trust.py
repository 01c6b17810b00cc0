"""Give tasks options of whom to believe: trusted examples, and, for benchmarks, wrong labels."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Lt

from bilevel.errors import UserError
from bilevel.settings import Count, Natural
from experiments.answers import CLASSES, TAGS
from experiments.tasks.examples import TaggedExample
from experiments.tasks.reading.splits import SplitFiles
from experiments.tasks.sources import check_none_gone, sizes
from experiments.tasks.task import Task, TaskData

__all__ = ["LabelTrust", "TrustedFile"]

D = TypeVar("D", bound=TaskData)


@dataclass(frozen=True, kw_only=True)
class LabelTrust(Task):
    """Base of tasks whose training labels may be wrong."""

    trusted: Count | None = None
    """So many of the training examples, in the classes' proportions, become the validation split,
    D_val of methods with method.split=null: their labels are trusted. null: a validation file
    beside the test file is."""
    label_noise: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of the training labels that are made wrong, for benchmarks; never of trusted or tested
    ones. The right ones stay known to experiments.suspects."""
    noise_kind: Literal["symmetric", "one_sided"] = "symmetric"
    """symmetric: of all labels, to any other. one_sided: of the last class's labels, to the one
    before it. Of tags, sentences with an entity, whose types change."""
    noise_seed: Natural = 0
    """Decides which examples are trusted, and which labels are wrong."""

    def with_trust(self, data: D) -> D:
        """The data with their trusted examples apart, and then with wrong labels.

        Raises:
            UserError: there is a validation split already, too little is left, or nothing of this
                kind can be made wrong.
        """
        if not data.train:
            return data
        return self._noisy(self._apart(data))

    def _apart(self, data: D) -> D:
        if self.trusted is None:
            return data
        from bilevel.data import stratified_order

        if data.validation is not None:
            raise UserError(
                f"task.trusted={self.trusted} takes trusted examples out of the training data, and "
                "there is a validation split that is trusted already: leave it at null"
            )
        count = len(data.train)
        if self.trusted >= count:
            raise UserError(
                f"task.trusted={self.trusted} leaves none of the {count} training examples"
            )
        order = stratified_order(count, self.noise_seed, data.stratify(data.train))
        trusted = set(order[: self.trusted])
        train = [e for i, e in enumerate(data.train) if i not in trusted]
        check_none_gone(sizes(data.train) or (), train, f"task.trusted={self.trusted}")
        return replace(
            data,
            train=train,
            validation=[e for i, e in enumerate(data.train) if i in trusted],
        )

    def _noisy(self, data: D) -> D:
        if not self.label_noise:
            return data
        if data.answers.kind not in (CLASSES, TAGS):
            raise UserError(
                f"task.label_noise={self.label_noise:g} is for classes and tags, and task "
                f"{data.name} has neither: 0 is allowed"
            )
        if any(origin.truth is not None for origin in data.origins()):
            raise UserError(
                f"task.label_noise={self.label_noise:g} and a column of true labels do not go "
                "together: the wrong labels are in the data already"
            )
        draw = random.Random(f"label noise {self.noise_seed}")
        tags = data.answers.kind == TAGS
        wrong: _WrongTags | _WrongClasses = _WrongTags(data) if tags else _WrongClasses(data)
        one_sided = self.noise_kind == "one_sided"
        able = [i for i, e in enumerate(data.train) if wrong.able(e, one_sided)]
        changed = set(draw.sample(able, round(self.label_noise * len(able))))
        train = []
        for i, (example, origin) in enumerate(zip(data.train, data.origins(), strict=True)):
            known = example._replace(origin=origin._replace(truth=wrong.said(example)))
            train.append(wrong.made(known, draw, one_sided) if i in changed else known)
        return replace(data, train=train)


@dataclass(frozen=True, kw_only=True)
class TrustedFile(LabelTrust):
    """The same of tasks on the user's own files."""

    trusted_file: str | None = None
    """A file of examples whose labels are trusted, with the training file's columns: the validation
    split, D_val of methods with method.split=null."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trusted_file is not None and self.trusted is not None:
            raise UserError(
                f"task.trusted={self.trusted} and task.trusted_file={self.trusted_file} both say "
                "what is trusted: give one of them"
            )

    def trusted_path(self, validation: object) -> SplitFiles:
        """The trusted file.

        Args:
            validation: the validation split that there is; None without one.

        Raises:
            UserError: there is one, or no such file.
        """
        path = Path(str(self.trusted_file)).expanduser()
        if validation is not None:
            raise UserError(
                f"task.trusted_file={path}: there is a validation file beside the test file that "
                "is trusted already; leave it at null"
            )
        if not path.is_file():
            raise UserError(f"task.trusted_file={path} is no file")
        return SplitFiles([path])


class _WrongClasses:
    """Wrong classes of examples."""

    def __init__(self, data: TaskData) -> None:
        self.count = data.answers.size

    def said(self, example: Any) -> int:
        """Its class."""
        return int(example.label)

    def able(self, example: Any, one_sided: bool) -> bool:
        """Whether its class may be made wrong."""
        return not one_sided or int(example.label) == self.count - 1

    def made(self, example: Any, draw: random.Random, one_sided: bool) -> Any:
        """The example with a wrong class."""
        if one_sided:
            return example._replace(label=self.count - 2)
        others = [label for label in range(self.count) if label != int(example.label)]
        return example._replace(label=draw.choice(others))


class _WrongTags:
    """Wrong types of the entities of a sentence, all of them."""

    def __init__(self, data: TaskData) -> None:
        names: Sequence[str] = data.answers.names or ()
        self.types = sorted({name[2:] for name in names if name[:2] in ("B-", "I-")})
        self.known = set(names)
        if len(self.types) < 2:
            raise UserError(
                f"task.label_noise: the entities of task {data.name} have one type, so it cannot "
                "be made another"
            )

    def said(self, example: TaggedExample) -> tuple[str, ...]:
        """Its tags."""
        return tuple(example.tags)

    def able(self, example: TaggedExample, one_sided: bool) -> bool:
        """Whether it has an entity, of the last type if wrong labels are one-sided."""
        types = {tag[2:] for tag in example.tags if tag != "O"}
        return self.types[-1] in types if one_sided else bool(types)

    def made(self, example: TaggedExample, draw: random.Random, one_sided: bool) -> TaggedExample:
        """The sentence with its entities where they were, of other types."""
        tags: list[str] = []
        kind = ""
        for tag in example.tags:
            if tag.startswith("B-"):
                own = tag[2:]
                others = [name for name in self.types if name != own]
                if one_sided:
                    others = [self.types[-2]] if own == self.types[-1] else [own]
                kind = draw.choice(others)
            # A type that is never continued in the training data has no tag for it.
            new = tag if tag == "O" else f"{tag[:2]}{kind}"
            tags.append(new if new in self.known else f"B-{kind}")
        return example._replace(tags=tuple(tags))

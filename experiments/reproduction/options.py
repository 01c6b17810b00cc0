"""Read the command line of ``python -m experiments.reproduce``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bilevel.errors import UserError, listed, nearest
from experiments.cli import places
from experiments.sweeping.plugins import check_installed

__all__ = ["Options"]

OWN = ("table", "scale", "seeds", "only", "data", "out", "dry_run", "warm_start")
# What may be given without a dot: options of experiments.run. The cell decides the others.
GROUPS = ("model", "hypergradient")
TASK = "{task}"
LAUNCHER = ("hydra/launcher", "hydra.launcher.")


@dataclass(frozen=True)
class Options:
    """What was asked for.

    Attributes:
        smoke: tiny stand-ins instead of the real data and models.
        seeds: None for the entry's own.
        only: lists of patterns; a run must match one of each list.
        data: folder of a task's data, with ``{task}`` where the task's name goes; None: the hub.
        data_dirs: the same of single tasks.
        overrides: options of experiments.run for all runs.
        warm_start: whether MRPC, RTE and STS-B start from MNLI.
        launcher: ``hydra/launcher=NAME`` and its options, for several runs at once; none: a run
            after the other.
    """

    table: str
    smoke: bool = False
    seeds: list[int] | None = None
    only: list[list[str]] = field(default_factory=list)
    data: str | None = None
    data_dirs: dict[str, str] = field(default_factory=dict)
    out: Path = Path("outputs/reproduce")
    dry_run: bool = False
    overrides: dict[str, str] = field(default_factory=dict)
    warm_start: bool = False
    launcher: list[str] = field(default_factory=list)

    @classmethod
    def parse(cls, words: Sequence[str]) -> Options:
        """Read the words.

        Raises:
            UserError: a word that is unknown or not understood.
        """
        own: dict[str, str] = {}
        only: list[list[str]] = []
        data_dirs: dict[str, str] = {}
        overrides: dict[str, str] = {}
        launcher: list[str] = []
        for word in words:
            key, equals, value = word.partition("=")
            if not equals or not value or key.startswith("-"):
                raise UserError(f"cannot read {word!r}: options look like name=value")
            if places.is_place(key):
                value = places.read(value) or value
            if key.startswith(LAUNCHER):
                launcher.append(word)
            elif key == "only":
                only.append(_items(key, value))
            elif key in OWN:
                own[key] = value
            elif key.startswith("data."):
                data_dirs[key.removeprefix("data.")] = value
            elif key in GROUPS or "." in key:
                overrides[key] = _allowed(key, value)
            else:
                raise UserError(
                    f"unknown option {key!r}: allowed are {listed(OWN)}, and options of "
                    f"experiments.run for all runs, like train.max_steps=100{nearest(key, OWN)}"
                )
        if launcher and not any(word.startswith("hydra/launcher=") for word in launcher):
            raise UserError(f"{launcher[0]} is given without hydra/launcher=NAME")
        check_installed(launcher)
        if "table" not in own:
            raise UserError("give table=NAME, or table=list to see the names")
        warm = _one_of("warm_start", own.get("warm_start", "none"), ("none", "mnli")) == "mnli"
        if warm and "model.warm_start" in overrides:
            raise UserError("warm_start=mnli and model.warm_start are both given: give one of them")
        smoke = _one_of("scale", own.get("scale", "full"), ("full", "smoke")) == "smoke"
        return cls(
            table=own["table"],
            smoke=smoke,
            seeds=_numbers(own["seeds"]) if "seeds" in own else None,
            only=only,
            data=_pattern(own["data"]) if "data" in own else None,
            data_dirs=data_dirs,
            out=Path(own.get("out", "outputs/reproduce_smoke" if smoke else "outputs/reproduce")),
            dry_run=_one_of("dry_run", own.get("dry_run", "false"), ("true", "false")) == "true",
            overrides=overrides,
            warm_start=warm,
            launcher=launcher,
        )

    def data_dir(self, task: str) -> str | None:
        """Where a task's data is; None for the hub."""
        if task in self.data_dirs:
            return self.data_dirs[task]
        return None if self.data is None else self.data.replace(TASK, task)


def _pattern(folder: str) -> str:
    return folder if TASK in folder else f"{folder.rstrip('/')}/{TASK}"


def _items(key: str, value: str) -> list[str]:
    items = [item.strip() for item in value.split(",") if item.strip()]
    if not items:
        raise UserError(f"{key}={value}: give one name or several, with commas between")
    return items


def _numbers(value: str) -> list[int]:
    items = _items("seeds", value)
    if not all(item.isdecimal() for item in items):
        raise UserError(f"seeds={value}: give whole numbers with commas between, like seeds=0,1,2")
    return list(dict.fromkeys(int(item) for item in items))


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise UserError(f"{key}={value}: allowed are {listed(allowed)}")
    return value


def _allowed(key: str, value: str) -> str:
    if key == "task.data_dir":
        raise UserError("task.data_dir differs from task to task: give data=DIR or data.TASK=DIR")
    if key.startswith("hydra.") or key == "run.resume":
        raise UserError(f"{key} is decided by the table: give out=DIR for another place")
    return value

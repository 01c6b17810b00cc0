"""Read a finished run back: its configuration, its task and its base model."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from bilevel.checkpoint.sums import check_sums
from bilevel.errors import UserError
from bilevel.settings import from_values
from experiments.cli import places
from experiments.cli.command_line import CommandLine
from experiments.config import stored
from experiments.config.composition import compose_config
from experiments.config.instantiate import build, user_modules
from experiments.config.saved_words import TRUST
from experiments.config.schema import Root
from experiments.models.spec import ModelSpec
from experiments.results import record
from experiments.results.labels import matched
from experiments.results.links import refuse_links
from experiments.tasks.task import Task, TaskData

if TYPE_CHECKING:
    from experiments.models.pretrained import LoadedModel

__all__ = ["SavedRun", "take"]

log = logging.getLogger(__name__)

ADAPTER = "adapter"  # the folder of what was saved, unless it is a whole model
SHARES = ("holdout", "test_share")  # options of tasks that part one file


@dataclass(frozen=True)
class SavedRun:
    """A finished run.

    Attributes:
        folder: where it is.
        config: its configuration, with the overrides given now.
        result: what its result.json says.
        modules: top-level modules of the user's own that it may name.
        other_data: the data given now are not those that it was trained on.
    """

    folder: Path
    config: DictConfig
    result: dict[str, Any]
    modules: list[str]
    other_data: bool = False

    @classmethod
    def open(cls, folder: str | None, line: CommandLine, overrides: Sequence[str]) -> SavedRun:
        """Read the run in ``folder`` and change its configuration.

        Args:
            folder: a run's folder; None is told as a mistake.
            line: the command line, for the user's own configuration folder.
            overrides: ``task=OPTION`` and ``GROUP.KEY=VALUE`` words.

        Raises:
            UserError: no finished run is there, or an override has no place in it.
        """
        if folder is None:
            raise UserError("say which run: run=DIR, the folder that holds its result.json")
        path = Path(folder)
        values = record.read(path)
        if values is None:
            raise UserError(
                f"run={path}: there is no finished run, result.json is missing{_instead(path)}"
            )
        refuse_links(path)
        for word in overrides:
            key, equals, _ = word.partition("=")
            if not equals or not key:
                raise UserError(f"cannot read the option {word!r}: options look like name=value")
            if key == "model":
                raise UserError(
                    f"{word}: the run's adapter belongs to its own base model; "
                    "model.pretrained=FOLDER says where that is now"
                )
        keys = {word.partition("=")[0] for word in overrides}
        config = OmegaConf.create(_configuration(path, keys))
        OmegaConf.set_struct(config, True)
        for word in overrides:
            key = word.partition("=")[0]
            if key == "task":
                config.task = compose_config([word], line.config_dir).task
                OmegaConf.set_struct(config, True)
            else:
                # update refuses keys that are not there
                OmegaConf.update(config, key, places.value(word), merge=True)
        seed = OmegaConf.to_container(config)["seed"]  # type: ignore[index,call-overload]
        config.seed = from_values(Root, {"seed": seed}, "").seed
        modules = user_modules([line.config_dir] if line.config_dir else [])
        return cls(path, config, values, modules, _is_other(path, config.task, keys))

    def task(self) -> TaskData:
        """The task's data, its labels numbered as the run's model puts them out.

        Raises:
            UserError: the data cannot be had, or it has labels that the run was not trained for.
        """
        task = self.task_options()
        if self.other_data and (whole := task.scored_whole()) != task:
            share = next(name for name in SHARES if name in self.config.task)
            log.warning(
                "task.data_dir=%s is not what the run was trained on: all of it is scored; say "
                "task.%s=%s again if it is, in another place, for the share that was held out",
                *(self.config.task.data_dir, share, self.config.task[share]),
            )
            task = whole
        data = task.to_score(self.result.get("labels"))
        return matched(data, self.result, str(self.folder))

    def task_options(self) -> Task:
        """The task's options alone; no data are read.

        Raises:
            UserError: they are not what a task takes.
        """
        kind: Any = Task
        return build(self.config.task, "task", kind, self.modules)

    def to_predict(self) -> TaskData:
        """The task without examples, its labels numbered as the run's model puts them out.

        Raises:
            UserError: as :meth:`task`.
        """
        data = self.task_options().to_predict(self.result.get("labels"))
        return matched(data, self.result, str(self.folder))

    def spec(self) -> ModelSpec:
        """What the base model is, and where.

        Raises:
            UserError: the run's own copy is damaged, names code to run, or is missing.
        """
        model = self.config.model
        own = self.folder / record.BASE
        started = self.result.get("warm_start") or model.get("warm_start")
        saved = Path(str(self.result.get("adapter_dir"))).name
        if started and saved == ADAPTER and not own.is_dir():
            # On the pretrained model it would be another function, and nothing would tell.
            raise UserError(
                f"run={self.folder}: its adapter belongs to the weights that the run began with, "
                f"and {own}, which is to hold them, is missing: put it there (for a folder of "
                "experiments.suspects, a copy of its run's)"
            )
        if own.is_dir():  # the run was started from another, and kept the weights it began with
            from experiments.results import saved_model  # torch, for good words only

            check_sums(own)
            saved_model.refuse_code(own)
            changes = {"warm_start": None, "package": None, "pretrained": str(own)}
            known = {key: value for key, value in changes.items() if key in model or value}
            model = OmegaConf.merge(OmegaConf.create(OmegaConf.to_container(model)), known)
        return build(model, "model", ModelSpec, self.modules)

    def base(self, task: TaskData) -> LoadedModel:
        """The base model with an untrained head, and its tokenizer.

        Raises:
            UserError: as :meth:`spec`, or it cannot be loaded.
        """
        return self.spec().load(task.answers, int(self.config.seed))


def _instead(folder: Path) -> str:
    """What was perhaps meant by a folder that is no run."""
    # a folder called .. has a parent of another name
    above, last = Path(os.path.abspath(folder)).parent, Path(os.path.abspath(folder)).name
    if (above / record.FILE).is_file():
        return f": {last} is a part of the run {above}, run={above}"
    if (folder / "adapter_config.json").is_file() or (folder / "config.json").is_file():
        return ": it is a model alone, whose card (README.md) has the lines that ask it"
    runs = sorted(p.parent for p in folder.glob(f"*/{record.FILE}")) if folder.is_dir() else []
    if runs:
        return f": it holds {len(runs)} of them, as a sweep's folder does; give one, run={runs[0]}"
    return ""


def _is_other(folder: Path, task: DictConfig, given: Collection[str]) -> bool:
    """Whether other data are given now than the run's own, and nothing about a share of them."""
    said = {"task", *(f"task.{name}" for name in SHARES)} & set(given)
    if "task.data_dir" not in given or said or not task.data_dir:
        return False
    own = str(stored.configuration(folder)[1]["task"].get("data_dir"))
    if stored.is_followed(own):  # it had to be given anew, and is the run's own
        return False
    there, here = (os.path.realpath(os.path.expanduser(str(p))) for p in (own, task.data_dir))
    return there != here


def take(
    overrides: Sequence[str], **defaults: str | None
) -> tuple[dict[str, str | None], list[str]]:
    """Take a program's own ``name=value`` words out of those for the configuration."""
    own, rest = dict(defaults), []
    for word in overrides:
        key, equals, value = word.partition("=")
        if equals and key in defaults:
            own[key] = places.read(value) if places.is_place(key) else value
        else:
            rest.append(word)
    return own, rest


def _configuration(folder: Path, given: Collection[str]) -> dict[str, Any]:
    """What a run's folder says of its data and its model.

    Args:
        folder: the run's.
        given: keys that are given now.
    """
    path, found = stored.configuration(folder)
    if path.name != "config.yaml" and "task" not in found:
        raise UserError(
            f"run={folder} was made from Python, and its folder does not hold its model and data: "
            "finetune(..., folder=..., resume=True) gives back what it found, without training"
        )
    for name in ("task", "model", "seed"):
        if name not in found:
            raise UserError(f"{path} is damaged: it has no {name!r}")
    for name in ("task", "model"):
        if not isinstance(found[name], dict):
            raise UserError(f"{path} is damaged: {name!r} is no group of options")
    used = {name: found[name] for name in ("task", "model")}
    used = {**stored.checked(used, path, given), "seed": found["seed"]}
    seed = from_values(Root, {"seed": used["seed"]}, "").seed
    # A folder must not be able to allow that its model's own code is run.
    said = dict(used["model"])
    if said.pop(TRUST, False) or f"model.{TRUST}" in given:
        said[TRUST] = False
    return {**used, "model": said, "seed": seed}

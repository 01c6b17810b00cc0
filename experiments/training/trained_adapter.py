"""Load a trained LoRA adapter with its base model, and the examples that it never trained on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from peft import PeftConfig, PeftModel
from torch import Tensor

from bilevel import distributed
from bilevel.cutting import Losses
from bilevel.errors import UserError, listed
from bilevel.lowrank.adapter_files import check_files, check_weights
from bilevel.lowrank.export import COMPACT, plain_config
from bilevel.lowrank.plain_file import check_plain
from bilevel.reading import json_object
from experiments.answers import CLASSES, NUMBER, TAGS, TEXT, Answers
from experiments.artefacts.artefact import Artefact
from experiments.config.composition import compose_config
from experiments.config.instantiate import build, user_modules
from experiments.models.base_reference import BaseReference
from experiments.models.pretrained import LoadedModel
from experiments.models.spec import ModelSpec
from experiments.results import record, saved_model
from experiments.results.finished_run import SavedRun
from experiments.results.labels import matched
from experiments.tasks.loading import load_data
from experiments.tasks.task import Task, TaskData
from experiments.training import trained_rows
from experiments.training.scoring import example_losses
from experiments.training.singular_log import is_plain_lora
from experiments.training.untrained import ASK, Untrained, untrained, why_none
from problems.common.same_examples import unseen

__all__ = ["TOLD", "Trained", "of_folder", "of_run"]

log = logging.getLogger(__name__)

ADAPTER_CONFIG = "adapter_config.json"
NO_FILE = "the task has no validation file beside a test"
NO_TASK = "nothing is known of the adapter's data: give task=... with a file validation"
TOLD = "or say how much is to stay, budget=0.25, parameters=N or rank=R"


@dataclass(frozen=True)
class Trained:
    """An adapter to cut, and what is known of it.

    Attributes:
        model: with plain LoRA, on its device, in evaluation mode.
        loaded: the base model's tokenizer and head.
        answers: what it puts out.
        task: its data; None where nothing but the adapter is known.
        held_out: examples that the weights never trained on.
        title: what it is, for people.
        base: where its base model can be had.
        dtype: of the base model's weights.
        run: the folder of the run; None of an adapter alone.
        result: what the run's result.json says; empty of an adapter alone.
    """

    model: PeftModel
    loaded: LoadedModel
    answers: Answers
    task: TaskData | None
    held_out: Untrained
    title: str
    base: BaseReference
    dtype: str = "float32"
    run: Path | None = None
    result: Mapping[str, Any] = field(default_factory=dict)

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """A padded batch of held-out examples."""
        assert self.task is not None
        return self.task.collator(self.loaded.tokenizer)(rows)

    def artefact(self) -> Artefact:
        """What goes with the weights where they are saved."""
        return Artefact.of(
            *(self.task, self.answers, self.loaded.tokenizer, self.model.config),
            *(self.base, self.dtype, self.loaded.head_replaced),
        )

    def losses(self, rows: list[dict[str, Any]]) -> Losses:
        """Of the model as it is, on these examples."""
        assert self.task is not None
        return example_losses(self.model, self.task, rows, self.collate)


def of_run(run: SavedRun, overrides: Sequence[str], examples: bool = False) -> Trained:
    """The adapter of a finished run.

    Args:
        run: which.
        overrides: ``task.KEY=VALUE`` words given now, after which other data are read.
        examples: held-out ones are needed: without any no model is loaded.

    Raises:
        UserError: the run did not end in LoRA, or its data or model cannot be had.
    """
    folder = run.folder / COMPACT
    if not folder.is_dir():
        raise UserError(
            f"run={run.folder}: {run.result['method']} leaves no LoRA adapter to cut; what it left "
            f"is in {run.result['adapter_dir']}"
        )
    _plain_options(folder, f"run={run.folder}")
    changed = any(word.partition("=")[0].partition(".")[0] == "task" for word in overrides)
    kept = run.result.get("validation") or {}
    if kept.get("source") == "training" and not changed:  # which is found in the training data
        kind: Any = Task
        data = load_data(build(run.config.task, "task", kind, run.modules))
        task = matched(data, run.result, str(run.folder))
    else:
        task = run.task()
    why = why_none(run, task, changed) if examples else None
    if why is not None:
        raise UserError(f"{why}; {TOLD}")
    loaded = run.base(task)
    return Trained(
        _plain(folder, loaded),
        loaded,
        task.answers,
        task,
        untrained(run, task, loaded, changed),
        f"{run.result['method']} on {task.name}, {run.result['model']}, seed {run.result['seed']}",
        (spec := run.spec()).reference(),
        spec.dtype,
        run.folder,
        run.result,
    )


def of_folder(
    folder: Path, overrides: Sequence[str], config_dir: str | None, examples: bool = False
) -> Trained:
    """Anybody's adapter on the model that is named with it.

    Args:
        folder: with adapter_config.json and adapter_model.safetensors.
        overrides: ``model...`` words, and ``task...`` words where there are data.
        config_dir: the user's own configuration folder.
        examples: held-out ones are needed: without any no model is loaded.

    Raises:
        UserError: there is no plain LoRA adapter, or it cannot be told what it puts out.
    """
    if not folder.is_dir():
        raise UserError(
            f"adapter={folder}: there is no such folder (an adapter of the hub is downloaded first)"
        )
    if record.read(folder) is not None:
        raise UserError(f"adapter={folder}: this is a run's folder, say run={folder}")
    options = _plain_options(folder, f"adapter={folder}")
    keys = [word.partition("=")[0] for word in overrides]
    if not any(key.partition(".")[0] == "model" for key in keys):
        raise UserError(
            f"adapter={folder}: say the model it belongs to, model.pretrained=ID_OR_FOLDER "
            f"(its {ADAPTER_CONFIG} says {options.get('base_model_name_or_path')})"
        )
    words = [*overrides, *(["model=hub"] if "model" not in keys else [])]
    config = compose_config(words, config_dir)
    OmegaConf.resolve(config.model)
    modules = user_modules([config_dir] if config_dir else [])
    kind: Any = Task
    with_data = any(key.partition(".")[0] == "task" for key in keys)
    task: TaskData | None = None
    if examples and not with_data:
        raise UserError(f"{NO_TASK}, {TOLD}")
    if with_data:
        task = _numbered(load_data(build(config.task, "task", kind, modules)), folder)
    if examples and task is not None and not task.validation:
        raise UserError(f"{NO_FILE}: {ASK}; {TOLD}")
    answers = _answers(folder, options) if task is None else task.answers
    spec: ModelSpec = build(config.model, "model", ModelSpec, modules)
    loaded = spec.load(answers, 0)
    held = Untrained((), NO_TASK)
    if task is not None:
        rows = loaded.tokenise(task, task.validation) if task.validation else []
        held = _of_file(folder, rows) if rows else Untrained((), f"{NO_FILE}: {ASK}")
    return Trained(
        _plain(folder, loaded),
        *(loaded, answers, task, held, str(folder), spec.reference(), spec.dtype),
    )


def _of_file(folder: Path, rows: list[dict[str, Any]]) -> Untrained:
    """The validation file; without what the run that the adapter lies in was trained on."""
    files = (record.FILE, trained_rows.FILE)
    above = [
        run for run in folder.absolute().parents[:2] if all((run / f).is_file() for f in files)
    ]
    known = trained_rows.read(above[0]) if above else None
    if known is None:
        return Untrained(
            rows, "the validation file, which the adapter is taken not to have been trained on"
        )
    new = unseen(rows, known)
    if not new:
        where = above[0] / trained_rows.FILE
        return Untrained(
            (),
            f"all {len(rows)} examples of the validation file were trained on, says {where}: {ASK}",
        )
    gone = len(rows) - len(new)
    but = f", but for {gone} that the run it lies in was trained on" if gone else ""
    return Untrained(new, f"the validation file{but}")


def _numbered(task: TaskData, folder: Path) -> TaskData:
    """The data with their classes numbered as the adapter's labels.json says, by their names.

    Raises:
        UserError: the data have another class.
    """
    ours, theirs = task.answers.names, _names(folder)
    if ours is None or ours == theirs:
        return task
    if theirs is None:
        log.warning(
            "adapter=%s does not say what its outputs are called (%s): they are taken for %s, in "
            "this order, as the data have them",
            *(folder, saved_model.LABELS, listed(ours)),
        )
        return task
    if strange := [name for name in ours if name not in theirs]:
        raise UserError(
            f"adapter={folder} puts out the labels {listed(theirs)} ({saved_model.LABELS}), and "
            f"task {task.name} has {listed(strange)}: labels are matched by their names"
        )
    return task.renumbered(theirs)


def _names(folder: Path) -> tuple[str, ...] | None:
    """What an adapter's outputs are called; None where nobody has given them names."""
    names = saved_model.named_labels(folder)
    nobody = names == tuple(f"LABEL_{i}" for i in range(len(names or ())))  # of transformers
    return None if nobody else names


def _plain_options(folder: Path, given: str) -> dict[str, Any]:
    """The configuration of an adapter that is plain LoRA on an untouched base, as far as it says.

    Raises:
        UserError: it is of another kind, or holds what is not read of a stranger's folder.
    """
    options = json_object(folder / ADAPTER_CONFIG)
    others = {"bottleneck_type": "BOTTLENECK", "probe_pooling": "linear probe"}
    found = [name for key, name in others.items() if key in options]
    kind = found[0] if found else options.get("peft_type")
    if kind != "LORA" or options.get("use_dora"):
        said = "DoRA" if kind == "LORA" else kind
        raise UserError(f"{given}: this adapter is of kind {said}, and only plain LoRA can be cut")
    checked, _ = check_files(folder)
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (ValueError, TypeError, LookupError) as error:
        raise UserError(f"{folder / ADAPTER_CONFIG} is damaged: {error}") from error
    try:
        plain_config(config)
    except UserError as error:
        raise UserError(f"{given}: {error}") from error
    check_plain(checked, folder)
    return checked


def _plain(folder: Path, loaded: LoadedModel) -> PeftModel:
    model = saved_model.load(folder, loaded.model)
    if not isinstance(model, PeftModel) or not is_plain_lora(model):
        raise UserError(f"{folder} holds no plain LoRA adapter, and only its ranks can be cut")
    return model.to(distributed.setup().device).eval()


def _answers(folder: Path, options: dict[str, Any]) -> Answers:
    """What an adapter's model puts out, by its configuration and the size of its head."""
    kind = options.get("task_type")
    if kind in ("CAUSAL_LM", "SEQ_2_SEQ_LM"):
        return Answers(TEXT, 0)
    shapes = [
        shape
        for name, shape in check_weights(folder).items()
        if name.endswith(".weight") and ".lora_" not in name and len(shape) == 2
    ]
    if kind not in ("SEQ_CLS", "TOKEN_CLS") or not shapes:
        known = listed(("SEQ_CLS", "TOKEN_CLS", "CAUSAL_LM", "SEQ_2_SEQ_LM"))
        raise UserError(
            f"adapter={folder}: what its model puts out cannot be told (task_type={kind}, known "
            f"are {known}; a class needs the head beside the adapter): give task=..."
        )
    size = min(shape[0] for shape in shapes)
    names = _names(folder)
    if names is None or len(names) != size:
        names = tuple(f"LABEL_{i}" for i in range(size))
    if kind == "TOKEN_CLS":
        return Answers(TAGS, size, names)
    return Answers(NUMBER, 1) if size == 1 else Answers(CLASSES, size, names)

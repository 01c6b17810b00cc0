"""Start from a model fine-tuned on another task: the papers' MNLI start of MRPC, RTE and STS-B.

``model.warm_start=DIR`` names a finished run of the same model. What it learned is merged into the
pretrained weights; its head is left behind. (LoRA's code goes on training the very factors of the
MNLI run instead; the function that training starts from is the same, and any method can follow.)
An adapter trained from there fits these weights only, so they are saved beside it, in ``base``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilevel.errors import UserError
from bilevel.reading import json_object
from experiments.answers import CLASSES, NUMBER, Answers
from experiments.config import stored
from experiments.models.base_reference import BaseReference, of_folder
from experiments.models.folder_digest import folder_digest
from experiments.results import record

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from experiments.models.pretrained import LoadedModel
    from experiments.models.spec import ModelSpec

__all__ = ["answers_of", "check", "described", "load", "read_run", "save_base", "take_over"]


def check(spec: ModelSpec) -> None:
    """Refuse a run that the model cannot start from, before anything is loaded.

    Raises:
        UserError: as :func:`read_run`.
    """
    if spec.warm_start is not None:
        read_run(spec.warm_start, spec.title)


def load(spec: ModelSpec, answers: Answers, seed: int) -> LoadedModel:
    """Load a model, with the backbone of the run that it is to start from.

    Args:
        spec: which model, and the run.
        answers: what it is to put out.
        seed: decides the new head's weights; the global random state is left alone.

    Raises:
        UserError: the model cannot be loaded, or cannot start from that run.
    """
    import torch

    from experiments.models.loading import quietly

    loaded = spec.load(answers, seed)
    if spec.warm_start is not None:
        values = read_run(spec.warm_start, spec.title)
        with torch.random.fork_rng(devices=[]), quietly():
            start = replace(spec, warm_start=None).load(answers_of(values), 0).model
            with torch.no_grad():
                take_over(loaded.model, start, spec.warm_start, values)
    return loaded


def read_run(folder: str, model: str) -> dict[str, Any]:
    """What result.json of the run to start from says.

    Args:
        folder: of the run.
        model: the name of the model that is to start from it.

    Raises:
        UserError: there is no finished run, or one of another model, of a task that is no
            classification or regression, or one that was itself started from another.
    """
    values = record.read(Path(folder).expanduser())
    if values is None:
        raise UserError(f"model.warm_start={folder}: there is no finished run (no result.json)")
    if "program" in values:  # those of other programs have a form of their own
        raise UserError(
            f"model.warm_start={folder} is a result of experiments.{values['program']}, no run"
        )
    if values["model"] != model and not _moved(values, Path(folder).expanduser(), Path(model)):
        raise UserError(
            f"model.warm_start={folder} is a run of model {values['model']}, this one is of {model}"
        )
    if values.get("warm_start"):
        raise UserError(f"model.warm_start={folder} was itself started from another run")
    if values.get("kind", CLASSES) not in (CLASSES, NUMBER):
        raise UserError(f"model.warm_start={folder}: {values['task']} is no task with labels")
    return values


def _moved(values: dict[str, Any], folder: Path, model: Path) -> bool:
    """Whether a local model is the one that a run was of, in another place or in other words.

    Args:
        values: of the run's result.json.
        folder: of the run, whose journal may have the checksum of what it began with.
        model: where the model is now; a hub id is no folder.
    """
    said = (values.get("configuration") or {}).get("model")
    before = said.get("pretrained") if isinstance(said, dict) else None
    model = model.expanduser()
    if not isinstance(before, str) or not model.is_dir():
        return False
    there = Path(before).expanduser()
    if there.is_dir() and there.samefile(model):
        return True
    journal = folder / stored.JOURNAL
    data = json_object(journal).get("data") if journal.is_file() else None
    known = data.get("model.pretrained") if isinstance(data, dict) else None
    if known is None:  # an older run
        return False
    return known == folder_digest(model)


def answers_of(values: dict[str, Any]) -> Answers:
    """What the run's model puts out."""
    names = values["labels"]
    return Answers(NUMBER, 1) if names is None else Answers(CLASSES, len(names), tuple(names))


def described(spec: ModelSpec, model: str) -> dict[str, Any] | None:
    """What a result says of the run that its model was started from; None for pretrained ones.

    Args:
        spec: the model.
        model: its name in results.
    """
    if spec.warm_start is None:
        return None
    values = read_run(spec.warm_start, model)
    kept = {key: values[key] for key in ("method", "task", "seed", "metrics")}
    return {"run": spec.warm_start, **kept}


def take_over(
    model: PreTrainedModel, base: PreTrainedModel, folder: str, values: dict[str, Any]
) -> None:
    """Give ``model`` the backbone that a run left; its head stays new.

    Args:
        model: pretrained, changed in place.
        base: the model as that run was handed it; used up.
        folder: of the run.
        values: of its result.json.

    Raises:
        UserError: what the run left is apart from the weights (prompts, bottleneck adapters).
    """
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

    from experiments.results import saved_model

    saved = record.saved_folder(values, Path(folder).expanduser())
    tuned = saved_model.load(saved, base)
    if isinstance(tuned, PeftModel):
        if not isinstance(tuned.peft_config["default"], LoraConfig):  # AdaLoRA's is one too
            raise UserError(
                f"model.warm_start={folder}: {values['method']} leaves nothing that can be merged "
                "into the weights, take a run of LoRA's kind or of full fine-tuning"
            )
        tuned = tuned.merge_and_unload()
    if not isinstance(tuned, PreTrainedModel):
        raise UserError(
            f"model.warm_start={folder}: {values['method']} leaves parts outside the weights, "
            "take a run of LoRA's kind or of full fine-tuning"
        )
    wanted = model.base_model.state_dict().keys()
    found = {k: v for k, v in tuned.base_model.state_dict().items() if k in wanted}
    model.base_model.load_state_dict(found)  # without a pooler, where tags are wanted


def save_base(model: PreTrainedModel, tokenizer: Any, folder: Path) -> BaseReference:
    """Write the weights that an adapter belongs to; returns where they are, for the adapter.

    Args:
        model: as the method was handed it.
        tokenizer: of the model.
        folder: the run's.
    """
    from bilevel.checkpoint.disk import told_when_full

    out = folder / record.BASE
    with told_when_full(out):
        model.save_pretrained(str(out))
        tokenizer.save_pretrained(str(out))
    return of_folder(out)

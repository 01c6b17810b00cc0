"""Put LoRA into a model, and hold a rank against the layers that are to have it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from bilevel.errors import UserError
from bilevel.lowrank.fused import built_of_conv1d
from problems.common.method import Job
from problems.common.peft_options import PeftOptions
from problems.common.starts import started

__all__ = ["add_lora", "check_rank", "peft_head", "with_lora"]


def check_rank(
    model: PreTrainedModel, targets: Sequence[str], rank: int, said: str = "rank"
) -> None:
    """Raise UserError when a low-rank update of ``rank`` would exceed the size of a target.

    Args:
        model: with the targets.
        targets: names of layers.
        rank: of the update.
        said: what it is called in the message, which says where it was given.
    """
    for name in targets:
        layer: Any = model.get_submodule(name)
        conv = isinstance(layer, Conv1D)
        # not the weight's shape: a quantised layer's is packed
        smaller = min((layer.nx, layer.nf) if conv else (layer.in_features, layer.out_features))
        if not 1 <= rank <= smaller:
            raise UserError(
                f"{said} {rank} is not between 1 and {smaller}, the size of layer {name}"
            )


def add_lora(
    job: Job,
    model: PreTrainedModel,
    peft: PeftOptions | None = None,
    rows: Sequence[dict[str, Any]] | None = None,
    **options: Any,
) -> PeftModel:
    """Inject LoRA into the job's target modules (or those in ``options``), head trainable.

    Args:
        job: tells the head and the target modules.
        model: which.
        peft: where the factors start; None for PEFT's own start. The scale is in ``options``.
        rows: the examples that are trained on, where not all of the training data are.
        **options: of ``LoraConfig``.
    """
    options.setdefault("target_modules", job.target_modules)
    options.setdefault("fan_in_fan_out", built_of_conv1d(model))
    if peft is None:
        return get_peft_model(model, LoraConfig(**peft_head(job), **options))
    config = LoraConfig(**peft_head(job), **options, **peft.start())
    return started(get_peft_model(model, config), job, peft, rows)


def with_lora(
    job: Job,
    rank: int,
    alpha: float,
    dropout: float,
    peft: PeftOptions | None = None,
    rows: Sequence[dict[str, Any]] | None = None,
    **options: Any,
) -> PeftModel:
    """The job's pretrained model with LoRA of this size, injected by :func:`add_lora`.

    Args:
        job: with the model.
        rank, alpha, dropout: of every layer's update.
        peft: its scale, and where it starts; None for PEFT's own.
        rows: the examples that are trained on, where not all of the training data are.
        **options: of ``LoraConfig``.
    """
    sizes: dict[str, Any] = {"r": rank, "lora_alpha": alpha, "lora_dropout": dropout}
    if peft is not None:
        sizes["use_rslora"] = peft.use_rslora
    return add_lora(job, job.build_model(), peft, rows, **sizes, **options)


def peft_head(job: Job) -> dict[str, Any]:
    """``PeftConfig`` options by which PEFT trains and saves the head in full."""
    # A copy: PEFT appends its own guesses to the list.
    return {
        "task_type": job.task_type,
        "modules_to_save": list(job.head_modules) or None,
    }

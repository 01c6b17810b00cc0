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

__all__ = ["add_lora", "check_rank", "peft_head", "with_lora"]


def check_rank(model: PreTrainedModel, targets: Sequence[str], rank: int) -> None:
    """Raise UserError when a low-rank update of ``rank`` would exceed the size of a target."""
    for name in targets:
        layer: Any = model.get_submodule(name)
        conv = isinstance(layer, Conv1D)
        # not the weight's shape: a quantised layer's is packed
        smaller = min((layer.nx, layer.nf) if conv else (layer.in_features, layer.out_features))
        if not 1 <= rank <= smaller:
            raise UserError(f"rank {rank} is not between 1 and {smaller}, the size of layer {name}")


def add_lora(job: Job, model: PreTrainedModel, **options: Any) -> PeftModel:
    """Inject LoRA into the job's target modules (or those in ``options``), head trainable."""
    options.setdefault("target_modules", job.target_modules)
    options.setdefault("fan_in_fan_out", built_of_conv1d(model))
    return get_peft_model(model, LoraConfig(**peft_head(job), **options))


def with_lora(job: Job, rank: int, alpha: float, dropout: float, **options: Any) -> PeftModel:
    """The job's pretrained model with LoRA of this size, injected by :func:`add_lora`."""
    sizes = {"r": rank, "lora_alpha": alpha, "lora_dropout": dropout}
    return add_lora(job, job.build_model(), **sizes, **options)


def peft_head(job: Job) -> dict[str, Any]:
    """``PeftConfig`` options by which PEFT trains and saves the head in full."""
    # A copy: PEFT appends its own guesses to the list.
    return {
        "task_type": job.task_type,
        "modules_to_save": list(job.head_modules) or None,
    }

"""Run each kind of attention: a decoder's loss beside eager's, and two-level steps with it."""

from __future__ import annotations

import importlib.util
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.job import RandomJob, engine_of, first_training
from benchmarks.gpu.models import SMALL, causal
from benchmarks.gpu.rows import Failed, Row, Setting, Skipped
from bilevel.hypergradient import FiniteDifference, Hypergradient, Unrolled
from problems import AutoLoRA

__all__ = ["rows"]

KERNELS = {
    "sdpa, math": SDPBackend.MATH,
    "sdpa, flash": SDPBackend.FLASH_ATTENTION,
    "sdpa, memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa, cudnn": SDPBackend.CUDNN_ATTENTION,
}
# What torch says of a kernel that is not for this device, dtype or shape.
NO_KERNEL = ("No available kernel", "No viable backend")
STEPS = 3
NEAR_EAGER = 2e-2  # of the loss, in bf16


def rows(setting: Setting) -> dict[str, Row]:
    """Eager, sdpa as torch chooses, each of its kernels alone, and the flash packages."""
    dtype = torch.bfloat16 if setting.on_gpu else torch.float32

    def loss_and_step(attention: str, kernel: SDPBackend | None) -> dict[str, Any]:
        def chosen() -> AbstractContextManager[Any]:
            return nullcontext() if kernel is None else sdpa_kernel(kernel)

        def job(estimator: Hypergradient) -> RandomJob:
            return RandomJob(
                lambda: causal(SMALL, setting.device, dtype, attention),
                *(setting.device, SMALL),
                length=64,
                batch_size=4,
                hypergradient=estimator,
                precision="bf16" if setting.on_gpu else "fp32",
            )

        ids = torch.arange(128, device=setting.device).reshape(2, 64)
        losses = {}
        for name, context in (("eager", nullcontext()), (attention, chosen())):
            with torch.no_grad(), context:
                model = causal(SMALL, setting.device, dtype, name)
                losses[name] = float(model(input_ids=ids, labels=ids).loss)
        values = {"loss": losses[attention], "eager": losses["eager"]}
        if not abs(values["loss"] - values["eager"]) <= NEAR_EAGER * values["eager"]:
            raise Failed("the loss is not eager's", values)
        # First-order passes by the kernel; unrolled takes torch's math kernel by itself, or says
        # that it differentiates by differences.
        for estimator in (FiniteDifference(), Unrolled()):
            engine = engine_of(first_training(AutoLoRA(), job(estimator)), setting.device)
            with chosen():
                for _ in range(STEPS):
                    engine.train_step()
            upper = engine.problems[1]
            moved = upper.module.logits.detach()
            if not (torch.isfinite(moved).all() and moved.any()):
                raise Failed(f"{estimator.name} gave no step of the upper level", values)
        return values

    def row(attention: str, kernel: SDPBackend | None = None, package: str | None = None) -> Row:
        def figures() -> dict[str, Any]:
            if package is not None and importlib.util.find_spec(package) is None:
                raise Skipped(f"the package {package} is not installed")
            if package is not None and not setting.on_gpu:
                raise Skipped("its kernels are for GPUs")
            try:
                return loss_and_step(attention, kernel)
            except RuntimeError as error:
                if kernel is not None and any(words in str(error) for words in NO_KERNEL):
                    raise Skipped("torch has no such kernel for this device and dtype") from error
                raise

        return figures

    return {
        "eager": row("eager"),
        "sdpa": row("sdpa"),
        **{name: row("sdpa", kernel) for name, kernel in KERNELS.items()},
        "flash_attention_2": row("flash_attention_2", package="flash_attn"),
        "flash_attention_3": row("flash_attention_3", package="flash_attn_interface"),
    }

"""Name the methods whose steps are looked at, and make the engine of each on a decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu.job import RandomJob, engine_of, first_training
from benchmarks.gpu.models import causal
from bilevel import BilevelEngine
from bilevel.hypergradient import Hypergradient
from problems import (
    AutoLoRA,
    AutoLoRASingular,
    BiDoRA,
    BiLoRA,
    ExampleWeights,
    LearnedSettings,
    LoRA,
    Method,
    SaLoRABilevel,
    SourceWeights,
)

__all__ = ["PLAIN", "TWO_LEVELS", "method_engine"]

PLAIN = LoRA()
# T1 = T2 = 1 in all, so that their steps can be compared.
TWO_LEVELS: dict[str, Method] = {
    "autolora": AutoLoRA(),
    "autolora_singular": AutoLoRASingular(),
    "bilora": BiLoRA(),
    "bidora": BiDoRA(),
    "salora_bilevel": SaLoRABilevel(start=0.0, end=1.0),  # its gates learn in a window
    "learned_settings": LearnedSettings(unroll_steps=1),
    "source_weights": SourceWeights(unroll_steps=1),
    "example_weights": ExampleWeights(),
}
STEPS = 1000  # of a training, of which a few are taken


def method_engine(
    method: Method,
    device: torch.device,
    shape: dict[str, int],
    dtype: torch.dtype = torch.float32,
    hypergradient: Hypergradient | None = None,
    make: Callable[[], Any] | None = None,
    **options: Any,
) -> BilevelEngine:
    """The engine of a method's first stage, ready to take steps.

    Args:
        method: what to train by.
        device: where.
        shape: the decoder's.
        dtype: of its frozen weights.
        hypergradient: of a method on two levels; ``unrolled`` for None.
        make: makes the decoder; None makes it on the device.
        **options: of :class:`RandomJob`.
    """
    job = RandomJob(
        make or (lambda: causal(shape, device, dtype)),
        *(device, shape),
        hypergradient=hypergradient,
        max_steps=STEPS,
        **options,
    )
    return engine_of(first_training(method, job), device)

"""Make AutoLoRA's two levels on a small classifier, the same on every device and in every dtype."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from benchmarks.common import Lower, Upper
from benchmarks.gpu.models import classifier
from bilevel import (
    BilevelEngine,
    BilevelEngineConfig,
    ProblemConfig,
    ResumableLoader,
)
from bilevel.hypergradient import Hypergradient
from bilevel.hypergradient.rehearsal import lower_steps
from bilevel.lowrank.attach import attach_gates
from bilevel.lowrank.gates import Gates
from bilevel.lowrank.layers import lora_layers

__all__ = ["difference", "levels", "terms"]

RANK, LENGTH, BATCH, EXAMPLES = 2, 12, 8, 32


def levels(
    estimator: Hypergradient,
    device: torch.device,
    dtype: torch.dtype = torch.float64,
    precision: str = "fp32",
    unroll_steps: int = 2,
    checkpointing: bool = False,
    **model: Any,
) -> tuple[BilevelEngine, Lower, Upper]:
    """The engine and its two levels.

    Args:
        estimator: of the lower level.
        device: the GPU, or the CPU.
        dtype: of all weights.
        precision: of the passes.
        unroll_steps: T1.
        checkpointing: compute activations again in the backward pass.
        **model: of :func:`benchmarks.gpu.models.classifier`.
    """
    base = classifier(**model)
    if checkpointing:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    lora = LoraConfig(r=RANK, target_modules=["query", "value"], task_type="SEQ_CLS")
    module = get_peft_model(base, lora).to(dtype)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():  # away from B = 0, where half of all derivatives vanish
        for layer in lora_layers(module).values():
            weight: Any = layer.lora_B["default"].weight
            weight.copy_(0.3 * torch.randn(weight.shape, generator=draw, dtype=torch.float64))
    gates = Gates(list(lora_layers(module)), RANK).to(dtype)
    attach_gates(module, gates)
    trained = [p for p in module.parameters() if p.requires_grad]
    lower = Lower(
        "lower",
        ProblemConfig(hypergradient=estimator, precision=precision, unroll_steps=unroll_steps),
        module=module,
        # A large epsilon: without, Adam makes a step of full length of a gradient's rounding error.
        optimizer=torch.optim.AdamW(trained, lr=1e-2, eps=1e-3),
        train_data_loader=_batches(0),
    )
    upper = Upper(
        "upper",
        ProblemConfig(precision=precision),
        module=gates,
        optimizer=torch.optim.Adam(gates.parameters(), lr=1e-2),
        train_data_loader=_batches(1),
    )
    engine = BilevelEngine(
        [lower, upper],
        BilevelEngineConfig(train_iters=10**6, strategy="gpu" if device.type == "cuda" else "cpu"),
        {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}},
    )
    engine.train()
    return engine, lower, upper


def terms(
    estimator: Hypergradient, device: torch.device, windows: int = 2, **options: Any
) -> Tensor:
    """The implicit terms of some windows of T1 lower steps, end to end, in float64 on the CPU.

    Several, as some estimators have something to remember; ``options`` are :func:`levels`'s.
    """
    _, lower, upper = levels(estimator, device, **options)
    found: list[Tensor] = []
    for _ in range(windows):
        vector, _ = lower_steps(lower, upper)
        found += estimator.implicit_term(vector, lower, upper)
        lower.recorded.drop_graphs()
    return torch.cat([part.detach().double().cpu().flatten() for part in found])


def difference(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|; |found| where nothing is expected."""
    return float((found - expected).norm() / (expected.norm() or 1.0))


def _batches(seed: int) -> ResumableLoader:
    draw = torch.Generator().manual_seed(10 + seed)
    ids = torch.randint(0, 64, (EXAMPLES, LENGTH), generator=draw)
    labels = torch.randint(0, 2, (EXAMPLES,), generator=draw)

    def collate(rows: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        return {
            "input_ids": torch.stack([row for row, _ in rows]),
            "labels": torch.stack([label for _, label in rows]),
        }

    return ResumableLoader(list(zip(ids, labels, strict=True)), BATCH, collate, seed=seed)

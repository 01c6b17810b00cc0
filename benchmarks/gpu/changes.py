"""Hold what a few steps of every method change on the device against the same on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.levels import difference
from benchmarks.gpu.methods import PLAIN, TWO_LEVELS, method_engine
from benchmarks.gpu.models import SMALL, causal
from benchmarks.gpu.rows import Failed, Row, Setting, Skipped
from problems import Method

__all__ = ["rows"]

STEPS = 3
# In float32, and Adam makes a full step of a gradient that is all rounding: most has to agree.
MOST = 0.1
DRAWS = {"salora_bilevel": "its gates draw noise on the device, other than the CPU's"}


def rows(setting: Setting) -> dict[str, Row]:
    """Plain LoRA and every method on two levels, in float32."""

    def make() -> Any:  # on the CPU, whose random weights are the same for both
        return causal(SMALL, torch.device("cpu"))

    def changed(method: Method, device: torch.device) -> Tensor:
        engine = method_engine(
            method, device, SMALL, make=make, length=16, batch_size=4, precision="fp32"
        )
        parameters = [p for problem in engine.problems for p in problem.trainable_parameters()]
        before = [p.detach().clone() for p in parameters]
        for _ in range(STEPS):
            engine.train_step()
        moved = [p.detach() - b for p, b in zip(parameters, before, strict=True)]
        return torch.cat([m.double().cpu().flatten() for m in moved])

    def row(name: str, method: Method) -> Row:
        def figures() -> dict[str, Any]:
            if setting.on_gpu and name in DRAWS:
                raise Skipped(DRAWS[name])
            expected = changed(method, torch.device("cpu"))
            found = changed(method, setting.device)
            values = {"moved": float(expected.norm()), "off by": difference(found, expected)}
            if not values["moved"] > 0:
                raise Failed("nothing moved", values)
            if not values["off by"] <= MOST:
                raise Failed(f"off by more than {MOST:g}", values)
            return values

        return figures

    return {name: row(name, method) for name, method in {"lora": PLAIN, **TWO_LEVELS}.items()}

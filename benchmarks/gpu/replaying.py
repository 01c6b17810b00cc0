"""Draw dropout masks on the device again: in a replay, under checkpointing, and after a resume."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.levels import difference, levels, terms
from benchmarks.gpu.rows import Failed, Row, Setting
from bilevel.checkpoint.state_file import load_state, save_state
from bilevel.hypergradient import BettyDarts, Unrolled

__all__ = ["rows"]

MODEL: dict[str, Any] = {"dropout": 0.3, "layers": 2}
EQUAL = 1e-9  # in float64


def rows(setting: Setting) -> dict[str, Row]:
    """Each way in which the same masks have to come again."""

    def exactly(found: Tensor, expected: Tensor, values: dict[str, Any]) -> dict[str, Any]:
        values["off by"] = difference(found, expected)
        if not values["off by"] <= EQUAL:
            raise Failed(f"off by {values['off by']:.1e}: other masks were drawn", values)
        return values

    def seeded(estimator: Any, **options: Any) -> Tensor:
        torch.manual_seed(0)
        return terms(estimator, setting.device, windows=1, unroll_steps=1, **MODEL, **options)

    def replayed(attention: str) -> dict[str, Any]:
        kept = seeded(Unrolled(), attention=attention)
        again = seeded(Unrolled(keep_graph=False), attention=attention)
        fresh = seeded(BettyDarts(), attention=attention)
        return exactly(again, kept, {"with fresh masks": difference(fresh, kept)})

    def checkpointed() -> dict[str, Any]:
        plain = seeded(Unrolled(keep_graph=False))
        return exactly(seeded(Unrolled(keep_graph=False), checkpointing=True), plain, {})

    def resumed() -> dict[str, Any]:
        def weights(engine: Any) -> Tensor:
            every = [p for problem in engine.problems for p in problem.trainable_parameters()]
            return torch.cat([p.detach().cpu().flatten() for p in every])

        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "state.safetensors"
            engine, *_ = levels(Unrolled(), setting.device, **MODEL)
            for step in range(4):
                if step == 2:
                    save_state(file, engine.state_dict())
                engine.train_step()
            other, *_ = levels(Unrolled(), setting.device, **MODEL)
            other.load_state_dict(load_state(file))
            for _ in range(2):
                other.train_step()
        if not torch.equal(weights(engine), weights(other)):
            values = {"off by": difference(weights(other), weights(engine))}
            raise Failed("a resumed run is not the same to the bit", values)
        return {"off by": 0.0}

    return {
        "dropout replayed, eager": lambda: replayed("eager"),
        "dropout replayed, sdpa": lambda: replayed("sdpa"),
        "dropout under checkpointing": checkpointed,
        "resumed to the bit": resumed,
    }

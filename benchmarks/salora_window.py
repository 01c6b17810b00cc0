"""What SaLoRA's steps cost before, inside and after its window, in steps of LoRA.

    python -m benchmarks.salora_window [--rounds 15] [--device cpu] [--clock wall]

MiniLM-L6's shape, batch 32, length 64, dropout 0.1, rank 8 on all six matrices, orthogonality
penalty on; LoRA as the method ``lora`` trains it, in the same engine. All take one step in turn,
round after round, so that a machine whose speed drifts slows all alike; the table gives medians
over rounds of each round's ratio. ``--clock cpu`` counts one thread's processor time.
"""

from __future__ import annotations

import argparse
import logging
import statistics
from collections.abc import Callable
from typing import Any

import betty.logging
import torch

from benchmarks.common import Batches, base_model, timed
from bilevel import BilevelEngine, BilevelEngineConfig
from problems import LoRA, SaLoRA, TrainData, TrainSettings

ALL = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]
STEPS = 1000


class Setting:
    """As much of a job as a method needs to set up its problems."""

    def __init__(self, precision: str) -> None:
        self.seed = 0
        batch = next(iter(Batches(1)))
        rows = [{k: v[i].tolist() for k, v in batch.items()} for i in range(32)] * 2000
        self.data = TrainData(rows, _collate, None, [64] * len(rows))
        self.settings = TrainSettings(
            epochs=1, max_steps=STEPS, batch_size=32, precision=precision, group_by_length=False
        )
        self.hypergradient: Any = None
        self.target_modules = ALL
        self.head_modules = ["classifier"]
        self.task_type = "SEQ_CLS"

    def build_model(self) -> Any:
        return base_model()


def _collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {key: torch.tensor([row[key] for row in rows]) for key in rows[0]}


def engine_of(method: Any, precision: str, device: str) -> BilevelEngine:
    """The engine that ``method`` would train with."""
    (stage,) = method.stages()
    training = stage.prepare(Setting(precision), None)
    strategy = "cpu" if device == "cpu" else "default"
    config = BilevelEngineConfig(train_iters=training.steps, strategy=strategy)
    engine = BilevelEngine(training.problems, config, training.dependencies)
    engine.train()
    return engine


class OfOneStep(SaLoRA):
    """With a window of any length: what is measured is time, not what is kept."""

    def check_window(self, steps: int) -> None:
        pass


def inside(phase: str, precision: str, device: str, **options: Any) -> BilevelEngine:
    """SaLoRA's engine at a step of the given phase."""
    start, end = {"before": (0.9, 1.0), "inside": (0.0, 1.0), "after": (0.0, 0.001)}[phase]
    engine = engine_of(OfOneStep(start=start, end=end, **options), precision, device)
    engine.train_step()  # after: the window's one step
    engine.train_step()
    expected = {"before": "open", "inside": "learning", "after": "fixed"}[phase]
    assert engine.problems[0].gate_window.gates.phase == expected
    return engine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"])
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    options = parser.parse_args()
    if options.clock == "cpu":
        torch.set_num_threads(1)
    betty.logging.get_logger().setLevel(logging.WARNING)
    steps: dict[tuple[str, str], Callable[[], None]] = {}
    for precision in options.precision:
        at = (precision, options.device)
        steps["LoRA", precision] = engine_of(LoRA(), *at).train_step
        for phase in ("before", "inside", "after"):
            steps[f"SaLoRA, {phase}", precision] = inside(phase, *at).train_step
        steps["SaLoRA, before, beta = 0", precision] = inside("before", *at, beta=0.0).train_step
    for step in steps.values():  # warm-up
        step()
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in steps}
    for _ in range(options.rounds):
        for key, step in steps.items():
            seconds[key].append(timed(step, options.device, options.clock))
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, {options.device}, {threads} threads, {options.clock} time")
    print("| step | precision | ms | LoRA steps | lowest, highest quarter |")
    print("|---|---|---|---|---|")
    for (name, precision), found in seconds.items():
        pairs = zip(found, seconds["LoRA", precision], strict=True)
        ratios = [a / b for a, b in pairs]
        low, middle, high = statistics.quantiles(ratios, n=4)
        ms = 1000 * statistics.median(found)
        print(f"| {name} | {precision} | {ms:.0f} | {middle:.3f} | {low:.3f}, {high:.3f} |")


if __name__ == "__main__":
    main()

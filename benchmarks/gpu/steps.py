"""Time a global step of every method on a decoder, in LoRA steps, and its share of the matrix peak.

The share is of what a product of two large bf16 matrices reaches on the same card in the same run,
not of a figure from its data sheet. The operations of a step are those that are dispatched (torch's
counter): matrix products and attention, with all that is computed twice.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.methods import PLAIN, TWO_LEVELS, method_engine
from benchmarks.gpu.models import LARGE, SMALL
from benchmarks.gpu.rows import Row, Setting
from bilevel import BilevelEngine
from bilevel.hypergradient import FiniteDifference, Forward, Hypergradient, Penalty, Sama, Unrolled
from problems import AutoLoRA, Method

__all__ = ["rows"]

WARM_UP, ROUNDS = 2, 7
ROOMY = 40e9  # bytes of a card on which larger batches fit
ESTIMATORS: dict[str, Hypergradient] = {
    "finite_difference": FiniteDifference(),
    "sama": Sama(),
    "penalty": Penalty(),
    "forward, 1 direction": Forward(directions=1),
    "unrolled, recomputed": Unrolled(keep_graph=False),
}


def rows(setting: Setting) -> dict[str, Row]:
    """The peak; plain LoRA, every method on two levels, AutoLoRA's other estimators; LoRA again."""
    shape, length, batch = _sizes(setting)
    dtype = torch.bfloat16 if setting.on_gpu else torch.float32

    def engine(method: Method, estimator: Hypergradient | None = None) -> BilevelEngine:
        return method_engine(
            *(method, setting.device, shape),
            dtype=dtype,
            hypergradient=estimator,
            length=length,
            batch_size=batch,
            precision="auto",
        )

    peak = functools.cache(lambda: _peak(setting))
    lora = functools.cache(lambda: _measured(setting, lambda: engine(PLAIN), peak()))

    def row(method: Method, estimator: Hypergradient | None = None) -> Row:
        def figures() -> dict[str, Any]:
            base = lora()["ms"]
            found = _measured(setting, lambda: engine(method, estimator), peak())
            return {**found, "LoRA steps": round(found["ms"] / base, 2)}

        return figures

    return {
        "bf16 matrix product": lambda: {
            "TFLOP/s": round(peak() / 1e12, 3),
            "measured": f"{_side(setting)} x {_side(setting)}, bf16, best of {ROUNDS}",
        },
        "lora": lambda: {**lora(), "LoRA steps": 1.0},
        **{name: row(method) for name, method in TWO_LEVELS.items()},
        **{f"autolora, {name}": row(AutoLoRA(), e) for name, e in ESTIMATORS.items()},
        "lora again": row(PLAIN),
    }


def _sizes(setting: Setting) -> tuple[dict[str, int], int, int]:
    """The decoder's shape, tokens of a text, texts in a batch."""
    if setting.small:
        return SMALL, 32, 4
    roomy = setting.on_gpu and torch.cuda.get_device_properties(0).total_memory > ROOMY
    return LARGE, 512, 8 if roomy else 2


def _measured(setting: Setting, make: Callable[[], BilevelEngine], peak: float) -> dict[str, Any]:
    """Median ms of a step, its operations and their share of the peak, the memory at its peak."""
    engine = make()
    for _ in range(WARM_UP):
        engine.train_step()
    if setting.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = [_seconds(setting, engine.train_step) for _ in range(ROUNDS)]
    with FlopCounterMode(display=False) as counter:
        engine.train_step()
    operations, median = counter.get_total_flops(), statistics.median(seconds)
    parameters = sum(p.numel() for p in engine.problems[0].module.parameters())
    return {
        "ms": round(1000 * median, 2),
        "spread": round((max(seconds) - min(seconds)) / median, 2),
        "TFLOP": round(operations / 1e12, 4),
        # A CPU's bf16 product, often emulated, is no measure of its steps.
        "share of peak": round(operations / median / peak, 3) if setting.on_gpu else None,
        "MiB": round(torch.cuda.max_memory_allocated() / 2**20) if setting.on_gpu else None,
        "parameters": parameters,
        "precision": engine.problems[0].precision,
    }


def _seconds(setting: Setting, call: Callable[[], Any]) -> float:
    """Of one call, by the clock of a GPU's user; of a CPU by the processor time of this process."""
    if not setting.on_gpu:
        start = time.process_time()
        call()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def _side(setting: Setting) -> int:
    return 512 if setting.small else 8192


def _peak(setting: Setting) -> float:
    """Operations a second of the best of some bf16 products."""
    side = _side(setting)
    a, b = (torch.randn(side, side, device=setting.device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(WARM_UP):
        a @ b
    return 2 * side**3 / min(_seconds(setting, lambda: a @ b) for _ in range(ROUNDS))

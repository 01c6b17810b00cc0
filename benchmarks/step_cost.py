"""What a global step (T1 = T2 = 1) costs, in plain PEFT LoRA steps of the same precision.

    python -m benchmarks.step_cost [--rounds 15] [--device cpu] [--clock wall] [--precision fp32]
        [--only penalty,soba] [--batch 32] [--length 64]

MiniLM-L6's shape, batch 32, length 64, dropout 0.1, rank 8 on query and value. All candidates take
one step in turn, round after round, so that a machine whose speed drifts slows all of them alike;
the table gives medians over rounds of each round's ratio. ``--clock cpu`` counts one thread's
processor time instead, for a machine that others use too.
"""

from __future__ import annotations

import argparse
import logging
import statistics
from collections.abc import Callable, Sequence

import betty.logging
import torch

from benchmarks.common import BATCH, LENGTH, lora_step, our_engine, stock_engine, timed
from bilevel import hypergradient
from bilevel.hypergradient import Hypergradient

# With the attention implementation to load the model with. On a CPU with dropout eager is the
# faster one; plain LoRA and stock Betty run with transformers' default, sdpa, and eager beside it.
ESTIMATORS: dict[str, tuple[Hypergradient, str]] = {
    "none": (hypergradient.NoHypergradient(), "sdpa"),
    "alignment": (hypergradient.Alignment(calibrate_every=0), "sdpa"),
    "alignment, eager": (hypergradient.Alignment(calibrate_every=0), "eager"),
    "finite_difference (central)": (hypergradient.FiniteDifference(difference="central"), "sdpa"),
    "finite_difference (forward)": (hypergradient.FiniteDifference(difference="forward"), "sdpa"),
    "unrolled (graph kept)": (hypergradient.Unrolled(), "eager"),
    "unrolled (recomputed)": (hypergradient.Unrolled(keep_graph=False), "eager"),
    "forward, 1 direction": (hypergradient.Forward(directions=1), "eager"),
    "forward, 16 directions": (hypergradient.Forward(directions=16), "eager"),
    "sama": (hypergradient.Sama(), "sdpa"),
    "penalty": (hypergradient.Penalty(), "sdpa"),
    "neumann, 1 iteration": (hypergradient.Neumann(alpha=0.1), "eager"),
    "cg, 5 iterations": (hypergradient.ConjugateGradient(), "eager"),
    "nystrom, rank 10": (hypergradient.Nystrom(), "eager"),
    "soba": (hypergradient.Soba(), "eager"),
}


PRECISIONS = ("fp32", "bf16")


def candidates(
    device: str,
    only: str | None,
    precisions: Sequence[str] = PRECISIONS,
    batch: int = BATCH,
    length: int = LENGTH,
) -> dict[str, Callable[[], None]]:
    steps: dict[str, Callable[[], None]] = {}
    size = {"batch": batch, "length": length}
    for precision in precisions:
        steps[f"LoRA {precision}"] = lora_step(precision, device, **size)
        steps[f"LoRA, eager {precision}"] = lora_step(precision, device, attention="eager", **size)
        for name, (estimator, attention) in ESTIMATORS.items():
            if only is None or any(part in name for part in only.split(",")):
                engine = our_engine(
                    estimator, precision, device=device, attention=attention, **size
                )
                engine.train()
                steps[f"{name} {precision}"] = engine.train_step
    if device == "cpu":
        stock = stock_engine(**size)
        stock.train()
        steps["stock Betty darts fp32"] = stock.train_step
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--only", default=None, help="of estimators: parts of names, with commas between"
    )
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--length", type=int, default=LENGTH, help="tokens of each sentence")
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"])
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="of passes; both if not given (bf16 is slow where a processor emulates it)",
    )
    options = parser.parse_args()
    if options.clock == "cpu":
        torch.set_num_threads(1)
    betty.logging.get_logger().setLevel(logging.WARNING)
    precisions = PRECISIONS if options.precision is None else (options.precision,)
    steps = candidates(options.device, options.only, precisions, options.batch, options.length)
    for step in steps.values():  # warm-up
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.rounds):
        for name, step in steps.items():
            seconds[name].append(timed(step, options.device, options.clock))

    def ratio(name: str, base: str) -> float:
        pairs = zip(seconds[name], seconds[base], strict=True)
        return statistics.median(a / b for a, b in pairs)

    threads = torch.get_num_threads()
    print(
        f"torch {torch.__version__}, {options.device}, {threads} threads, {options.clock} time, "
        f"batch {options.batch}, length {options.length}, {options.rounds} rounds"
    )
    print("| step | precision | ms | LoRA steps | stock Betty's time |")
    print("|---|---|---|---|---|")
    for name in steps:
        label, precision = name.rsplit(" ", 1)
        ms = 1000 * statistics.median(seconds[name])
        lora = f"{ratio(name, f'LoRA {precision}'):.2f}"
        stock = "stock Betty darts fp32"
        betty_ratio = f"{ratio(name, stock):.2f}" if stock in steps else "-"
        print(f"| {label} | {precision} | {ms:.0f} | {lora} | {betty_ratio} |")


if __name__ == "__main__":
    main()

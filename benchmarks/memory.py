"""Peak memory of an exact hypergradient through T1 lower steps: ours and TorchOpt's.

    python -m benchmarks.memory [--steps 1 8 32] [--batch 8] [--length 32] [--only forward]

Each measurement is a process of its own: peak resident memory on a CPU, the allocator's peak on a
GPU. MiniLM-L6's shape with gated rank-8 LoRA, AdamW below.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import Batches, lora_model, our_engine, trainable
from bilevel.hypergradient import Forward, Hypergradient, Unrolled


def ours(estimator: Hypergradient, unroll_steps: int, batch: int, length: int, device: str) -> None:
    """One global step of the engine."""
    engine = our_engine(
        estimator,
        "fp32",
        unroll_steps,
        device=device,
        batch=batch,
        length=length,
        attention="eager",
    )
    engine.train()
    engine.train_step()


def torchopt_(unroll_steps: int, batch: int, length: int, device: str) -> None:
    """The same through TorchOpt's differentiable AdamW, which keeps the graph of every step."""
    import torchopt

    model, gates = lora_model(gated=True, attention="eager")
    assert gates is not None
    model.to(device).train()
    gates.to(device)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    params: dict[str, Tensor] = dict(zip(names, trainable(model), strict=True))

    def loss(values: dict[str, Tensor], data: dict[str, Any]) -> Tensor:
        return torch.func.functional_call(model, values, (), data).loss

    optimizer = torchopt.adamw(lr=1e-3)
    state = optimizer.init(params)
    data = Batches(1, device, length, batch).batch
    for _ in range(unroll_steps):
        grads = torch.autograd.grad(loss(params, data), list(params.values()), create_graph=True)
        updates, state = optimizer.update(
            dict(zip(names, grads, strict=True)), state, params=params, inplace=False
        )
        params = torchopt.apply_updates(params, updates, inplace=False)
    loss(params, Batches(2, device, length, batch).batch).backward(inputs=[gates.logits])


LIBRARIES: dict[str, Callable[[int, int, int, str], None]] = {
    "unrolled": functools.partial(ours, Unrolled(keep_graph=False)),
    "forward": functools.partial(ours, Forward(directions=1)),
    "TorchOpt": torchopt_,
}


def measure(library: str, unroll_steps: int, options: argparse.Namespace) -> float:
    """Peak MiB in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.memory", "--child", library]
    command += ["--steps", str(unroll_steps), "--batch", str(options.batch)]
    command += ["--length", str(options.length), "--device", options.device]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(json.loads(output.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--only", default="", help="libraries whose name contains this")
    parser.add_argument("--child", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        LIBRARIES[options.child](options.steps[0], options.batch, options.length, options.device)
        if options.device == "cuda":
            print(json.dumps(torch.cuda.max_memory_allocated() / 2**20))
        else:
            import resource  # of Unix alone

            print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
        return
    print(f"peak MiB, batch {options.batch}, length {options.length}, {options.device}")
    print("| library | " + " | ".join(f"T1 = {n}" for n in options.steps) + " | last / first |")
    print("|---" * (len(options.steps) + 2) + "|")
    for library in (name for name in LIBRARIES if options.only in name):
        peaks = [measure(library, n, options) for n in options.steps]
        cells = " | ".join(f"{peak:.0f}" for peak in peaks)
        print(f"| {library} | {cells} | {peaks[-1] / peaks[0]:.2f} |")


if __name__ == "__main__":
    main()

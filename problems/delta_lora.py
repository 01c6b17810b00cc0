r"""Delta-LoRA (Zi et al., arXiv 2309.02411): the pretrained weight follows the low-rank product.

Factors A, B (and the head) train as in LoRA. From step K on, what a step adds to the product is
also added, lambda times, to the frozen weight, which itself has no gradient and no optimiser state:

    h = W x + s B A x,        s = alpha / r
    W <- W + lambda s (B_t A_t - B_{t-1} A_{t-1})        after step t = K+1, K+2, ...

The sum over the steps telescopes,

    W_T = W_0 + lambda s (B_T A_T - B_K A_K),

so that the trained layer is W_0 + s [(1 + lambda) B_T A_T - lambda B_K A_K]: a forward scale of
1 + lambda, a backward scale of 1 for A and B, and an update of rank 2r at most. Two modes compute
the same:

- ``factored``: W_0 stays as it is. A second, frozen branch of rank 2r beside LoRA's,
  [lambda B, -lambda B_K] [A; A_K], is refreshed after every step. No full-sized product is formed,
  nothing accumulates rounding, a checkpoint holds factors only, and the base may be quantised or
  shared; each adapted layer costs one more pair of thin products.
- ``in_place``: as published, W itself is changed, on an fp32 master copy where it is in half
  precision (single steps would vanish). A copy of W_0 is kept for the export.

Either way the outcome is one plain LoRA adapter on the untouched W_0, with the factors
[A_T; A_K] and [(1 + lambda) B_T, -lambda B_K]. Its rank is the one reported: 2r, but r when the
weight never moved (K >= T: then this is LoRA, exactly) or moved from the start (B_0 = 0).

| choice | paper | here (default) |
|---|---|---|
| mode | in place | ``factored``: equal, and needs less |
| lambda, K | GLUE 0.5, the warm-up's steps; GPT-2 2, 500; XSum 0.5, 1000 | GLUE's |
| first step that moves W | t > K | t counted from 1: K steps are plain LoRA |
| dropout | none in the low-rank branch | none; ``lora_dropout`` is on the trained branch only |
| weight decay | on A and B, so it moves W too | the same |
| rest | as LoRA; length 256 | as LoRA |

With t counted from 0 the same words would mean K + 1 plain steps, and the identity above would not
hold as the paper's equations give it; ``start_step=K+1`` has that. With dropout (the paper's
ablation) the gradient of B A is no longer that of W; the branch that stands for W's change has none
in either mode. No code is released; PEFT has no Delta-LoRA.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import torch
from peft import LoraConfig, PeftModel
from torch import Tensor, nn

from bilevel.errors import UserError
from bilevel.lowrank import plain_lora
from bilevel.lowrank.layers import down_and_up, lora_factors, lora_layers, lora_scales
from bilevel.random_state import RandomState
from problems.base import (
    FineTuning,
    Job,
    Method,
    Outcome,
    StageRunner,
    add_lora,
    check_lora,
    count,
    loader,
    problem_config,
    total_steps,
    trainable,
)
from problems.optimizers import (
    OptimizerSettings,
    check_choice,
    check_range,
    optimizer_and_scheduler,
)

__all__ = ["DeltaLoRA", "Factored", "InPlace"]

Factors = dict[str, tuple[Tensor, Tensor]]  # layer name -> A (r, in), B (out, r)

MOVED = "delta"  # the adapter that stands for W - W_0 in factored mode


class MovingWeight(FineTuning):
    """LoRA's loss; after optimiser step ``start_step`` the weights follow the product.

    Args:
        ratio: lambda. start_step: K, optimiser steps of plain LoRA.

    Attributes:
        start: layer -> (A_K, B_K); None before step K.
    """

    def __init__(self, *args: Any, ratio: float, start_step: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ratio = ratio
        self.start_step = start_step
        self.layers = lora_layers(self.module)
        self.start: Factors | None = None

    def initialize(self) -> None:
        """Set up; with K = 0 the weights move from the first step."""
        super().initialize()
        if self.start_step == 0:
            self.begin(self.factors())

    def factors(self) -> Factors:
        """Copies of A and B of every layer."""
        return {name: lora_factors(layer) for name, layer in self.layers.items()}

    @torch.no_grad()
    def param_callback(self) -> None:
        """Runs after every optimiser step: remember the factors at step K, move W after it."""
        if self.start is not None:
            self.move()
        elif self.count // self.gas == self.start_step:
            self.begin(self.factors())

    def begin(self, start: Factors) -> None:
        """Take A_K and B_K."""
        self.start = start

    def move(self) -> None:
        """Let W follow the step that A and B have just taken."""
        raise NotImplementedError

    def extra_state(self) -> dict[str, Any]:
        """A_K and B_K."""
        return {"start": self.start}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.start = None
        if state["start"] is not None:
            now = self.factors()
            saved = {n: (A.to(now[n][0]), B.to(now[n][1])) for n, (A, B) in state["start"].items()}
            self.begin(saved)

    def rebuild(self) -> PeftModel:
        """Plain LoRA on W_0: A'' = [A_T; A_K], B'' = [(1 + lambda) B_T, -lambda B_K].

        Uses up this problem's model.
        """
        found = self.factors()
        if self.start is not None and self.count // self.gas > self.start_step:
            for name, (A, B) in found.items():
                A_K, B_K = self.start[name]
                B = (1 + self.ratio) * B
                if B_K.any():  # zero with K = 0
                    A, B = torch.cat([A, A_K]), torch.cat([B, -self.ratio * B_K], dim=1)
                found[name] = (A, B)
        return plain_lora(self.module, found, lora_scales(self.module))


class Factored(MovingWeight):
    """W_0 stays; a frozen adapter of rank 2r is lambda s (B A - B_K A_K)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # PEFT draws first values for the new factors; they are overwritten, and nothing after
        # them should be drawn otherwise than in LoRA.
        with RandomState.capture().replayed():
            for layer in self.layers.values():
                A, _ = down_and_up(layer)
                rank = 2 * layer.r["default"]
                layer.update_layer(MOVED, rank, lora_alpha=rank, config=LoraConfig(r=rank))
                layer.scaling[MOVED] = layer.scaling["default"]
                for part in down_and_up(layer, MOVED):
                    part.to(A.weight).requires_grad_(False)

    def begin(self, start: Factors) -> None:
        """From now on the second adapter takes part in the forward pass."""
        super().begin(start)
        for layer in self.layers.values():
            # Layer by layer: PEFT's own switch refuses two adapters beside a trained head.
            layer.set_adapter(["default", MOVED])
            for part in down_and_up(layer, MOVED):
                part.requires_grad_(False)
        self.move()

    @torch.no_grad()
    def move(self) -> None:
        """A' = [A; A_K], B' = [lambda B, -lambda B_K]."""
        assert self.start is not None
        for name, layer in self.layers.items():
            A, B = (part.weight for part in down_and_up(layer))
            A_K, B_K = self.start[name]
            down, up = down_and_up(layer, MOVED)
            down.weight.copy_(torch.cat([A, A_K]))
            up.weight.copy_(torch.cat([self.ratio * B, -self.ratio * B_K], dim=1))

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take it back, also that of a step before the weights moved."""
        for layer in self.layers.values():
            layer.set_adapter("default")
        super().load_extra_state(state)


class InPlace(MovingWeight):
    """W itself moves, as published."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, layer in self.layers.items():
            _check_plain(name, layer.get_base_layer())
        self.weights: dict[str, Tensor] = {}
        self.masters: dict[str, Tensor] = {}
        self.untouched: dict[str, Tensor] = {}
        self.before: Factors = {}

    def initialize(self) -> None:
        """Set up; only then is the model on its device."""
        super().initialize()
        for name, layer in self.layers.items():
            weight = cast(Tensor, layer.get_base_layer().weight).detach()
            self.weights[name] = weight
            self.masters[name] = _at_least_fp32(weight)
            self.untouched[name] = weight.clone()

    def begin(self, start: Factors) -> None:
        """Take A_K and B_K, from which the first difference is made."""
        super().begin(start)
        self.before = self.factors()

    @torch.no_grad()
    def move(self) -> None:
        """W <- W + lambda s (B_t A_t - B_{t-1} A_{t-1})."""
        for name, layer in self.layers.items():
            A, B = lora_factors(layer)
            A_before, B_before = self.before[name]
            self.before[name] = (A, B)
            difference = B @ A - B_before @ A_before
            if getattr(layer, "fan_in_fan_out", False):  # Conv1D keeps W transposed
                difference = difference.T
            master = self.masters[name]
            master.add_(difference.to(master), alpha=self.ratio * layer.scaling["default"])
            self._write(name)

    def _write(self, name: str) -> None:
        weight, master = self.weights[name], self.masters[name]
        if weight.dtype != master.dtype:
            weight.copy_(master)

    def extra_state(self) -> dict[str, Any]:
        """The moved weights too."""
        return super().extra_state() | {"masters": dict(self.masters)}

    @torch.no_grad()
    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take them back."""
        super().load_extra_state(state)
        for name, master in state["masters"].items():
            self.masters[name].copy_(master)
            self._write(name)

    @torch.no_grad()
    def rebuild(self) -> PeftModel:
        """Put W_0 back first."""
        for name, weight in self.weights.items():
            weight.copy_(self.untouched[name])
        return super().rebuild()


MODES: Mapping[str, type[MovingWeight]] = {"factored": Factored, "in_place": InPlace}


@dataclass(frozen=True)
class DeltaLoRA(Method):
    """LoRA whose product also moves the pretrained weight.

    Args:
        mode: ``factored`` or ``in_place``; equal results.
        ratio: lambda, how much of the product's change the weight takes over.
        start_step: K, optimiser steps of plain LoRA before; None for the schedule's warm-up.
        rank, lora_alpha, lora_dropout: as in LoRA; the paper removes the dropout.
        optimizer: of the factors and the head.
    """

    name: ClassVar[str] = "delta_lora"
    splits_fused: ClassVar[bool] = True
    mode: str = "factored"
    ratio: float = 0.5
    start_step: int | None = None
    rank: int = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(lr=None, weight_decay=0.1)
    )

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, list(MODES))
        check_range("ratio", self.ratio, self.ratio >= 0, "0 or more")
        first = self.start_step
        check_range("start_step", first, first is None or first >= 0, "0 or more")
        check_lora(self.rank, self.lora_dropout)

    def run(self, job: Job) -> Outcome:
        """One stage, one problem."""
        return job.stage("train", lambda stage: self._train(job, stage), last=True)

    def _train(self, job: Job, stage: StageRunner) -> Outcome:
        model = add_lora(
            job,
            job.build_model(),
            r=self.rank,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
        )
        parameters = trainable(model)
        batches = loader(job)
        steps = total_steps(job, batches, job.settings.epochs)
        lr = job.settings.lr if job.settings.lr is not None else 5e-4
        optimizer, schedule = optimizer_and_scheduler(self.optimizer, parameters, steps, lr)
        warmup = int(self.optimizer.warmup_ratio * steps)
        problem = MODES[self.mode](
            "lower",
            problem_config(job),
            module=model,
            optimizer=optimizer,
            scheduler=schedule,
            train_data_loader=batches,
            ratio=self.ratio,
            start_step=warmup if self.start_step is None else self.start_step,
        )
        stage.run([problem], {"u2l": {}, "l2u": {}}, steps, model)
        rebuilt = problem.rebuild()
        return Outcome(
            model=rebuilt,
            ranks={name: int(layer.r["default"]) for name, layer in lora_layers(rebuilt).items()},
            trainable_parameters=count(parameters),
            split={"train": len(job.data.examples)},
        )


def _check_plain(name: str, base: nn.Module) -> None:
    """Raise UserError unless a layer's weight is a matrix of floating-point numbers."""
    weight = base.weight
    assert isinstance(weight, Tensor)
    if not weight.is_floating_point() or weight.element_size() < 2:
        raise UserError(
            f"method.mode=in_place cannot move the weight of {name}, which is quantised: take "
            "method.mode=factored"
        )


def _at_least_fp32(weight: Tensor) -> Tensor:
    return weight.float() if weight.element_size() < 4 else weight

r"""DyLoRA (Valipour et al., EACL 2023, arXiv 2210.07558): one adapter for every rank up to r.

At every step a rank b is drawn from 1..r, and only the first b components take part:

    h = W_0 x + (alpha / b) B[:, :b] A[:b] x,        b ~ U{1, ..., r}

so that the components come to be ordered by importance, and the adapter may be cut to its first b
components afterwards, with the scale alpha / b, without training again. ``export_rank`` is where
the saved one is cut.

``frozen`` is the paper's quicker variant: at a step that drew b, the gradient goes to component b
alone; those before it take part, but stay.

| choice | paper | released code | here (default) |
|---|---|---|---|
| distribution of b | uniform, from 1 to the rank | - | uniform, one draw an optimiser step |
| scale | alpha / b | (alpha / r) (r / b) | alpha / b |
| frozen | only component b is updated | only it has a gradient | only it has a gradient |
| rank of the result | any | any | r (``export_rank``) |
| optimiser, targets | as LoRA | as LoRA | as LoRA: AdamW, q and v |

What the last column says where "-" stands beside it is ours. A component without a gradient still
moves a little, by AdamW's moments and decay; that is so in the released code too, in both variants.
The evaluations during training are those of the adapter as it will be saved.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from bilevel.distributed import World, broadcast
from bilevel.lowrank import Gates, attach_gates, gated_layers
from bilevel.lowrank.layers import lora_layers
from problems.common.method import (
    FineTuning,
    Job,
    Method,
    Outcome,
    StageRunner,
    check_lora,
    count,
    loader,
    total_steps,
    trainable,
    with_lora,
)
from problems.common.one_level import ALONE, only_problem
from problems.common.optimizer_settings import OptimizerSettings, check_range

__all__ = ["DyLoRA", "Prefix"]


class Prefix(Gates):
    """Gates that let the first b components through: r / b for them, 0 for the others.

    With LoRA's scale alpha / r that makes alpha / b. There is nothing to learn in them.

    Args:
        names: the layers. rank: r. final: b outside training.
    """

    def __init__(self, names: list[str], rank: int, final: int) -> None:
        super().__init__(names, rank, kind="real")
        self.logits.requires_grad_(False)
        self.drawn = self.final = final

    def draw(self, world: World | None = None) -> None:
        """Draw b for the coming step, one for all processes."""
        b = torch.randint(1, self.k + 1, (1,)).to(self.logits.device)
        broadcast([b], world or World())
        self.drawn = int(b)

    def compute(self, sample: bool = False) -> Tensor:
        """The gates (n, r): ``sample`` (in training) for the rank drawn, else for the final one."""
        b = self.drawn if sample else self.final
        values = torch.zeros_like(self.logits)
        values[:, :b] = self.k / b
        return values


class RandomRank(FineTuning):
    """LoRA's loss at a rank that is drawn anew for every optimiser step.

    Args:
        prefix: the gates. frozen: let only the last component of a draw learn.
    """

    def __init__(self, *args: Any, prefix: Prefix, frozen: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.prefix = prefix
        self.frozen = frozen

    def initialize(self) -> None:
        """Set up, the gates on the model's device, which does not own them."""
        super().initialize()
        self.prefix.to(self.device)

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss, at a new rank with the first batch of an optimiser step."""
        if (self.count - 1) % self.gas == 0:
            self.prefix.draw(self.world)
        return super().training_step(batch)

    def grad_callback(self) -> None:
        """Runs after every backward pass."""
        if not self.frozen:
            return
        before = self.prefix.drawn - 1
        for layer in gated_layers(self.module).values():
            for rows in (layer.A.grad, None if layer.B.grad is None else layer.B.grad.T):
                if rows is not None:
                    rows[:before] = 0


@dataclass(frozen=True)
class DyLoRA(Method):
    """LoRA that can be cut to any rank up to ``rank``.

    Args:
        rank: r, the largest rank.
        lora_alpha: alpha; the update of rank b is scaled by alpha / b. lora_dropout: as in LoRA.
        frozen: let only the last of the components drawn learn.
        export_rank: b of the saved adapter and of all evaluations; None for r.
        optimizer: of the factors and the head.
    """

    name: ClassVar[str] = "dylora"
    splits_fused: ClassVar[bool] = True
    rank: int = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    frozen: bool = False
    export_rank: int | None = None
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(lr=None, weight_decay=0.1)
    )

    def __post_init__(self) -> None:
        check_lora(self.rank, self.lora_dropout)
        b = self.export_rank
        fits = b is None or 1 <= b <= self.rank
        check_range("export_rank", b, fits, f"between 1 and rank={self.rank}")

    def run(self, job: Job) -> Outcome:
        """One stage, one problem."""
        return job.stage("train", lambda stage: self._train(job, stage), last=True)

    def _train(self, job: Job, stage: StageRunner) -> Outcome:
        model = with_lora(job, self.rank, self.lora_alpha, self.lora_dropout)
        names = list(lora_layers(model))
        prefix = Prefix(names, self.rank, self.export_rank or self.rank)
        attach_gates(model, prefix)
        parameters = trainable(model)
        batches = loader(job)
        steps = total_steps(job, batches, job.settings.epochs)
        lr = job.settings.lr if job.settings.lr is not None else 5e-4
        options = {"prefix": prefix, "frozen": self.frozen}
        problem = only_problem(
            RandomRank, job, model, batches, self.optimizer, steps, lr, **options
        )
        stage.run([problem], ALONE, steps, model)
        return Outcome(
            model=model,
            ranks=dict.fromkeys(names, prefix.final),
            trainable_parameters=count(parameters),
            split={"train": len(job.data.examples)},
        )

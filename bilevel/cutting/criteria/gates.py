r"""``gates``: what D_val keeps when all components are learned together under one budget.

    min over log theta of  E_g[L_val(g)]   where   C(theta) = b,
    C = sum_i c_i P(g_i > 0) / sum_i c_i,

with one hard-concrete gate g_i (Louizos et al., arXiv 1712.01312) on every component i of all
layers in the singular basis, c_i = in + out of its layer, and the factors fixed.  Its stationary
points are those of L_val + lambda (C - b), lambda solved for at every step and not climbed to:

    lambda = - sum_i dL/dv_i / sum_i dC/dv_i,       v = log theta,
    v <- v - Adam(dL/dv + lambda dC/dv),   then   v <- v - nu   with   C(v - nu) = b_t by bisection,

so that C is b_t exactly, whatever the size of the loss.  By ascent, with the rates of
``problems.salora``, C ended at 0.206 for b = 0.125 and at 0.182 for 0.0625 on a loss twelve times
that of the demonstration, which is the one of six classes; and components kept by gates whose
budget was not reached were worse than those of the singular values.  b_t falls from 1 to b
(``density``) in the first half of the steps, by one factor a step, and stays there.

    score_i = E[g_i]

It is per parameter as it is: a gate stays open where it is worth lambda c_i.  Below b the order is
one of gates that were all to stay, and poor: at 4 of the demonstration's 64 components b = 0.25
lost +0.08 +- 0.03 in loss, where singular values lose nothing. Take for b about what is to be kept.

Cost: ``steps`` forward and backward passes over one batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar

import torch
from annotated_types import Ge, Gt, Lt
from peft import PeftModel
from torch import Tensor, nn

from bilevel.cutting.criteria.base import Criterion, ScoringData
from bilevel.cutting.criteria.passes import passes
from bilevel.lowrank.gate_kinds import HardConcrete
from bilevel.lowrank.layers import component_costs, down_and_up, lora_layers
from bilevel.lowrank.regularizers import density, expected_l0
from bilevel.lowrank.singular import to_singular_basis
from bilevel.settings import Natural

__all__ = ["LearnedGates"]

# As problems.salora has them: how far log theta can come with all steps at full length, while the
# rate falls linearly to 0; and Adam's memories, short ones.
TRAVEL = 20.0
BETAS = (0.8, 0.95)
BOUND = 100.0  # |nu|, beyond anything that log theta can be
HALVINGS = 60  # of the interval that nu lies in: to the last digit of float64

T = TypeVar("T")


@dataclass(frozen=True)
class LearnedGates(Criterion):
    """Expected gate, learned jointly on held-out examples."""

    name: ClassVar[str] = "gates"
    needs_data: ClassVar[bool] = True

    density: Annotated[float, Gt(0), Lt(1)] = 0.25
    """b, share of the adapter's parameters that the gates are to leave."""
    steps: Annotated[int, Ge(20)] = 240
    """Steps of the gates, one batch each."""
    seed: Natural = 0
    """Of the gates' noise and the order of the batches."""

    def score(self, model: PeftModel, data: ScoringData | None) -> dict[str, Tensor]:
        """See the module."""
        assert data is not None
        sigma = to_singular_basis(model)
        own = component_costs(model)
        sizes = {name: len(row) for name, row in sigma.items()}
        costs = torch.cat(
            [torch.full((size,), own[name], dtype=torch.float64) for name, size in sizes.items()]
        )
        logits = self._learn(model, data.batches, sizes, costs)
        expected = HardConcrete().mean(logits)
        return dict(zip(sizes, expected.split(list(sizes.values())), strict=True))

    def _learn(
        self,
        model: PeftModel,
        batches: Sequence[dict[str, Tensor]],
        sizes: dict[str, int],
        costs: Tensor,
    ) -> Tensor:
        """log theta of all components, in the order of ``sizes``, with C = b."""
        logits = nn.Parameter(torch.zeros_like(costs))
        optimizer = torch.optim.Adam([logits], lr=2 * TRAVEL / self.steps, betas=BETAS)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, self.steps)
        generator = torch.Generator().manual_seed(self.seed)
        order = _shuffled(batches, generator)
        values: dict[str, Tensor] = {}
        with passes(model) as handles:
            for name, layer in lora_layers(model).items():
                down: Any = down_and_up(layer)[0]
                handles.add(down.register_forward_hook(_gated_by(values, name)))
            for step in range(self.steps):
                hold(logits, costs, self.density ** min(1.0, (step + 1) / (self.steps / 2)))
                gates = _drawn(logits, generator)
                values.update(zip(sizes, gates.split(list(sizes.values())), strict=True))
                loss = model(**next(order)).loss
                (pull,) = torch.autograd.grad(loss, logits)
                (cost,) = torch.autograd.grad(_share(logits, costs), logits)
                logits.grad = pull - pull.sum() / cost.sum() * cost
                optimizer.step()
                schedule.step()
        hold(logits, costs, self.density)
        return logits.detach()


@torch.no_grad()
def hold(logits: Tensor, costs: Tensor, share: float) -> None:
    """Shift all of log theta by one number, in place, so that the expected share is ``share``.

    Args:
        logits: (n,), float64.
        costs: (n,), parameters of each component.
        share: C, in (0, 1).
    """
    low, high = -BOUND, BOUND
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if _share(logits - middle, costs) > share:
            low = middle
        else:
            high = middle
    logits -= (low + high) / 2


def _share(logits: Tensor, costs: Tensor) -> Tensor:
    """C(theta), one gate a row."""
    return density(expected_l0(logits.unsqueeze(-1)), costs, 1)


def _drawn(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Gates with their noise, drawn from no generator but its own."""
    with torch.random.fork_rng(devices=[]):
        seed = int(torch.randint(2**62, (), generator=generator))
        torch.default_generator.manual_seed(seed)  # that of the CPU, where the gates are
        return HardConcrete().values(logits, sample=True)


def _gated_by(values: dict[str, Tensor], name: str) -> Any:
    """A hook that multiplies A x by its layer's gates: s B diag(g) A x."""

    def gate(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output * values[name].to(output)

    return gate


def _shuffled(items: Sequence[T], generator: torch.Generator) -> Iterator[T]:
    """All items in a random order, again and again."""
    while True:
        for index in torch.randperm(len(items), generator=generator).tolist():
            yield items[index]

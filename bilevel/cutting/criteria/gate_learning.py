"""Learn hard-concrete gates on the components of a trained adapter, under one budget.

The equations are in :mod:`bilevel.cutting.criteria.gates`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from peft import PeftModel
from torch import Tensor, nn

from bilevel.cutting.criteria.passes import passes
from bilevel.lowrank.gate_kinds import HardConcrete
from bilevel.lowrank.layers import down_and_up, lora_layers
from bilevel.lowrank.regularizers import density, expected_l0

__all__ = ["hold", "learn"]

# As problems.salora has them: how far log theta can come with all steps at full length, while the
# rate falls linearly to 0; and Adam's memories, short ones.
TRAVEL = 20.0
BETAS = (0.8, 0.95)
BOUND = 100.0  # |nu|, beyond anything that log theta can be
HALVINGS = 60  # of the interval that nu lies in: to the last digit of float64

T = TypeVar("T")


def learn(
    model: PeftModel,
    batches: Sequence[dict[str, Tensor]],
    sizes: dict[str, int],
    costs: Tensor,
    share: float,
    steps: int,
    seed: int,
) -> Tensor:
    """log theta (n,) of all components, in the order of ``sizes``, with C = b.

    Args:
        model: in the singular basis.
        batches: padded, with ``labels``.
        sizes: layer -> its components.
        costs: (n,), parameters of each, float64.
        share: b.
        steps: of the gates, one batch each.
        seed: of their noise and the order of the batches.
    """
    logits = nn.Parameter(torch.zeros_like(costs))
    optimizer = torch.optim.Adam([logits], lr=2 * TRAVEL / steps, betas=BETAS)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    generator = torch.Generator().manual_seed(seed)
    order = _shuffled(batches, generator)
    values: dict[str, Tensor] = {}
    with passes(model) as handles:
        for name, layer in lora_layers(model).items():
            down: Any = down_and_up(layer)[0]
            handles.add(down.register_forward_hook(_gated_by(values, name)))
        for step in range(steps):
            hold(logits, costs, share ** min(1.0, (step + 1) / (steps / 2)))
            gates = _drawn(logits, generator)
            values.update(zip(sizes, gates.split(list(sizes.values())), strict=True))
            loss = model(**next(order)).loss
            (pull,) = torch.autograd.grad(loss, logits)
            (cost,) = torch.autograd.grad(_share(logits, costs), logits)
            logits.grad = pull - pull.sum() / cost.sum() * cost
            optimizer.step()
            schedule.step()
    hold(logits, costs, share)
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

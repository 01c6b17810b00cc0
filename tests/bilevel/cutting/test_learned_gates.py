"""Gates reach their density whatever the loss, and find the components that the labels need."""

import math

import pytest
import torch

from bilevel.cutting import Ranking, ScoringData
from bilevel.cutting.criteria import LearnedGates
from bilevel.cutting.criteria.gate_learning import _drawn, hold
from bilevel.cutting.ranking import masked
from bilevel.lowrank import component_costs, lora_layers
from bilevel.lowrank.gate_kinds import HardConcrete
from bilevel.lowrank.gates import Gates
from bilevel.lowrank.singular import to_singular_basis
from tests.bilevel.cutting.conftest import _losses
from tests.bilevel.exported import logits


def opened(logit: torch.Tensor) -> torch.Tensor:
    """P(g > 0) of hard-concrete gates, by drawing them."""
    gates = Gates(["a"], len(logit), "hard_concrete").double()
    gates.logits.data = logit.expand(1, -1).clone()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [gates.compute(sample=True)[0] > 0 for _ in range(4000)]
    return torch.stack(drawn).double().mean(0)


@pytest.mark.parametrize("share", [0.02, 0.25, 0.9])
def test_a_common_shift_holds_the_expected_share(share):
    generator = torch.Generator().manual_seed(0)
    theta = 6 * torch.randn(40, generator=generator, dtype=torch.float64)
    costs = torch.tensor([10.0] * 20 + [30.0] * 20, dtype=torch.float64)
    held = theta.clone()
    hold(held, costs, share)
    moved = held - theta
    torch.testing.assert_close(moved, moved[:1].expand(40), rtol=0, atol=1e-12)
    found = (costs * opened(held)).sum() / costs.sum()
    assert found.item() == pytest.approx(share, abs=0.005)  # 4,000 draws: +- 0.001


def planted(adapted, seed: int = 0):
    """A model, data, and the four components that the labels come from, none the largest.

    The rest of the adapter only disturbs. The head is standardised, so that every class occurs.
    """
    model = adapted("bert", target_modules=["value"], r=6, lora_alpha=24)
    head = model.get_submodule("base_model.model.classifier.modules_to_save.default")
    to_singular_basis(model)
    names = list(lora_layers(model))
    useful = {name: torch.zeros(6, dtype=torch.bool) for name in names}
    useful[names[0]][[1, 2]] = True
    useful[names[1]][[1, 2]] = True
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(4, 50, (16, 8), generator=generator) for _ in range(12)]
    batches = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in ids]
    with masked(model, useful), torch.no_grad():
        head.bias.zero_()
        plain = torch.cat([logits(model, batch) for batch in batches])
        head.weight *= 4 / plain.std(0)[:, None]
        head.bias -= 4 * plain.mean(0) / plain.std(0)
        for batch in batches:
            batch["labels"] = logits(model, batch).argmax(-1)
    return model, batches, useful


def _never():
    raise AssertionError("gates learn from batches")


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_gates_find_components_as_good_as_the_planted_ones(adapted, scale):
    """At any size of the loss, which is what the budget has to hold against."""
    model, batches, useful = planted(adapted)
    held_out = batches[8:]

    def loss(keep) -> float:
        with masked(model, keep):
            return _losses(model, held_out).mean

    handle = model.base_model.register_forward_hook(
        lambda module, args, output: output.__setitem__("loss", scale * output.loss)
    )
    density = 4 / 12
    scores = LearnedGates(density=density).score(model, ScoringData(batches[:8], _never))
    handle.remove()
    found = Ranking.of(model, scores).first(4)
    by_size = Ranking.of(model, to_singular_basis(model)).first(4)
    whole = {name: torch.ones(6, dtype=torch.bool) for name in useful}
    learned = loss(whole) - loss(useful)  # what the other eight components spoil
    assert learned > 0.3
    assert loss(found) - loss(useful) < 0.15 * learned
    assert loss(by_size) - loss(useful) > 0.5 * learned
    # P(g > 0) is above E[g], and the share of it was held
    assert 0.5 * density < torch.cat(list(scores.values())).mean() < density


def test_every_step_is_at_its_density_and_leaves_the_sum_of_log_theta(
    adapted, scoring, monkeypatch
):
    """With lambda solved for, dL/dv + lambda dC/dv has no part along the common shift."""
    seen, step = [], torch.optim.Adam.step

    def recorded(self, *args, **kwargs):
        (logits,) = self.param_groups[0]["params"]
        seen.append((logits.detach().clone(), logits.grad.clone()))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", recorded)
    model = adapted("bert")
    LearnedGates(density=0.2, steps=20).score(model, scoring(model))
    costs = torch.cat([torch.full((4,), cost) for cost in component_costs(model).values()]).double()
    assert len(seen) == 20
    assert seen[0][1].abs().max() > 0  # later all drawn gates may be shut or wide open
    for number, (theta, gradient) in enumerate(seen, start=1):
        share = (costs * torch.sigmoid(theta + math.log(11))).sum() / costs.sum()
        assert share.item() == pytest.approx(0.2 ** min(1.0, number / 10), abs=1e-9)
        assert abs(gradient.sum().item()) <= 1e-9 * gradient.abs().sum().item()


def test_gates_are_drawn_anew_with_the_noise_of_hard_concrete_ones():
    logits = torch.tensor([-2.0, 0.0, 2.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([_drawn(logits, generator) for _ in range(4000)])
    assert (draws.std(0) > 0.1).all()
    torch.testing.assert_close(draws.mean(0), HardConcrete().mean(logits), rtol=0, atol=0.025)

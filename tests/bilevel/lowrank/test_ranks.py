"""Rank rules: closed forms, their invariants, and the parameter budget."""

import itertools

import pytest
import torch
from peft.utils.other import get_pattern_key

from bilevel.errors import UserError
from bilevel.lowrank.gates import Gates
from bilevel.lowrank.layers import component_costs, lora_layers, lora_pattern, lora_scales
from bilevel.lowrank.ranks import RULES, budget, fixed, mean, positive, raw_share, threshold


def layers(**rows) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(row, dtype=torch.float64) for name, row in rows.items()}


def random_logits(n=200, k=8, dtype=torch.float64) -> torch.Tensor:
    return 2 * torch.randn(n, k, generator=torch.Generator().manual_seed(0), dtype=dtype)


def test_every_rule_on_one_example():
    values = layers(a=[0.5, 0.3, 0.1, 0.1], b=[0.25, 0.25, 0.25, 0.25], c=[0.7, 0.1, 0.1, 0.1])
    assert threshold(values) == {"a": 2, "b": 4, "c": 1}
    assert mean(values) == {"a": 2, "b": 4, "c": 1}
    assert fixed(values) == {"a": 1, "b": 0, "c": 1}
    assert fixed(values, bound=0.1) == {"a": 4, "b": 4, "c": 4}
    assert threshold.keep(values)["a"].tolist() == [True, True, False, False]


def test_fixed_counts_a_gate_at_the_bound_and_the_size_of_negative_ones():
    assert fixed(layers(a=[0.5, 0.499, -0.6])) == {"a": 2}


def test_mean_of_unconstrained_gates_may_be_negative():
    assert mean.keep(layers(a=[-1.0, -2.0, -6.0]))["a"].tolist() == [True, True, False]
    assert mean(layers(a=[0.3, 0.3, 0.3], b=[-0.3, -0.3, -0.3])) == {"a": 3, "b": 3}


def test_positive_is_strict():
    assert positive(layers(a=[0.0, 1e-9, 1.0], b=[0.0, 0.0, 0.0])) == {"a": 2, "b": 0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 3, 7, 8, 16])
@pytest.mark.parametrize("level", [0.0, 1.0, -0.7])
def test_uniform_logits_keep_all(dtype, k, level):
    gates = Gates(["a"], k, init=level).to(dtype)
    assert threshold(gates) == raw_share(gates) == mean(gates) == {"a": k}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_softmax_rank_is_at_least_one_and_at_most_the_raw_share(dtype):
    logits = random_logits(dtype=dtype)
    names = [str(i) for i in range(len(logits))]
    by_share = raw_share(logits, names=names)
    by_softmax = threshold(torch.softmax(logits, 1), names=names)
    assert all(1 <= by_softmax[n] <= by_share[n] for n in names)
    assert any(by_softmax[n] < by_share[n] for n in names)
    share_mask = raw_share.keep(logits, names=names)
    softmax_mask = threshold.keep(torch.softmax(logits, 1), names=names)
    assert all((share_mask[n] | ~softmax_mask[n]).all() for n in names)


def test_raw_share_is_the_released_formula_for_positive_sums():
    logits = random_logits().abs()
    names = [str(i) for i in range(len(logits))]
    literal = (logits / logits.sum(1, keepdim=True) >= 1 / logits.shape[1]).sum(1).tolist()
    assert list(raw_share(logits, names=names).values()) == literal


def test_gates_hand_each_rule_what_it_needs():
    gates = Gates(["a"], 3).double()
    gates.logits.data = torch.tensor([[0.0, 1.0, 4.0]], dtype=torch.float64)
    assert threshold(gates) == {"a": 1}  # softmax: 0.02, 0.05, 0.94
    assert raw_share(gates) == {"a": 1}
    gates.logits.data = torch.tensor([[-9.0, 1.0, 4.0]], dtype=torch.float64)
    assert threshold(gates) == {"a": 1}
    assert raw_share(gates) == {"a": 2}  # the mean logit is -4/3


def test_positive_keeps_hard_concrete_gates_above_their_closed_form_bound():
    gates = Gates(["a"], 3, "hard_concrete").double()
    gates.logits.data = torch.tensor([[-2.3980, -2.3978, 0.0]], dtype=torch.float64)
    assert positive.keep(gates)["a"].tolist() == [False, True, True]


# ---------------------------------------------------------------- budget


def test_budget_takes_the_largest_gates_of_all_layers():
    values = layers(a=[0.9, 0.2], b=[0.5, 0.4])
    costs = {"a": 10, "b": 10}
    assert budget(values, costs=costs, budget=30) == {"a": 1, "b": 2}
    assert budget(values, costs=costs, budget=29) == {"a": 1, "b": 1}
    assert budget(values, costs=costs, budget=0) == {"a": 0, "b": 0}
    assert budget(values, costs=costs, budget=10**6) == {"a": 2, "b": 2}


def test_budget_knows_that_layers_differ_in_size():
    values = layers(a=[0.9, 0.8], b=[0.7, 0.1])
    assert budget(values, costs={"a": 60, "b": 20}, budget=100) == {"a": 1, "b": 2}


def test_budget_with_a_floor():
    values = layers(a=[0.9, 0.8, 0.7], b=[0.1, 0.2, 0.0])
    costs = {"a": 10, "b": 10}
    keep = budget.keep(values, costs=costs, budget=30, at_least=1)
    assert keep["a"].tolist() == [True, True, False]
    assert keep["b"].tolist() == [False, True, False]
    with pytest.raises(UserError, match="take 20 parameters, more than the budget of 19"):
        budget(values, costs=costs, budget=19, at_least=1)


def test_budget_shares_equal_gates_out_evenly():
    values = {name: torch.full((4,), 0.25) for name in "abcd"}
    assert set(budget(values, costs=dict.fromkeys("abcd", 10), budget=80).values()) == {2}


def test_budget_is_never_exceeded_and_never_leaves_room_for_a_component():
    generator = torch.Generator().manual_seed(1)
    values = {str(i): torch.rand(6, generator=generator) for i in range(5)}
    costs = {str(i): 7 + 5 * i for i in range(5)}
    for total, at_least in itertools.product(range(90, 600, 37), (0, 1)):
        ranks = budget(values, costs=costs, budget=total, at_least=at_least)
        spent = sum(costs[n] * r for n, r in ranks.items())
        assert spent <= total
        assert all(spent + costs[n] > total for n, r in ranks.items() if r < 6)
        assert all(r >= at_least for r in ranks.values())


# ---------------------------------------------------------------- bad input, names, costs


def test_rules_are_reachable_by_name():
    assert {name: rule.name for name, rule in RULES.items()} == {
        n: n for n in ("threshold", "mean", "fixed", "positive", "budget", "raw_share")
    }
    assert all(rule.__doc__ for rule in RULES.values())


def test_bad_values_are_refused():
    with pytest.raises(UserError, match="as many layer names as rows"):
        threshold(torch.ones(2, 3))
    with pytest.raises(UserError, match="gates of a are not finite"):
        threshold(layers(a=[float("nan"), 1.0]))
    with pytest.raises(UserError, match="no cost is given for layer b"):
        budget(layers(a=[1.0], b=[1.0]), costs={"a": 3}, budget=5)


def test_component_costs_add_up_to_the_adapter(adapted):
    model = adapted(modules_to_save=None)
    costs = component_costs(model)
    lora = sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
    assert 4 * sum(costs.values()) == lora
    assert set(costs.values()) == {16 + 16, 16 + 24}


def test_pattern_gives_each_layer_its_own_rank_and_scale(adapted):
    names = list(lora_layers(adapted()))
    ranks = dict(zip(names, itertools.cycle([1, 3, 0, 2]), strict=False))
    scales = {name: 1.5 + i for i, name in enumerate(names)}
    model = adapted(**lora_pattern(ranks, scales))
    found = {n: layer.r["default"] for n, layer in lora_layers(model).items()}
    assert found == {n: r for n, r in ranks.items() if r}
    assert lora_scales(model) == pytest.approx({n: scales[n] for n in found}, abs=1e-12)


def test_pattern_keys_tell_layer_1_from_layer_11():
    ranks = {f"model.layers.{i}.q_proj": 1 + i for i in range(12)}
    made = lora_pattern(ranks, dict.fromkeys(ranks, 2.0))
    for name, rank in ranks.items():
        key = get_pattern_key(made["rank_pattern"], name)
        assert made["rank_pattern"].get(key, made["r"]) == rank
        key = get_pattern_key(made["alpha_pattern"], name)
        assert made["alpha_pattern"].get(key, made["lora_alpha"]) == 2 * rank


def test_pattern_refuses_an_adapter_without_any_component():
    with pytest.raises(UserError, match="every layer has rank 0"):
        lora_pattern({"a": 0}, {"a": 2.0})

"""Gates: their values, what the model computes with them, and that they stay out of its way."""

import copy

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from bilevel.errors import UserError
from bilevel.lowrank.attach import attach_gates, fold_gates, gated_layers
from bilevel.lowrank.gate_kinds import KINDS
from bilevel.lowrank.gates import Gates
from bilevel.lowrank.layers import lora_layers


def gates_for(model, kind="softmax", k=4, spread=1.0) -> Gates:
    gates = Gates(list(lora_layers(model)), k, kind).double()
    with torch.no_grad():
        gates.logits.copy_(spread * torch.randn(gates.logits.shape, generator=generator()))
    return gates


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


# ---------------------------------------------------------------- values


def test_softmax_rows_sum_to_one_and_are_uniform_at_zero():
    gates = Gates(["a", "b"], 8)
    torch.testing.assert_close(gates.values(), torch.full((2, 8), 1 / 8))
    nn.init.normal_(gates.logits)
    torch.testing.assert_close(gates.values().sum(1), torch.ones(2))
    assert (gates.values() > 0).all()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("softmax", [0.25, 0.75]),
        ("sigmoid", [0.5, 0.75]),
        ("real", [0.0, 1.0986122886681098]),
        # sigmoid(v) * 1.2 - 0.1
        ("hard_concrete", [0.5, 0.8]),
        ("joint_softmax", [0.5, 1.5]),
    ],
)
def test_closed_forms(kind, expected):
    gates = Gates(["a"], 2, kind).double()
    gates.logits.data = torch.tensor([[0.0, 1.0986122886681098]], dtype=torch.float64)  # 0, log 3
    torch.testing.assert_close(
        gates.value("a"), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
def test_attached_gates_are_as_precise_as_the_factors(factors, expected, adapted):
    model = adapted().to(factors)
    gates = Gates(list(lora_layers(model)), 4)
    logits = gates.logits
    attach_gates(model, gates)
    assert gates.logits is logits  # an optimiser may hold it
    assert logits.dtype == gates.values().dtype == expected


def test_default_start_of_every_kind():
    starts = {kind: Gates(["a"], 4, kind).values()[0, 0].item() for kind in KINDS}
    assert starts == pytest.approx(
        {"softmax": 0.25, "sigmoid": 0.5, "real": 1.0, "hard_concrete": 0.5, "joint_softmax": 1.0}
    )
    assert Gates(["a"], 2, "softmax", init=1.0).logits.tolist() == [[1.0, 1.0]]
    assert Gates(["a"], 2).logits.dtype == torch.float32


def test_what_one_gate_of_a_joint_softmax_gains_those_of_other_layers_lose():
    gates = Gates(["a", "b", "c"], 4, "joint_softmax").double()
    with torch.no_grad():
        gates.logits[1, 2] += 1.0
    values = gates.values().detach()
    e = torch.tensor(1.0, dtype=torch.float64).exp().item()
    expected = torch.full((3, 4), 12 / (11 + e), dtype=torch.float64)
    expected[1, 2] *= e
    torch.testing.assert_close(values, expected, rtol=1e-12, atol=0)


def test_gates_start_anew_at_their_first_value():
    gates = Gates(["a"], 3, "hard_concrete", init=3.0)
    nn.init.normal_(gates.logits)
    before = gates.logits
    gates.restart()
    assert gates.logits is before
    assert gates.logits.tolist() == [[3.0] * 3]


def test_hard_concrete_is_positive_exactly_above_minus_log_eleven():
    gates = Gates(["a"], 2, "hard_concrete").double()
    assert gates.keep_logit() == pytest.approx(-2.397895, abs=1e-6)
    with torch.no_grad():
        gates.logits.copy_(torch.tensor([[-2.3980, -2.3978]]))
    values = gates.value("a")
    assert values[0] == 0
    assert values[1] > 0


def test_hard_concrete_samples_follow_their_distribution():
    torch.manual_seed(0)
    gates = Gates([str(i) for i in range(1000)], 200, "hard_concrete")
    sample = gates.compute(sample=True).detach()
    assert sample.min() >= 0
    assert sample.max() <= 1
    # P(g > 0) = sigmoid(log theta - tau log(-gamma/zeta)) = 11/12 at log theta = 0; three sigma.
    assert (sample > 0).double().mean().item() == pytest.approx(11 / 12, abs=0.002)
    assert (sample == 1).double().mean().item() == pytest.approx(1 / 12, abs=0.002)
    assert sample.mean().item() == pytest.approx(0.5, abs=0.002)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((["a"], 4, "gumbel"), "softmax, sigmoid, real, hard_concrete"),
        (([], 4), "at least one layer name"),
        ((["a", "a"], 4), "no name twice"),
        ((["a"], 0), "at least one component"),
    ],
)
def test_bad_gates_are_refused(arguments, words):
    with pytest.raises(UserError, match=words):
        Gates(*arguments)


def test_bad_hard_concrete_bounds_and_names_are_refused():
    with pytest.raises(UserError, match="zeta > 1"):
        Gates(["a"], 2, "hard_concrete", zeta=0.9)
    with pytest.raises(UserError, match="named 'b'"):
        Gates(["a"], 2).value("b")


# ---------------------------------------------------------------- in the model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
def test_gated_model_equals_plain_lora_with_the_gates_multiplied_in(adapted, batch, family, kind):
    model = adapted(family).eval()
    by_hand = copy.deepcopy(model)
    gates = gates_for(model, kind)
    for name, layer in lora_layers(by_hand).items():
        layer.lora_A["default"].weight.data *= gates.value(name).detach()[:, None]
    before = model(**batch).logits
    attach_gates(model, gates)
    gated = model(**batch).logits
    torch.testing.assert_close(gated, by_hand(**batch).logits, rtol=0, atol=1e-12)
    assert (gated - before).abs().max() > 1e-3
    fold_gates(model)
    torch.testing.assert_close(model(**batch).logits, gated, rtol=0, atol=1e-12)


def test_merging_and_delta_weights_see_the_gates(adapted):
    model = adapted()
    gates = gates_for(model)
    attach_gates(model, gates)
    for name, found in gated_layers(model).items():
        layer = lora_layers(model)[name]
        expected = 1.5 * found.B @ torch.diag(gates.value(name)) @ found.A  # lora_alpha / r = 6 / 4
        torch.testing.assert_close(layer.get_delta_weight("default"), expected, rtol=0, atol=1e-12)


def test_gates_do_not_belong_to_the_model(adapted):
    model = adapted()
    parameters = dict(model.named_parameters())
    gates = gates_for(model)
    attach_gates(model, gates)
    assert {id(p) for p in model.parameters()} == {id(p) for p in parameters.values()}
    assert not any(module is gates for module in model.modules())
    assert len(model.state_dict()) == len(set(model.state_dict()))
    assert not any("logits" in key for key in model.state_dict())
    fold_gates(model)
    assert {n: id(p) for n, p in model.named_parameters()} == {
        n: id(p) for n, p in parameters.items()
    }
    assert not any("gate" in key for layer in model.modules() for key in vars(layer))


def test_gated_layers_hands_out_the_live_parameters(adapted):
    model = adapted()
    assert gated_layers(model) == {}
    originals = {n: layer.lora_A["default"].weight for n, layer in lora_layers(model).items()}
    gates = gates_for(model)
    attach_gates(model, gates)
    found = gated_layers(model)
    assert list(found) == gates.names
    for name, layer in found.items():
        assert layer.A is originals[name]
        assert layer.B is lora_layers(model)[name].lora_B["default"].weight
        assert layer.gates is gates
        assert gates.names[layer.index] == name


def test_state_dict_round_trip_of_a_gated_model(adapted, batch):
    first, second = adapted().eval(), adapted().eval()
    gates = gates_for(first)
    attach_gates(first, gates)
    attach_gates(second, gates)
    for parameter in second.parameters():
        parameter.data.zero_()
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(**batch).logits, second(**batch).logits)


def test_a_deep_copy_has_gates_of_its_own(adapted, batch):
    model = adapted().eval()
    gates = gates_for(model)
    attach_gates(model, gates)
    model(**batch).loss.backward()
    twin = copy.deepcopy(model)
    expected = model(**batch).logits
    assert torch.equal(twin(**batch).logits, expected)
    gates.logits.data.mul_(-1)
    assert torch.equal(twin(**batch).logits, expected)
    assert not torch.equal(model(**batch).logits, expected)


def test_hard_concrete_draws_one_sample_a_training_forward_and_none_in_evaluation(adapted, batch):
    model = adapted()
    gates = gates_for(model, "hard_concrete")
    attach_gates(model, gates)
    seen: list[list[torch.Tensor]] = []

    def look(module, args):
        seen[-1].append((module.lora_A["default"].weight.detach().clone(), gates.values()))

    for layer in lora_layers(model).values():
        layer.register_forward_pre_hook(look)
    model.train()
    for _ in range(2):
        seen.append([])
        model(**batch)
    for forward in seen:
        values = forward[0][1]
        assert all(v is values for _, v in forward)
        for (weight, _), layer in zip(forward, gated_layers(model).values(), strict=True):
            torch.testing.assert_close(weight, layer.A * values[layer.index][:, None])
    assert not torch.equal(seen[0][0][1], seen[1][0][1])
    assert torch.equal(gates.values(), gates.compute())
    model.eval()
    seen.append([])
    model(**batch)
    assert torch.equal(seen[-1][0][1], gates.compute())


def test_replaying_the_random_state_replays_the_sample(adapted, batch):
    model = adapted(dropout=0.1).train()
    attach_gates(model, gates_for(model, "hard_concrete"))
    state = torch.get_rng_state()
    first = model(**batch).logits
    assert not torch.equal(model(**batch).logits, first)
    torch.set_rng_state(state)
    assert torch.equal(model(**batch).logits, first)


def test_a_forward_that_raises_leaves_nothing_behind(adapted, batch):
    model = adapted()
    gates = gates_for(model, "hard_concrete")
    attach_gates(model, gates)
    layer: LoraLayer = next(iter(lora_layers(model).values()))

    def fail(module, args):
        raise ZeroDivisionError

    handle = layer.register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError):
        model(**batch)
    handle.remove()
    assert torch.equal(gates.values(), gates.compute())
    gates.logits.data.add_(1.0)
    model.eval()
    weight = layer.lora_A["default"].weight
    torch.testing.assert_close(
        weight, gated_layers(model)[gates.names[0]].A * gates.compute()[0][:, None]
    )


def test_inner_model_and_peft_model_agree(adapted, batch):
    model = adapted()
    gates = gates_for(model, "hard_concrete")
    attach_gates(model, gates)
    torch.manual_seed(5)
    outer = model(**batch).logits
    torch.manual_seed(5)
    assert torch.equal(model.get_base_model()(**batch).logits, outer)


def test_mismatches_are_refused(adapted):
    model = adapted()
    names = list(lora_layers(model))
    with pytest.raises(UserError, match="missing from the gates"):
        attach_gates(model, Gates(names[1:], 4))
    with pytest.raises(UserError, match="missing from the model"):
        attach_gates(model, Gates([*names, "zzz"], 4))
    with pytest.raises(UserError, match="has rank 4, but its gates k = 8"):
        attach_gates(model, Gates(names, 8))
    with pytest.raises(UserError, match="no gates to fold"):
        fold_gates(model)
    attach_gates(model, Gates(names, 4))
    with pytest.raises(UserError, match="already has gates"):
        attach_gates(model, Gates(names, 4))
    with pytest.raises(UserError, match="no adapter named 'other'"):
        attach_gates(model, Gates(names, 4), adapter="other")


def test_unsupported_layers_are_refused(adapted):
    with pytest.raises(UserError, match="embedding"):
        lora_layers(adapted(target_modules=["word_embeddings"]))
    with pytest.raises(UserError, match="use_dora"):
        lora_layers(adapted(use_dora=True))

"""Derivatives through gated layers: first, mixed second, with swapped parameters, recomputed."""

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from bilevel.lowrank.attach import attach_gates, gated_layers
from bilevel.lowrank.gate_kinds import KINDS
from bilevel.lowrank.gates import Gates
from bilevel.lowrank.layers import lora_layers


def gated(adapted, kind="softmax", **options):
    model = adapted(**options)
    gates = Gates(list(lora_layers(model)), 4, kind).double()
    with torch.no_grad():
        gates.logits.copy_(
            torch.randn(gates.logits.shape, generator=torch.Generator().manual_seed(3))
        )
    attach_gates(model, gates)
    return model, gates


def slots(model: nn.Module, gates: Gates) -> list[tuple[nn.Module, str]]:
    """Return where the trainable parameters are registered, then where the logits are."""
    found = [
        (module, key)
        for module in model.modules()
        for key, parameter in module._parameters.items()
        if parameter is not None and parameter.requires_grad
    ]
    return [*found, (gates, "logits")]


@contextlib.contextmanager
def swapped(places, leaves) -> Iterator[None]:
    kept = [module._parameters[key] for module, key in places]
    for (module, key), leaf in zip(places, leaves, strict=True):
        module._parameters[key] = leaf
    try:
        yield
    finally:
        for (module, key), parameter in zip(places, kept, strict=True):
            module._parameters[key] = parameter


def fresh(places, scale=1.0) -> list[nn.Parameter]:
    return [nn.Parameter(module._parameters[key].detach() * scale) for module, key in places]


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_of_the_logits_agrees_with_central_differences(adapted, batch, kind):
    model, gates = gated(adapted, kind)
    model.eval()
    (gradient,) = torch.autograd.grad(model(**batch).loss, [gates.logits])
    direction = torch.randn(
        gates.logits.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64
    )
    step, losses = 1e-5, []
    for sign in (1, -1):
        with torch.no_grad():
            gates.logits.add_(sign * step * direction)
            losses.append(model(**batch).loss)
            gates.logits.sub_(sign * step * direction)
    difference = (losses[0] - losses[1]) / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(difference.item(), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_mixed_second_derivative_with_everything_swapped(adapted, batch, family, kind):
    """d/d(logits) <dL/dV, v> by double backward, against a central difference of dL/d(logits)."""
    model, gates = gated(adapted, kind, family=family)
    model.train()
    places = slots(model, gates)
    leaves = fresh(places, 0.9)
    weights = leaves[:-1]
    v = [
        torch.randn(w.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        for i, w in enumerate(weights)
    ]
    before = [parameter.clone() for parameter in model.parameters()]

    def gradients(values, create_graph=False):
        torch.manual_seed(7)  # the same hard-concrete noise in every forward
        with swapped(places, values):
            loss = model(**batch).loss
        return torch.autograd.grad(loss, values, create_graph=create_graph)

    first = gradients(leaves, create_graph=True)[:-1]
    inner = sum((g * d).sum() for g, d in zip(first, v, strict=True))
    (mixed,) = torch.autograd.grad(inner, [leaves[-1]])

    step, shifted = 1e-5, []
    for sign in (1, -1):
        moved = [
            nn.Parameter(w.detach() + sign * step * d) for w, d in zip(weights, v, strict=True)
        ]
        shifted.append(gradients([*moved, leaves[-1]])[-1])
    difference = (shifted[0] - shifted[1]) / (2 * step)
    assert mixed.abs().max() > 1e-4
    torch.testing.assert_close(mixed, difference, rtol=1e-5, atol=1e-8)
    # Nothing leaked into the parameters that were swapped out.
    assert gates.logits.grad is None
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


def test_swapped_parameters_are_what_gated_layers_hands_out(adapted):
    model, gates = gated(adapted)
    places = slots(model, gates)
    leaves = fresh(places)
    with swapped(places, leaves):
        inside = {id(p) for layer in gated_layers(model).values() for p in (layer.A, layer.B)}
    assert inside <= {id(leaf) for leaf in leaves}
    assert not inside & {id(p) for p in model.parameters()}


@pytest.mark.parametrize("kind", ["softmax", "hard_concrete"])
def test_gate_gradient_from_the_factors_gradients(adapted, batch, kind):
    """Only g_j A_j enters the network, so g_j dL/dg_j = <dL/dA_j, A_j>; checked on every gate."""
    model, gates = gated(adapted, kind)
    model.eval()
    layers = gated_layers(model)
    values = gates.values()
    downs = [layer.A for layer in layers.values()]
    first = torch.autograd.grad(model(**batch).loss, [*downs, gates.logits])
    for row, A in enumerate(downs):
        along = (first[row] * A).sum(1)
        # dL/dlogits = (dg/dlogits)^T dL/dg, with dL/dg = along / g where g is not 0.
        alive = values[row] > 0
        gate_gradient = torch.where(alive, along / values[row].clamp(min=1e-30), 0.0)
        (back,) = torch.autograd.grad(
            values[row], gates.logits, gate_gradient.detach(), retain_graph=True
        )
        torch.testing.assert_close(back[row], first[-1][row], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("kind", ["softmax", "hard_concrete"])
def test_gradient_checkpointing_recomputes_with_the_same_sample(adapted, batch, kind):
    found = []
    for checkpointing in (False, True):
        model, gates = gated(adapted, kind, dropout=0.1)
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        places = slots(model, gates)
        leaves = [module._parameters[key] for module, key in places]
        torch.manual_seed(7)
        first = torch.autograd.grad(model(**batch).loss, leaves, create_graph=True)
        second = torch.autograd.grad(sum((g * g).sum() for g in first), leaves)
        found.append([*first, *second])
    for plain, recomputed in zip(*found, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=0, atol=1e-12)


def test_a_forward_without_graph_may_come_between_a_checkpointed_forward_and_its_backward(
    adapted, batch
):
    model, gates = gated(adapted, "hard_concrete")
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(7)
    (expected,) = torch.autograd.grad(model(**batch).loss, [gates.logits])
    torch.manual_seed(7)
    loss = model(**batch).loss
    with torch.no_grad():
        model(**batch)
    (gradient,) = torch.autograd.grad(loss, [gates.logits])
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


def test_a_forward_computes_gates_and_effective_weights_once(adapted, batch, monkeypatch):
    """PEFT reads lora_A.weight twice a layer, once just for its dtype; both must be look-ups."""
    model, gates = gated(adapted)
    seen, recomputed, computed = {}, [], []
    for name, layer in lora_layers(model).items():
        down = layer.lora_A["default"]
        down.parametrizations["weight"].register_forward_pre_hook(
            lambda module, args: recomputed.append(module)
        )
        layer.register_forward_pre_hook(
            lambda module, args, name=name, down=down: seen.update({name: down.weight})
        )
        layer.register_forward_hook(
            lambda module, args, output, name=name, down=down: seen.update(
                {name: (seen[name], down.weight)}
            )
        )
    compute = gates.compute
    monkeypatch.setattr(
        gates, "compute", lambda sample=False: computed.append(1) or compute(sample)
    )
    model(**batch)
    assert set(seen) == set(gates.names)
    assert all(first is last for first, last in seen.values())
    assert recomputed == []
    assert computed == [1]
    monkeypatch.undo()
    lora_layers(model)[gates.names[0]].get_delta_weight("default")  # outside a forward
    assert len(recomputed) == 1


def test_autocast_gives_gradients_in_the_parameters_precision(adapted, batch):
    model, gates = gated(adapted)
    model, gates = model.float(), gates.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**batch).loss
    loss.backward()
    assert gates.logits.grad is not None
    assert gates.logits.grad.dtype == torch.float32
    assert gates.logits.grad.abs().max() > 0
    assert all(layer.A.grad.dtype == torch.float32 for layer in gated_layers(model).values())

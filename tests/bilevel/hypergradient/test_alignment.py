"""`alignment`: its closed form against autograd on the product of the factors, and its scale."""

import pytest
import torch

from bilevel.errors import UserError
from bilevel.hypergradient import Alignment, FiniteDifference, Unrolled
from bilevel.hypergradient.derivatives import dot
from bilevel.lowrank import gated_layers
from bilevel.lowrank.layers import lora_layers
from bilevel.nests import clone_nested
from tests.bilevel.text_toys import two_text_levels
from tests.bilevel.toys import STRICT, Spy, cosine, flat, relative_error

pytestmark = STRICT


def block_diagonal(vector, lower, upper, step):
    """- d/dt dL1/dlogits(V + t v) with dL1/dP of every layer held constant, by autograd.

    P = sum_j g_j b_j a_j is what enters the network. dL1/dP comes from hooks on the layer: the
    gradient of the output times the input (with dropout masks replayed).
    """
    model = lower.module
    parameters = lower.trainable_parameters()
    direction = {id(p): v for p, v in zip(parameters, vector, strict=True)}
    layers = {
        name: (lora_layers(model)[name], found) for name, found in gated_layers(model).items()
    }
    handles, inputs, outputs = [], {}, {}
    for name, (layer, _) in layers.items():

        def keep(module, args, output, name=name):
            inputs[name], outputs[name] = args[0].detach(), output

        handles.append(layer.register_forward_hook(keep))
    kept = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for p, w in zip(parameters, step.weights, strict=True):
            p.copy_(w)
    with torch.random.fork_rng():
        torch.set_rng_state(lower.state_at_loss)
        loss = model(**lower.cur_batch).loss
    grads = dict(zip(outputs, torch.autograd.grad(loss, list(outputs.values())), strict=True))
    for handle in handles:
        handle.remove()
    total = 0.0
    for name, (layer, match) in layers.items():
        scaling = layer.scaling["default"]
        G = scaling * torch.einsum("bso,bsi->oi", grads[name], inputs[name])
        gate = match.gates.compute()[match.index]
        A, B = match.A.detach(), match.B.detach()
        vA, vB = direction[id(match.A)], direction[id(match.B)]
        # d/dt of sum_j g_j (b_j + t vb_j)(a_j + t va_j) at t = 0, gates left free:
        change = vB @ (gate[:, None] * A) + B @ (gate[:, None] * vA)
        total = total + (G * change).sum()
    (found,) = torch.autograd.grad(total, upper.trainable_parameters())
    with torch.no_grad():
        for p, w in zip(parameters, kept, strict=True):
            p.copy_(w)
    return -found


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "real"])
def test_closed_form_is_the_block_diagonal_part(kind):
    errors, cosines = [], []

    def look(vector, lower, upper, answer):
        step = lower.recorded.steps[-1]
        expected = block_diagonal(vector, lower, upper, step).reshape(-1)
        errors.append(relative_error(flat(answer), expected))
        exact = FiniteDifference(difference="central").implicit_term(vector, lower, upper)
        cosines.append(cosine(flat(answer), flat(exact)))

    engine, *_ = two_text_levels(
        Spy(Alignment(calibrate_every=0, preconditioned=False), look),
        steps=3,
        dtype=torch.float64,
        kind=kind,
    )
    engine.run()
    print(f"{kind}: cosine to the mixed product {[round(c, 3) for c in cosines]}")
    assert len(errors) == 3
    assert max(errors) < 1e-8


def test_preconditioning_puts_the_optimiser_step_in_between():
    """With it, the closed form along D v, D = d update / d gradient, by one-sided differences."""
    errors = []

    def look(vector, lower, upper, answer):
        step = lower.recorded.steps[-1]
        values = lower.recorded.upper_values[upper.name]
        moved = sama_direction(step, vector)
        expected = Alignment().closed_form(moved, lower, upper, step, values)
        errors.append(relative_error(flat(answer), flat(expected)))

    def sama_direction(step, vector):
        """D v for AdamW from a zero state: m = (1-b1) g, v = (1-b2) g^2, both bias-corrected."""
        return [
            v * 3e-3 * (1 / (g.abs() + 1e-8) - g.abs() / (g.abs() + 1e-8) ** 2)
            for v, g in zip(vector, step.gradient, strict=True)
        ]

    engine, *_ = two_text_levels(
        Spy(Alignment(calibrate_every=0, preconditioned=True), look), dtype=torch.float64
    )
    engine.run()
    assert max(errors) < 1e-4


def test_fixed_scale_multiplies():
    found = {}
    for scale in (1.0, 0.25):

        def look(vector, lower, upper, answer, scale=scale):
            found[scale] = flat(answer)

        engine, *_ = two_text_levels(Spy(Alignment(calibrate_every=0, scale=scale), look))
        engine.run()
    assert torch.allclose(found[0.25], 0.25 * found[1.0], rtol=1e-6)


def test_calibration_is_the_best_scale_and_lasts():
    """At a calibration the answer is the projection of the exact term; in between, its scale."""
    scales, projections = [], []

    def look(vector, lower, upper, answer):
        closed = Alignment(calibrate_every=0).implicit_term(vector, lower, upper)
        scales.append(float(dot(answer, closed) / dot(closed, closed)))
        exact = Unrolled(keep_graph=False).implicit_term(vector, lower, upper)
        projections.append(float(dot(exact, closed) / dot(closed, closed)))

    def separate(vector, lower, upper, answer):
        memory = dict(lower.estimator_state)
        lower.estimator_state.clear()
        look(vector, lower, upper, answer)
        lower.estimator_state.update(memory)

    engine, *_ = two_text_levels(
        Spy(Alignment(calibrate_every=3), separate), steps=6, unroll_steps=2, dtype=torch.float64
    )
    engine.run()
    assert scales[0] == pytest.approx(projections[0], rel=1e-9)
    assert scales[3] == pytest.approx(projections[3], rel=1e-9)
    assert scales[1:3] == pytest.approx([scales[0]] * 2, rel=1e-9)
    assert scales[4] == pytest.approx(scales[3], rel=1e-9)
    assert scales[3] != pytest.approx(scales[0], rel=1e-3)


def test_calibration_is_part_of_the_state():
    engine, lower, _ = two_text_levels(Alignment(calibrate_every=5), steps=2)
    engine.run()
    state = clone_nested(engine.state_dict())
    other, lower2, _ = two_text_levels(Alignment(calibrate_every=5), steps=2)
    other.load_state_dict(state)
    assert lower2.estimator_state == lower.estimator_state
    assert lower2.estimator_state["alignment_calls"] == 2


def test_an_overflow_in_fp16_does_not_spoil_the_scale():
    """A step that the gradient scaler skips has no term, and nothing is calibrated on it."""
    found, applied = [], []

    def look(vector, lower, upper, answer):
        found.append(flat(answer))
        applied.append(lower.recorded.steps[-1].applied)

    engine, lower, _ = two_text_levels(
        Spy(Alignment(), look), steps=14, lower_options={"precision": "fp16"}
    )
    lower.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**28)
    engine.run()
    steps = list(zip(applied, found, strict=True))
    assert not applied[0]
    assert applied[-1]
    assert all(torch.isfinite(term).all() for _, term in steps)
    assert all(bool(term.any()) == step_taken for step_taken, term in steps)
    assert torch.isfinite(lower.estimator_state["alignment_scale"])
    assert lower.estimator_state["alignment_calls"] == sum(applied)


def test_gates_of_zero_give_finite_terms():
    found = []
    engine, _, upper = two_text_levels(
        Spy(Alignment(calibrate_every=0), lambda *a: found.append(flat(a[-1]))), kind="real"
    )
    with torch.no_grad():
        upper.module.logits[0, 0] = 0.0
    engine.run()
    assert torch.isfinite(found[0]).all()


def test_noisy_gates_are_refused():
    with pytest.raises(UserError, match=r"hard-concrete.*finite_difference"):
        two_text_levels(Alignment(), kind="hard_concrete")
    with pytest.raises(UserError, match="calibrate_every"):
        Alignment(calibrate_every=-1)


def test_only_windows_that_calibrate_are_recorded_in_full():
    engine, lower, _ = two_text_levels(Alignment(calibrate_every=3), steps=6, unroll_steps=2)
    depths = []
    step = lower.one_step_descent

    def watched(batch=None):
        depths.append(lower.recorder.needs.depth)
        return step(batch)

    lower.one_step_descent = watched
    engine.run()
    assert depths == [None, None, 1, 1, 1, 1, None, None, 1, 1, 1, 1]

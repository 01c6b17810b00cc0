"""Derivatives of the functional steps: differences, gradcheck, hand-worked values, TorchOpt."""

from dataclasses import replace

import pytest
import torch

from bilevel.hypergradient.optimizers import clone_together, functional_step, snapshot, step_vjp
from tests.bilevel.optimizer_cases import (
    CASES,
    SGD,
    Adam,
    AdamW,
    build,
    make_params,
    random_like,
    state_names,
    torch_step,
    warmed_up,
)


@pytest.mark.parametrize("max_norm", [0.0, 0.7])
@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("case", CASES)
def test_vjp_against_central_differences(case, steps, max_norm):
    """<adjoint of inputs, direction> = d/dh <adjoint of outputs, step(inputs + h direction)>.

    The outputs differenced are those of functional_step, which the tests above tie to torch.optim.
    """
    params, optimizer = warmed_up(case, steps)
    taken, values = snapshot(optimizer, params), clone_together(params)
    grads = random_like(params, 50)
    names = state_names(taken)
    _, out_state = functional_step(taken, values, grads, max_norm)
    bar_p = random_like(params, 60)
    bar_s = [
        {k: random_like([p], 70 + 7 * i + j)[0] for j, k in enumerate(sorted(s)) if k != "step"}
        for i, (p, s) in enumerate(zip(params, out_state, strict=True))
    ]
    adj_p, adj_g, adj_s = step_vjp(taken, values, grads, bar_p, bar_s, max_norm)
    assert [sorted(s) for s in adj_s] == [sorted(n) for n in names]

    def inner(h, dp, dg, ds):
        moved = [
            {**s, **{k: s[k] + h * d[k] for k in n}}
            for s, d, n in zip(taken.state, ds, names, strict=True)
        ]
        p, s = functional_step(
            replace(taken, state=moved),
            [v + h * d for v, d in zip(values, dp, strict=True)],
            [g + h * d for g, d in zip(grads, dg, strict=True)],
            max_norm,
        )
        total = sum((a * b).sum() for a, b in zip(p, bar_p, strict=True))
        return total + sum((s[i][k] * bar_s[i][k]).sum() for i in range(4) for k in bar_s[i])

    zeros = [torch.zeros_like(p) for p in params]
    for seed in range(3):
        dp, dg = random_like(params, 80 + seed), random_like(params, 90 + seed)
        # Second moments move by little, relative to themselves: they must stay positive.
        ds = [
            {k: taken.state[i][k] * random_like([params[i]], seed + j)[0] for j, k in enumerate(n)}
            for i, n in enumerate(names)
        ]
        no_state = [{k: torch.zeros_like(params[i]) for k in n} for i, n in enumerate(names)]
        for parts in ((dp, zeros, no_state), (zeros, dg, no_state), (zeros, zeros, ds)):
            h = 1e-7
            expected = (inner(h, *parts) - inner(-h, *parts)) / (2 * h)
            got = sum((a * d).sum() for a, d in zip(adj_p, parts[0], strict=True))
            got = got + sum((a * d).sum() for a, d in zip(adj_g, parts[1], strict=True))
            got = got + sum(
                (adj_s[i][k] * parts[2][i][k]).sum() for i, n in enumerate(names) for k in n
            )
            torch.testing.assert_close(
                torch.as_tensor(got, dtype=torch.float64),
                torch.as_tensor(expected, dtype=torch.float64),
                rtol=1e-6,
                atol=1e-7,
            )


@pytest.mark.parametrize("case", ["sgd-dampening", "sgd-nesterov", "adam-amsgrad", "adamw"])
def test_functional_step_gradcheck(case):
    """Differentiable twice: also a graph through the state from step to step."""
    params, optimizer = warmed_up(case, 2)
    taken = snapshot(optimizer, params[:2])
    names = state_names(taken)
    leaves = [t.clone().requires_grad_() for t in clone_together(params[:2])]
    leaves += [g.requires_grad_() for g in random_like(params[:2], 4)]
    for state in taken.state:  # second moments well above gradcheck's step, and no ties
        for shift, name in ((0.5, "exp_avg_sq"), (0.9, "max_exp_avg_sq")):
            if name in state:
                state[name].add_(shift)
    leaves += [taken.state[i][k].clone().requires_grad_() for i, n in enumerate(names) for k in n]

    def two_steps(p0, p1, g0, g1, *flat_state):
        flat = iter(flat_state)
        state = [
            {**s, **{k: next(flat) for k in n}} for s, n in zip(taken.state, names, strict=True)
        ]
        values, state = functional_step(replace(taken, state=state), [p0, p1], [g0, g1], 0.8)
        values, _ = functional_step(replace(taken, state=state), values, [g0 * 2, g1.sin()], 0.8)
        return tuple(values)

    assert torch.autograd.gradcheck(two_steps, leaves, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("case", ["sgd-nesterov", "adam", "adamw", "adam-amsgrad"])
def test_vjp_where_nothing_has_moved_yet(case):
    """All-zero gradients at the first step (LoRA's A while B = 0): finite, and the right value.

    With g = v = m = 0 Adam's step is -lr * g / (|g| + eps), of slope -lr / eps.
    """
    params = make_params()
    optimizer = build(case, params)
    taken, zeros = snapshot(optimizer, params), [torch.zeros_like(p) for p in params]
    ones = [torch.ones_like(p) for p in params]
    bars = [{k: torch.ones_like(p) for k in ("exp_avg", "exp_avg_sq")} for p in params]
    adj_p, adj_g, adj_s = step_vjp(taken, params, zeros, ones, bars, max_norm=1.0)
    everything = [*adj_p, *adj_g, *(v for s in adj_s for v in s.values())]
    assert all(torch.isfinite(t).all() for t in everything)
    if case == "adamw":
        options = CASES[case][1]
        slope = -options["lr"] / 1e-8 + (1 - 0.9)  # the second term: the adjoint of exp_avg
        torch.testing.assert_close(adj_g[0], torch.full_like(params[0], slope))
        shrink = 1 - options["lr"] * options["weight_decay"]
        torch.testing.assert_close(adj_p[0], torch.full_like(params[0], shrink))


def test_adam_vjp_by_hand():
    """One scalar weight, worked out on paper."""
    lr, b1, b2, eps, decay = 0.1, 0.9, 0.99, 1e-2, 0.5
    w = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = AdamW([w], lr=lr, betas=(b1, b2), eps=eps, weight_decay=decay)
    torch_step(optimizer, [w], [torch.tensor([0.3], dtype=torch.float64)])
    taken = snapshot(optimizer, [w])
    m0, v0, g = 0.1 * 0.3, 0.01 * 0.09, -0.4
    m, v = b1 * m0 + (1 - b1) * g, b2 * v0 + (1 - b2) * g * g
    c1, c2 = 1 - b1**2, 1 - b2**2
    denominator = (v / c2) ** 0.5 + eps
    dw_dm = -lr / c1 / denominator
    dw_dv = lr / c1 * m / denominator**2 * 0.5 / (v * c2) ** 0.5
    grad = torch.tensor([g], dtype=torch.float64)
    adj_p, adj_g, adj_s = step_vjp(taken, [w], [grad], [torch.ones_like(w)], [{}])
    expected = {
        "w": (adj_p[0], 1 - lr * decay),
        "g": (adj_g[0], dw_dm * (1 - b1) + dw_dv * 2 * (1 - b2) * g),
        "m": (adj_s[0]["exp_avg"], dw_dm * b1),
        "v": (adj_s[0]["exp_avg_sq"], dw_dv * b2),
    }
    for name, (got, value) in expected.items():
        assert got.item() == pytest.approx(value, rel=1e-12), name


@pytest.fixture
def default_float64():
    """TorchOpt computes Adam's bias correction in the default dtype: float32 is off by 1e-4."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("case", ["sgd-nesterov", "sgd-decay", "adam-decay", "adamw"])
def test_unrolled_chain_against_torchopt(case, default_float64):
    """Adjoints carried back through 4 steps = autograd through TorchOpt's optimisers."""
    torchopt = pytest.importorskip("torchopt")
    cls, options = CASES[case]
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    matrix = matrix @ matrix.T / 6 + torch.eye(6, dtype=torch.float64)
    start = torch.randn(6, generator=generator, dtype=torch.float64)
    target = torch.randn(6, generator=generator, dtype=torch.float64)

    def lower(w, a):
        return 0.5 * w @ matrix @ w - (a * w).sum() + 0.1 * w.pow(4).sum()

    def upper(w):
        return ((w - target) ** 2).sum()

    # TorchOpt, differentiated by autograd.
    a = torch.linspace(-1, 1, 6, dtype=torch.float64, requires_grad=True)
    module = torch.nn.Module()
    module.w = torch.nn.Parameter(start.clone())
    meta = {SGD: torchopt.MetaSGD, Adam: torchopt.MetaAdam, AdamW: torchopt.MetaAdamW}[cls](
        module, **options
    )
    for _ in range(4):
        meta.step(lower(module.w, a))
    final = module.w.detach()
    (expected,) = torch.autograd.grad(upper(module.w), a)

    # torch.optim forward with snapshots, our adjoints backward.
    w = torch.nn.Parameter(start.clone())
    optimizer = cls([w], **options)
    a = a.detach().requires_grad_()
    tape = []
    for _ in range(4):
        tape.append((snapshot(optimizer, [w]), w.detach().clone()))
        (w.grad,) = torch.autograd.grad(lower(w, a), w)
        optimizer.step()
    torch.testing.assert_close(w.detach(), final, rtol=1e-9, atol=1e-12)
    (adjoint,) = torch.autograd.grad(upper(w), w)
    adj_w, adj_state, hypergradient = [adjoint], [{}], torch.zeros_like(a)
    for taken, value in reversed(tape):
        leaf = value.requires_grad_()
        (grad,) = torch.autograd.grad(lower(leaf, a), leaf, create_graph=True)
        adj_w, adj_g, adj_state = step_vjp(taken, [leaf], [grad], adj_w, adj_state)
        through_w, through_a = torch.autograd.grad(grad, (leaf, a), adj_g[0])
        adj_w = [adj_w[0] + through_w]
        hypergradient += through_a
    assert hypergradient.abs().max() > 1e-3
    torch.testing.assert_close(hypergradient, expected, rtol=1e-8, atol=1e-10)

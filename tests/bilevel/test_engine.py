"""The engine: order of steps, graphs, roll-back, validation, callbacks, exact resume."""

import itertools

import pytest
import torch
from torch import nn
from toys import (
    STRICT,
    Gate,
    Lower,
    Net,
    Recorder,
    Upper,
    brute_force,
    dataset,
    flat,
    relative_error,
    stack,
    two_levels,
    two_text_levels,
    upper_gradient,
)

from bilevel import (
    BilevelEngine,
    BilevelEngineConfig,
    Callback,
    LowerProblem,
    ProblemConfig,
    ResumableLoader,
    UpperProblem,
)
from bilevel.errors import UserError
from bilevel.hypergradient import Alignment, FiniteDifference, NoHypergradient, Unrolled

pytestmark = STRICT

SGD, Adam, AdamW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW


def record_steps(*problems):
    """A list that receives each problem's name at each of its optimiser steps."""
    order = []
    for problem in problems:
        problem.optimizer.register_step_post_hook(
            lambda *args, name=problem.name: order.append(name)
        )
    return order


# ------------------------------------------------------------------ order


@pytest.mark.parametrize(("T1", "T2"), [(1, 1), (3, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize("gas", [1, 2])
def test_a_global_step_is_lower_steps_then_upper_steps(T1, T2, gas):
    engine, lower, upper = two_levels(
        FiniteDifference(),
        unroll_steps=T1,
        upper_steps=T2,
        gas=gas,
        upper_options={"gradient_accumulation": gas},
        steps=3,
    )
    order = record_steps(lower, upper)
    engine.run()
    assert order == (["lower"] * T1 + ["upper"] * T2) * 3
    assert (lower.count, upper.count) == (3 * T1 * gas, 3 * T2 * gas)


@pytest.mark.parametrize("warmup", [0, 2, 3, 4])
@pytest.mark.parametrize("gas", [1, 2])
def test_warm_up_counts_optimiser_steps_before_the_first_upper_step(warmup, gas):
    engine, lower, upper = two_levels(
        NoHypergradient(),
        unroll_steps=2,
        gas=gas,
        steps=4,
        lower_options={"warmup_steps": warmup},
    )
    order = record_steps(lower, upper)
    engine.run()
    # The first window that ends later than the warm-up is the first with an upper step.
    skipped = warmup // 2
    assert order == ["lower", "lower"] * skipped + ["lower", "lower", "upper"] * (4 - skipped)


def test_upper_ascends_when_it_maximizes():
    losses = {}
    for maximize in (False, True):
        engine, _, upper = two_levels(
            Unrolled(),
            upper_optimizer=lambda p: SGD(p, lr=0.5),
            upper_options={"maximize": maximize},
        )
        start = upper.module.logits.detach().clone()
        engine.run()
        losses[maximize] = upper.module.logits.detach() - start
    assert torch.allclose(losses[True], -losses[False], rtol=1e-12)


# ------------------------------------------------------------------ graphs


class Vector(nn.Module):
    def __init__(self, n, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn(n, dtype=torch.float64, generator=generator))


def vector_problem(cls, name, n, seed, lr=0.1, batches=(0.0,), **config):
    module = Vector(n, seed)
    return cls(
        name,
        ProblemConfig(**config),
        module=module,
        optimizer=SGD(module.parameters(), lr=lr),
        train_data_loader=[torch.tensor(b, dtype=torch.float64) for b in batches],
    )


class Bottom(LowerProblem):
    def training_step(self, batch):
        return ((self.module.w - self.top.module.w.sin()).pow(2).sum() / 2) + (
            self.module.w.cos() * self.middle.module.w
        ).sum()


class Middle(LowerProblem):
    def training_step(self, batch):
        return (self.module.w * self.bottom.module.w.exp()).sin().sum()


class Top(UpperProblem):
    def training_step(self, batch):
        return (self.module.w * self.middle.module.w).pow(2).sum()


def three_levels(hypergradient, top_steps=1, top_lr=0.0, middle_unroll=1, steps=1, **engine):
    given = {"hypergradient": hypergradient}
    bottom = vector_problem(Bottom, "bottom", 3, 0, unroll_steps=2, **given)
    middle = vector_problem(Middle, "middle", 3, 1, unroll_steps=middle_unroll, **given)
    top = vector_problem(Top, "top", 3, 2, lr=top_lr, steps=top_steps)
    engine = BilevelEngine(
        [bottom, middle, top],
        BilevelEngineConfig(train_iters=steps, **engine),
        {
            "u2l": {top: [bottom], middle: [bottom]},
            "l2u": {bottom: [middle], middle: [top]},
        },
    )
    return engine, bottom, middle, top


def test_three_levels_run_in_order():
    engine, *problems = three_levels(FiniteDifference(), middle_unroll=2, top_steps=2, steps=4)
    order = record_steps(*problems)
    engine.run()
    once = ["bottom", "bottom", "middle"]
    assert order == (once * 2 + ["top", "top"]) * 2


@pytest.mark.parametrize("difference", ["central", "auto"])
def test_three_levels_chain_their_terms(difference):
    """Top's implicit term passes two levels: middle by bottom, then bottom by top. With T2 = 2 the
    second one, too, sees the top's variables as the bottom's steps saw them."""
    estimator = FiniteDifference(difference=difference, point="before", epsilon=1e-5)
    engine, bottom, middle, top = three_levels(estimator, top_steps=2, top_lr=0.5)
    recorder, seen = Recorder(top), []
    top.gradient_hooks.append(lambda p, loss: seen.append(p.module.w.detach().clone()))
    engine.run()

    E0 = seen[0]
    for gradient, E in zip(recorder.grads, seen, strict=True):
        # Leaves: where each mixed derivative is to be taken.
        wb, wm = bottom.window.steps[-1].weights[0], middle.window.steps[-1].weights[0]
        m_after, b_now = middle.module.w.detach(), bottom.module.w.detach()
        e = E.clone().requires_grad_()
        m = m_after.clone().requires_grad_()
        direct, v = torch.autograd.grad((e * m).pow(2).sum(), [e, m])
        m, b = wm.clone().requires_grad_(), b_now.clone().requires_grad_()
        (g,) = torch.autograd.grad((m * b.exp()).sin().sum(), m, create_graph=True)
        (v,) = torch.autograd.grad(-(g * v).sum(), b)
        b, e = wb.clone().requires_grad_(), E0.clone().requires_grad_()
        # The middle's variables before its step, as the bottom's steps saw them.
        loss = (b - e.sin()).pow(2).sum() / 2 + (b.cos() * wm).sum()
        (g,) = torch.autograd.grad(loss, b, create_graph=True)
        (v,) = torch.autograd.grad(-(g * v).sum(), e)
        assert relative_error(gradient[0], direct + v) < 1e-6
    assert not torch.equal(*seen)


def test_unrolled_says_what_it_cannot_do_on_three_levels():
    engine, *_ = three_levels(Unrolled())
    with pytest.raises(UserError, match=r"unrolled.*finite_difference"):
        engine.run()


class Pair(UpperProblem):
    """Depends on two lower problems at once."""

    def training_step(self, batch):
        x, y = batch
        gate = self.module()
        return nn.functional.cross_entropy(self.lower(x, gate) + self.other(x, gate), y)


class Free(UpperProblem):
    """Its own part of the loss below, ``lower``'s, through a second gate."""

    def training_step(self, batch):
        x, y = batch
        return nn.functional.cross_entropy(self.lower(x, self.module()), y) * 2


class Both(Lower):
    def training_step(self, batch):
        x, y = batch
        return nn.functional.cross_entropy(self.module(x, self.upper() + self.second()), y)


def net_problem(cls, name, hypergradient, lr, seed, **config):
    torch.manual_seed(seed)
    module = Net(0.2)
    return cls(
        name,
        ProblemConfig(hypergradient=hypergradient, **config),
        module=module,
        optimizer=SGD([module.A, module.B], lr=lr),
        train_data_loader=ResumableLoader(dataset(64, 1), 8, stack, seed=seed),
    )


def gate_problem(cls, name, seed, lr=0.0, **config):
    torch.manual_seed(seed)
    module = Gate()
    return cls(
        name,
        ProblemConfig(**config),
        module=module,
        optimizer=SGD(module.parameters(), lr=lr),
        train_data_loader=ResumableLoader(dataset(64, 2), 8, stack, seed=seed),
    )


def two_lowers(hypergradient, steps=1, order=1, lr=0.3, **engine):
    lower = net_problem(Lower, "lower", hypergradient, lr, 0, unroll_steps=2)
    other = net_problem(Lower, "other", hypergradient, lr, 5, unroll_steps=1)
    upper = gate_problem(Pair, "upper", 1)
    torch.manual_seed(0)
    lowers = [lower, other][::order]
    engine = BilevelEngine(
        [*lowers, upper],
        BilevelEngineConfig(train_iters=steps, **engine),
        {"u2l": {upper: lowers}, "l2u": {p: [upper] for p in lowers}},
    )
    return engine, lower, upper


def test_two_lower_problems_add_their_terms():
    found = upper_gradient(*two_lowers(Unrolled(), steps=2)[::2])
    expected = brute_force(lambda: two_lowers(NoHypergradient(), steps=2), before=1)
    assert relative_error(found, expected) < 1e-6
    direct = upper_gradient(*two_lowers(NoHypergradient(), steps=2)[::2])
    assert relative_error(direct, expected) > 1e-2


def two_uppers(hypergradient, measured="upper"):
    lower = net_problem(Both, "lower", hypergradient, 0.3, 0)
    upper = gate_problem(Free, "upper", 1, lr=0.7 * (measured != "upper"))
    second = gate_problem(Free, "second", 2, lr=0.7 * (measured != "second"))
    torch.manual_seed(0)
    engine = BilevelEngine(
        [lower, upper, second],
        BilevelEngineConfig(train_iters=1),
        {"u2l": {upper: [lower], second: [lower]}, "l2u": {lower: [upper, second]}},
    )
    return engine, lower, {"upper": upper, "second": second}[measured]


@pytest.mark.parametrize("measured", ["upper", "second"])
def test_two_upper_problems_over_one(measured):
    """Both get exact terms, whichever steps first."""
    found = upper_gradient(*two_uppers(Unrolled(), measured)[::2])
    expected = brute_force(lambda: two_uppers(NoHypergradient(), measured))
    assert relative_error(found, expected) < 1e-6


def test_one_level_is_plain_training():
    torch.manual_seed(0)
    module, reference = (nn.Linear(4, 3, dtype=torch.float64) for _ in range(2))
    reference.load_state_dict(module.state_dict())

    class Alone(LowerProblem):
        def training_step(self, batch):
            return nn.functional.cross_entropy(self.module(batch[0]), batch[1])

    data = ResumableLoader(dataset(32, 0), 8, stack)
    problem = Alone(
        "alone",
        module=module,
        optimizer=AdamW(module.parameters(), lr=0.1),
        train_data_loader=data,
    )
    BilevelEngine([problem], BilevelEngineConfig(train_iters=8)).run()
    optimizer = AdamW(reference.parameters(), lr=0.1)
    again = ResumableLoader(dataset(32, 0), 8, stack)
    for x, y in itertools.islice(itertools.chain(again, again), 8):
        optimizer.zero_grad()
        nn.functional.cross_entropy(reference(x), y).backward()
        optimizer.step()
    assert torch.equal(flat(module.parameters()), flat(reference.parameters()))


# ------------------------------------------------------------------ roll-back


def manual_roll_back(T1, gas=1, steps=3, warmup=0, scheduler=None):
    """The published loop: T1 steps, one upper step, back to the start, the last step again."""
    torch.manual_seed(0)
    net, gate = Net(0.0), Gate()
    lower_optim = AdamW([net.A, net.B], lr=0.05)
    schedule = None if scheduler is None else scheduler(lower_optim)
    upper_optim = SGD(gate.parameters(), lr=1.0)

    def forever(loader):
        while True:
            yield from loader

    train = forever(ResumableLoader(dataset(64, 1), 8, stack, seed=0))
    held_out = forever(ResumableLoader(dataset(64, 2), 8, stack, seed=1))

    def loss(batch):
        return nn.functional.cross_entropy(net(batch[0], gate()), batch[1])

    def descend(batches):
        lower_optim.zero_grad()
        for batch in batches:
            (loss(batch) / gas).backward()
        gate.zero_grad()
        lower_optim.step()

    taken = 0
    for _ in range(steps):
        kept = [p.detach().clone() for p in (net.A, net.B)]
        state = {k: dict(v) for k, v in lower_optim.state.items()}
        state = {k: {n: t.clone() for n, t in v.items()} for k, v in state.items()}
        stands = taken + T1 <= warmup
        for _ in range(T1):
            batches = [next(train) for _ in range(gas)]
            descend(batches)
            taken += 1
            if stands and schedule is not None:
                schedule.step()
        if stands:
            continue
        upper_optim.zero_grad()
        loss(next(held_out)).backward()
        upper_optim.step()
        with torch.no_grad():
            net.A.copy_(kept[0])
            net.B.copy_(kept[1])
        lower_optim.state.clear()
        lower_optim.state.update(state)
        descend(batches)
        if schedule is not None:
            schedule.step()
    return flat([net.A, net.B]), flat(gate.parameters()), lower_optim.param_groups[0]["lr"]


@pytest.mark.parametrize(
    ("T1", "gas", "warmup"), [(1, 1, 0), (3, 1, 0), (1, 2, 0), (2, 3, 0), (2, 1, 2), (2, 2, 3)]
)
def test_roll_back_is_the_published_loop(T1, gas, warmup):
    """Restore, then redo one lower step on the last batch with the new upper variables."""

    def decay(optimizer):
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)

    engine, lower, upper = two_levels(
        NoHypergradient(),
        optimizer=lambda p: AdamW(p, lr=0.05),
        upper_optimizer=lambda p: SGD(p, lr=1.0),
        unroll_steps=T1,
        gas=gas,
        steps=3,
        scheduler=decay,
        engine_options={"roll_back": True},
        lower_options={"warmup_steps": warmup},
    )
    engine.run()
    factors, gates, lr = manual_roll_back(T1, gas, 3, warmup, decay)
    assert torch.allclose(flat(lower.trainable_parameters()), factors, rtol=1e-12, atol=1e-14)
    assert torch.allclose(flat(upper.trainable_parameters()), gates, rtol=1e-12, atol=1e-14)
    assert lower.optimizer.param_groups[0]["lr"] == pytest.approx(lr, rel=1e-12)


def test_roll_back_copies_no_backbone_and_restores_running_statistics():
    class Normed(Net):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(4, dtype=torch.float64, affine=False)

        def forward(self, x, gate):
            return super().forward(self.norm(x), gate)

    torch.manual_seed(0)
    net = Normed()
    engine, lower, _ = two_levels(NoHypergradient(), engine_options={"roll_back": True}, steps=0)
    lower.module = net
    lower._slots = lower._parameters = None
    lower.optimizer = SGD([net.A, net.B], lr=0.1)
    copies = []
    recover = lower.recover_states
    lower.recover_states = lambda *a: (copies.append(lower.module_state_dict_cache), recover(*a))
    engine.train_iters = 2
    engine.run()
    assert int(net.norm.num_batches_tracked) == 2  # of the two steps that stand
    assert len(copies) == 2
    owned = {net.frozen.data_ptr()}
    assert not any(
        isinstance(t, torch.Tensor) and (t.data_ptr() in owned or t.shape == net.frozen.shape)
        for t in copies[0]["parameters"]
    )


@pytest.mark.parametrize("order", [1, -1])
def test_roll_back_of_two_lower_problems_waits_for_the_upper_step(order):
    """The upper step is taken at the weights that the lower steps reached, of both."""
    gradients = []
    for roll_back in (False, True):
        engine, _, upper = two_lowers(Unrolled(), order=order, roll_back=roll_back)
        gradients.append(upper_gradient(engine, upper))
    assert relative_error(gradients[1], gradients[0]) < 1e-12


def test_roll_back_of_a_middle_level_waits_for_its_own_window():
    engine, bottom, middle, top = three_levels(
        FiniteDifference(), middle_unroll=2, steps=4, roll_back=True
    )
    order = record_steps(bottom, middle, top)
    engine.run()
    first = ["bottom", "bottom", "middle", "bottom"]
    second = ["bottom", "bottom", "middle", "top", "bottom", "middle"]
    assert order == (first + second) * 2


def test_roll_back_undoes_the_unrolled_steps():
    """T1 = 3 with an unmoved gate: the weights advance by one step, not three."""
    engine, lower, _ = two_levels(Unrolled(), unroll_steps=3, engine_options={"roll_back": True})
    before = flat(lower.trainable_parameters())
    engine.run()
    third = lower.train_data_loader[0].last_indices
    batch = stack([dataset(64, 1)[i] for i in third])
    moved = flat(lower.trainable_parameters()) - before
    with torch.no_grad():
        start = 0
        for p in lower.trainable_parameters():
            p.copy_(before[start : start + p.numel()].view_as(p))
            start += p.numel()
    grads = torch.autograd.grad(lower.loss(batch), lower.trainable_parameters())
    assert torch.allclose(moved, -0.1 * flat(grads), rtol=1e-9)


# ------------------------------------------------------------------ validation and stopping


class Log(Callback):
    def __init__(self):
        self.calls = []

    def on_start(self, engine):
        self.calls.append(("start", engine.global_step))

    def on_step_end(self, engine):
        self.calls.append(("step", engine.global_step))

    def on_validation(self, engine, stats):
        self.calls.append(("validation", dict(stats)))

    def on_end(self, engine):
        self.calls.append(("end", engine.global_step))

    def on_exception(self, engine, error):
        self.calls.append(("exception", str(error)))


def test_validation_every_so_often_in_evaluation_mode():
    modes, log = [], Log()

    def validate(engine):
        modes.append([p.module.training for p in engine.problems])
        torch.rand(5)  # must not matter
        return {"loss": float(engine.global_step)}

    engine, lower, _ = two_levels(
        NoHypergradient(),
        dropout=0.5,
        steps=5,
        validation=validate,
        engine_options={"valid_step": 2},
        callbacks=[log],
    )
    engine.run()
    assert modes == [[False, False]] * 2
    assert lower.module.training
    plain, other, _ = two_levels(NoHypergradient(), dropout=0.5, steps=5)
    plain.run()
    assert torch.equal(flat(lower.trainable_parameters()), flat(other.trainable_parameters()))
    v = [("validation", {"loss": 2.0}), ("validation", {"loss": 4.0})]
    s = [("step", i) for i in range(6)]
    assert log.calls == [("start", 0), s[1], v[0], s[2], s[3], v[1], s[4], s[5], ("end", 5)]


def stopping_engine(scores, mode="min", metric="loss", tolerance=2, steps=20):
    values = iter(scores)
    engine, *_ = two_levels(
        NoHypergradient(),
        steps=steps,
        validation=lambda engine: {"loss": next(values)},
        engine_options={
            "valid_step": 1,
            "early_stopping": True,
            "early_stopping_mode": mode,
            "early_stopping_metric": metric,
            "early_stopping_tolerance": tolerance,
        },
    )
    return engine


@pytest.mark.parametrize(("mode", "sign"), [("min", 1), ("max", -1)])
def test_early_stopping(mode, sign):
    engine = stopping_engine([sign * s for s in (3, 2, 2.5, 1, 1, 1.5, 0.0)], mode)
    engine.run()
    assert engine.global_step == 6
    assert engine.stop_reason == "loss has not improved in 2 validations"


def test_early_stopping_survives_a_resume():
    first = stopping_engine([3, 2, 2.5], steps=3)
    first.run()
    second = stopping_engine([2.5, 9], steps=20)
    second.load_state_dict(first.copy_state())
    second.run()
    assert second.global_step == 4


def test_early_stopping_settings_are_checked():
    with pytest.raises(UserError, match=r"'accuracy'.*it reports: loss"):
        stopping_engine([1.0], metric="accuracy").run()
    with pytest.raises(UserError, match="min or max, got 'most'"):
        stopping_engine([1.0], mode="most")


def test_request_stop_and_exceptions_reach_the_callbacks():
    class Stopper(Log):
        def on_step_end(self, engine):
            super().on_step_end(engine)
            if engine.global_step == 2:
                engine.request_stop("enough")

    log = Stopper()
    engine, *_ = two_levels(NoHypergradient(), steps=9, callbacks=[log])
    engine.run()
    assert engine.global_step == 2
    assert engine.stop_reason == "enough"
    assert log.calls[-1] == ("end", 2)

    class Broken(Lower):
        def training_step(self, batch):
            raise RuntimeError("boom")

    log = Log()
    engine, *_ = two_levels(NoHypergradient(), classes=(Broken, Upper), callbacks=[log])
    with pytest.raises(RuntimeError, match="boom"):
        engine.run()
    assert log.calls == [("start", 0), ("exception", "boom")]


# ------------------------------------------------------------------ resume


def finish(build, at=None):
    """All parameters and the last losses of a run, resumed at global step ``at`` if given."""
    engine, lower, upper = build()
    total = engine.train_iters
    if at is not None:
        engine.train_iters = at
        engine.run()
        state = engine.copy_state()
        torch.manual_seed(999)  # whatever a new process starts from
        engine, lower, upper = build()
        torch.rand(17)
        engine.load_state_dict(state)
        engine.train_iters = total
    engine.run()
    return torch.cat(
        [
            flat(lower.trainable_parameters()),
            flat(upper.trainable_parameters()),
            lower.last_loss[None].to(lower.trainable_parameters()[0].dtype),
            upper.last_loss[None].to(lower.trainable_parameters()[0].dtype),
            *[
                t.reshape(-1).to(lower.trainable_parameters()[0].dtype)
                for s in (*lower.optimizer.state.values(), *upper.optimizer.state.values())
                for t in s.values()
            ],
        ]
    )


def decaying(optimizer):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)


RESUMED = {
    "plain": {},
    "T1, T2": {"unroll_steps": 3, "upper_steps": 2},
    "roll-back": {"unroll_steps": 2, "engine_options": {"roll_back": True}},
    "accumulation": {"gas": 3, "clipping": 0.1},
    "schedule, warm-up": {"scheduler": decaying, "lower_options": {"warmup_steps": 3}},
}


@pytest.mark.parametrize("at", [1, 5, 8, 11])
@pytest.mark.parametrize("options", RESUMED.values(), ids=RESUMED)
def test_a_resumed_run_is_bit_equal(options, at):
    """8 batches an epoch: within an epoch, at its end, and in the second one."""

    def build():
        return two_levels(
            Unrolled(),
            optimizer=lambda p: AdamW(p, lr=0.05),
            upper_optimizer=lambda p: Adam(p, lr=0.1),
            dropout=0.3,
            steps=12,
            **options,
        )

    assert torch.equal(finish(build), finish(build, at))


@pytest.mark.parametrize("estimator", [Alignment(calibrate_every=4), FiniteDifference()], ids=repr)
def test_a_resumed_run_of_a_transformer_is_bit_equal(estimator):
    def build():
        return two_text_levels(estimator, steps=6)

    assert torch.equal(finish(build), finish(build, 3))


@pytest.mark.parametrize("at", [7, 8, 9, 16])
def test_an_epoch_is_announced_once(at):
    """Also when the run was interrupted just between two epochs."""

    def run(resume):
        class Counting(Lower):
            def epoch_callback(self):
                announced.append(engine.global_step)

        announced = []
        engine, _, _ = two_levels(NoHypergradient(), classes=(Counting, Upper), steps=20)
        if resume:
            engine.train_iters = at
            engine.run()
            state = engine.copy_state()
            engine, _, _ = two_levels(NoHypergradient(), classes=(Counting, Upper), steps=20)
            engine.load_state_dict(state)
        engine.run()
        return announced, engine.lower.epoch_counter

    assert run(True) == run(False) == ([9, 17], [2])


def test_states_of_other_engines_are_refused():
    engine, *_ = two_levels(NoHypergradient())
    state = engine.copy_state()
    other = three_levels(FiniteDifference())[0]
    with pytest.raises(UserError, match=r"lower, upper.*bottom, middle, top"):
        other.load_state_dict(state)
    state["problems"]["lower"]["parameters"].pop()
    with pytest.raises(UserError, match="another run's"):
        two_levels(NoHypergradient())[0].load_state_dict(state)


def test_loaders_without_a_position_cannot_be_saved():
    engine, lower, _ = two_levels(NoHypergradient())
    lower.train_data_loader = [[stack(dataset(8, 0))]]
    with pytest.raises(UserError, match=r"'lower' \(list\).*ResumableLoader"):
        engine.state_dict()

"""A resumed engine goes on bit for bit."""

import pytest
import torch

from bilevel import BilevelEngine, BilevelEngineConfig, Callback, LowerProblem, UpperProblem
from bilevel.checkpoint.state_file import load_state, save_state
from bilevel.errors import UserError
from bilevel.hypergradient import (
    Alignment,
    FiniteDifference,
    Forward,
    NoHypergradient,
    Nystrom,
    Penalty,
    Soba,
    Unrolled,
)
from bilevel.nests import clone_nested
from tests.bilevel.graphs import three_levels, vector_problem
from tests.bilevel.states import assert_same
from tests.bilevel.text_toys import two_text_levels
from tests.bilevel.toys import STRICT, Lower, Upper, dataset, flat, stack, two_levels

pytestmark = STRICT

SGD, Adam, AdamW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW


def finish(build, at=None, file=None):
    """All parameters and the last losses of a run, resumed at global step ``at`` if given, from a
    copy of its state or from ``file``."""
    engine, lower, upper = build()
    total = engine.train_iters
    if at is not None:
        engine.train_iters = at
        engine.run()
        state = clone_nested(engine.state_dict())
        if file is not None:
            save_state(file, state)
            state = load_state(file)
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


@pytest.mark.parametrize("estimator", [Unrolled(), Soba()], ids=repr)
def test_a_state_serves_twice(estimator):
    """Training on from a state leaves it as it was."""

    def build(steps):
        return two_levels(
            estimator,
            optimizer=lambda p: AdamW(p, lr=0.05),
            upper_optimizer=lambda p: Adam(p, lr=0.1),
            scheduler=lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5]),
            steps=steps,
        )

    first = build(2)[0]
    first.run()
    state = clone_nested(first.state_dict())
    kept = clone_nested(state)
    ends = []
    for _ in range(2):
        engine, lower, upper = build(6)
        engine.load_state_dict(state)
        engine.run()
        ends.append(flat([*lower.trainable_parameters(), *upper.trainable_parameters()]))
    assert torch.equal(*ends)
    assert_same(state, kept)


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


@pytest.mark.parametrize("at", [1, 5])
@pytest.mark.parametrize(
    "estimator", [Forward(directions=2), Nystrom(), Soba(), Penalty()], ids=repr
)
def test_a_resumed_run_is_bit_equal_with_every_memory(estimator, at, tmp_path):
    """Random directions, and what an estimator has remembered; by way of the file."""

    def build():
        return two_levels(
            estimator,
            optimizer=lambda p: AdamW(p, lr=0.05),
            upper_optimizer=lambda p: Adam(p, lr=0.1),
            dropout=0.3,
            steps=8,
            unroll_steps=2,
            upper_steps=2,
        )

    assert torch.equal(finish(build), finish(build, at, tmp_path / "state.safetensors"))


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
            state = clone_nested(engine.state_dict())
            engine, _, _ = two_levels(NoHypergradient(), classes=(Counting, Upper), steps=20)
            engine.load_state_dict(state)
        engine.run()
        return announced, engine.lower.epoch_counter

    assert run(True) == run(False) == ([9, 17], [2])


def test_states_of_other_engines_are_refused():
    engine, *_ = two_levels(NoHypergradient())
    state = clone_nested(engine.state_dict())
    other = three_levels(FiniteDifference())[0]
    with pytest.raises(UserError, match=r"lower, upper.*bottom, middle, top"):
        other.load_state_dict(state)
    state["problems"]["lower"]["parameters"].pop()
    with pytest.raises(UserError, match="another run's"):
        two_levels(NoHypergradient())[0].load_state_dict(state)


class Counted(Callback):
    def __init__(self):
        self.value = 1

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


class Doubled(Counted):
    pass


def test_states_of_callbacks_go_to_their_own_kind():
    def build(*callbacks):
        return two_levels(NoHypergradient(), callbacks=callbacks)[0]

    first = Counted()
    first.value = 7
    state = clone_nested(build(first, Doubled()).state_dict())
    with pytest.raises(UserError, match=r"Counted, Doubled, in this order.*has Doubled, Counted"):
        build(Doubled(), Counted()).load_state_dict(state)
    del state["callback_types"]  # an older state
    found = Counted()
    build(found, Doubled()).load_state_dict(state)
    assert found.value == 7


def test_loaders_without_a_position_cannot_be_saved():
    engine, lower, _ = two_levels(NoHypergradient())
    lower.train_data_loader = [[stack(dataset(8, 0))]]
    with pytest.raises(UserError, match=r"'lower' \(list\).*ResumableLoader"):
        engine.state_dict()


def test_a_state_in_the_midst_of_a_middle_levels_steps_is_refused():
    """Steps of a window over two global steps: what a roll-back would restore is not saved."""

    def after(steps, roll_back):
        engine, _, middle, _ = three_levels(
            FiniteDifference(), middle_unroll=2, steps=steps, roll_back=roll_back
        )
        engine.run()
        middle.train_data_loader = ()
        return middle.state_dict()

    with pytest.raises(UserError, match=r"'middle' is in the midst of its unroll_steps=2"):
        after(1, roll_back=True)
    assert after(2, roll_back=True)["count"] == 2
    assert after(1, roll_back=False)["count"] == 1  # a difference needs the last step only


class Below(LowerProblem):
    def training_step(self, batch):
        return (self.module.w - self.middle.module.w.sin()).square().sum()


class Between(LowerProblem):
    def training_step(self, batch):
        own = self.module.w
        return (own * self.below.module.w.exp()).sin().sum() + (own * self.top.module.w).pow(
            2
        ).sum()


class Above(UpperProblem):
    def training_step(self, batch):
        return (self.module.w * self.middle.module.w).square().sum()


def test_tangents_in_the_midst_of_a_middle_levels_steps_are_not_lost():
    """`forward` carries them through all T1 steps, though it keeps one."""

    def after(steps):
        below = vector_problem(Below, "below", 3, 0, hypergradient=FiniteDifference())
        middle = vector_problem(Between, "middle", 3, 1, unroll_steps=2, hypergradient=Forward())
        top = vector_problem(Above, "top", 3, 2, lr=0.0)
        graph = {"u2l": {middle: [below], top: [middle]}, "l2u": {below: [middle], middle: [top]}}
        BilevelEngine([below, middle, top], BilevelEngineConfig(train_iters=steps), graph).run()
        middle.train_data_loader = ()
        return middle.state_dict()

    with pytest.raises(UserError, match=r"'middle' is in the midst of its unroll_steps=2"):
        after(1)
    assert after(2)["count"] == 2


def test_an_optimizer_of_other_groups_is_told():
    """As of a run by a version that grouped the parameters otherwise."""
    engine, lower, _ = two_levels(Unrolled())
    state = engine.state_dict()
    other, level, _ = two_levels(Unrolled())
    first, *rest = level.optimizer.param_groups[0]["params"]
    level.optimizer.param_groups[0]["params"] = rest or [first]
    level.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))]})
    with pytest.raises(UserError, match=rf"'{lower.name}' has 1 groups of parameters, .* 2"):
        other.load_state_dict(state)

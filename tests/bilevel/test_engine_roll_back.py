"""Roll-back: the published loop, and nothing but it."""

import pytest
import torch
from torch import nn

from bilevel import (
    ResumableLoader,
)
from bilevel.hypergradient import FiniteDifference, NoHypergradient, Unrolled
from tests.bilevel.graphs import (
    three_levels,
    two_lowers,
)
from tests.bilevel.steps import record_steps
from tests.bilevel.toys import (
    STRICT,
    Gate,
    Net,
    dataset,
    flat,
    relative_error,
    stack,
    two_levels,
    upper_gradient,
)

pytestmark = STRICT

SGD, Adam, AdamW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW


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
    ("T1", "gas", "warmup"), [(1, 1, 0), (3, 1, 0), (1, 2, 0), (2, 4, 0), (2, 1, 2), (2, 2, 3)]
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
    restore = lower.roll_back.restore
    lower.roll_back.restore = lambda *a: (copies.append(lower.roll_back.saved), restore(*a))
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

"""What `unrolled` cannot differentiate, or be told."""

import dataclasses

import pytest
import torch

from bilevel.errors import UserError
from bilevel.hypergradient import NoHypergradient, Unrolled
from tests.bilevel.toys import STRICT, Lower, Upper, two_levels

pytestmark = STRICT


class Odd(torch.optim.AdamW):
    def step(self, closure=None):
        return super().step(closure)


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        (lambda p: torch.optim.RMSprop(p), "RMSprop.*finite_difference"),
        (lambda p: Odd(p), "Odd.*finite_difference"),
    ],
)
def test_other_optimisers_are_refused(optimizer, words):
    with pytest.raises(UserError, match=words):
        two_levels(Unrolled(), optimizer=optimizer)


def test_custom_steps_are_refused():
    class Custom(Lower):
        def custom_optimizer_step(self):
            self.optimizer.step()

    class Clamped(Lower):
        def param_callback(self):
            for p in self.trainable_parameters():
                p.data.clamp_(-1, 1)

    class Sign(Lower):
        def grad_callback(self):
            for p in self.trainable_parameters():
                p.grad.sign_()

    for cls, words in [
        (Custom, "custom_optimizer_step.*finite_difference"),
        (Clamped, "param_callback.*finite_difference"),
        (Sign, "grad_callback.*finite_difference"),
    ]:
        with pytest.raises(UserError, match=words):
            two_levels(Unrolled(), classes=(cls, Upper))
        engine, _, _ = two_levels(NoHypergradient(), classes=(cls, Upper))
        engine.run()


def test_options_are_checked():
    with pytest.raises(UserError, match=r"Unrolled\.depth=0: .*1 or more"):
        Unrolled(depth=0)
    with pytest.raises(UserError, match=r"Unrolled\.product=fast: .*double_backward"):
        Unrolled(product="fast")
    assert dataclasses.asdict(Unrolled())["depth"] is None

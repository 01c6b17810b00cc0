"""Autocast and loss scaling of a problem."""

import pytest
import torch

from bilevel.errors import UserError
from bilevel.hypergradient import (
    FiniteDifference,
    NoHypergradient,
    Unrolled,
)
from tests.bilevel.text_toys import LowerText, UpperText, two_text_levels
from tests.bilevel.toys import STRICT, Recorder, Spy, cosine, flat, relative_error, upper_gradient

pytestmark = STRICT

SGD, AdamW = torch.optim.SGD, torch.optim.AdamW


class ByHand(LowerText):
    """Takes SGD's steps itself."""

    def custom_optimizer_step(self):
        with torch.no_grad():
            for p in self.trainable_parameters():
                p -= 0.1 * p.grad


def test_bf16_on_the_cpu():
    """Autocast, fp32 parameters and gradients, the exact term to bf16's accuracy."""
    cosines = {}
    seen = set()

    class Watched(LowerText):
        def training_step(self, batch):
            output = self.module(**batch)
            seen.add(output.logits.dtype)
            self.state_at_loss = None
            return output.loss

    reference = {}
    for precision in ("fp32", "bf16"):
        for name, estimator in (
            ("direct", NoHypergradient()),
            ("fd", FiniteDifference()),
            ("unrolled", Unrolled()),
        ):
            engine, lower, upper = two_text_levels(
                estimator,
                dropout=0.0,
                optimizer=lambda p: SGD(p, lr=0.3),
                classes=(Watched, UpperText),
                lower_options={"precision": precision},
                upper_options={"precision": precision},
            )
            reference[precision, name] = upper_gradient(engine, upper)
            assert all(p.dtype == torch.float32 for p in lower.trainable_parameters())
    for name in ("fd", "unrolled"):
        a, b = (reference[p, name] - reference[p, "direct"] for p in ("bf16", "fp32"))
        cosines[name] = cosine(a, b)
    print("bf16 against fp32, cosine of the implicit term:", cosines)
    assert seen == {torch.float32, torch.bfloat16}
    assert min(cosines.values()) > 0.98


def test_fp16_scales_and_skips_overflows():
    """The loss scale cancels in gradients and implicit terms; a skipped step is no step."""
    found = []
    for precision in ("fp32", "fp16"):
        engine, lower, upper = two_text_levels(
            Unrolled(keep_graph=False),
            dropout=0.0,
            unroll_steps=2,
            optimizer=lambda p: SGD(p, lr=0.1),
            upper_optimizer=lambda p: SGD(p, lr=0.0),
            lower_options={"precision": precision},
        )
        recorder = Recorder(upper)
        engine.run()
        found.append(flat(recorder.grads[0]))
        applied = [step.applied for step in lower.recorded.steps]
    assert applied == [True, True]
    assert relative_error(found[1], found[0]) < 0.05

    terms = []
    engine, lower, _ = two_text_levels(
        Spy(Unrolled(), lambda *given: terms.append(flat(given[-1]))),
        unroll_steps=2,
        lower_options={"precision": "fp16"},
        optimizer=lambda p: SGD(p, lr=0.1),
    )
    lower.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = flat(lower.trainable_parameters())
    engine.run()
    assert [step.applied for step in lower.recorded.steps] == [False, False]
    assert torch.equal(flat(lower.trainable_parameters()), before)
    assert len(terms) == 1
    assert torch.equal(terms[0], torch.zeros_like(terms[0]))


class SeesToTheScale(ByHand):
    """Updates the scaler's factor as well."""

    def custom_optimizer_step(self):
        super().custom_optimizer_step()
        self.scaler.update()


def three_steps(kind, optimizer=lambda p: SGD(p, lr=0.1), init_scale=2.0**16):
    """The lower level after three steps in fp16."""
    engine, lower, _ = two_text_levels(
        NoHypergradient(),
        dropout=0.0,
        unroll_steps=3,
        optimizer=optimizer,
        classes=(kind, UpperText),
        lower_options={"precision": "fp16"},
    )
    lower.scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)
    engine.run()
    return lower


@pytest.mark.parametrize("kind", [ByHand, SeesToTheScale])
def test_fp16_with_a_step_of_ones_own(kind):
    """Three steps as the optimiser takes them, to fp32's accuracy, and the factor goes on."""
    stock, own = three_steps(LowerText), three_steps(kind)
    found, expected = (flat(level.trainable_parameters()) for level in (own, stock))
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-8)
    assert own.scaler.state_dict() == stock.scaler.state_dict()


def test_fp16_leaves_out_a_step_of_ones_own_that_overflows():
    still = two_text_levels(NoHypergradient())[1]
    own = three_steps(ByHand, init_scale=2.0**40)
    assert torch.equal(flat(own.trainable_parameters()), flat(still.trainable_parameters()))
    assert own.scaler.get_scale() == 2.0**37


def test_fp16_without_an_optimizer_is_refused():
    with pytest.raises(UserError, match=r"'lower' has no optimizer, and precision=fp16"):
        three_steps(ByHand, optimizer=lambda p: None)

"""Validation, early stopping, stop requests."""

import math

import pytest
import torch

from bilevel import (
    Callback,
)
from bilevel.errors import UserError
from bilevel.hypergradient import NoHypergradient
from bilevel.nests import clone_nested
from tests.bilevel.toys import (
    STRICT,
    Lower,
    Upper,
    flat,
    two_levels,
)

pytestmark = STRICT

SGD, Adam, AdamW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW


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


def stopping_engine(scores, mode="min", metric="loss", tolerance=2, steps=20, start=0):
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
            "early_stopping_start": start,
        },
    )
    return engine


@pytest.mark.parametrize(("mode", "sign"), [("min", 1), ("max", -1)])
def test_early_stopping(mode, sign):
    engine = stopping_engine([sign * s for s in (3, 2, 2.5, 1, 1, 1.5, 0.0)], mode)
    engine.run()
    assert engine.global_step == 6
    assert engine.stop_reason == "loss has not improved in 2 validations"


def test_scores_that_are_no_number_are_no_best_ones():
    engine = stopping_engine([math.nan, 3, 2, 2.5, math.nan, 1.0])
    engine.run()
    assert engine.global_step == 5


def test_early_stopping_may_begin_later():
    engine = stopping_engine([1, 9, 9, 9, 8, 7, 7, 7, 0], start=4)
    engine.run()
    assert engine.global_step == 8


def test_early_stopping_survives_a_resume():
    first = stopping_engine([3, 2, 2.5], steps=3)
    first.run()
    second = stopping_engine([2.5, 9], steps=20)
    second.load_state_dict(clone_nested(first.state_dict()))
    second.run()
    assert second.global_step == 4


def test_early_stopping_settings_are_checked():
    with pytest.raises(UserError, match=r"'accuracy'.*it reports: loss"):
        stopping_engine([1.0], metric="accuracy").run()
    with pytest.raises(UserError, match="min or max, got 'most'"):
        stopping_engine([1.0], mode="most")


def test_early_stopping_needs_validations(caplog):
    with pytest.raises(UserError, match=r"early_stopping=True has nothing to watch.*validation="):
        two_levels(NoHypergradient(), engine_options={"early_stopping": True, "valid_step": 1})
    two_levels(
        NoHypergradient(),
        engine_options={"early_stopping": True},
        validation=lambda engine: {"loss": 0.0},
    )
    assert "valid_step=0 makes none" in caplog.text


def test_an_engine_that_was_stopped_says_why_it_takes_no_step(caplog):
    engine, *_ = two_levels(NoHypergradient(), steps=4)
    engine.train_iters = 2
    engine.run()
    engine.train_iters = 4
    engine.request_stop("enough")
    engine.run()
    assert engine.global_step == 2
    assert "stopped at step 2 of 4 (enough)" in caplog.text
    assert "engine.stop_reason = None" in caplog.text
    caplog.clear()
    engine.stop_reason = None
    engine.run()
    engine.request_stop("enough")
    engine.run()  # at the end there is nothing left to say
    assert engine.global_step == 4
    assert not caplog.records


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

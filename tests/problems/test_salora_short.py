"""Windows of a few steps, in which SaLoRA's gates learn little or nothing."""

from __future__ import annotations

import logging

import pytest

from bilevel import UserError
from problems.salora import SaLoRA, SaLoRABilevel
from tests.problems.jobs import train
from tests.problems.salora_jobs import WatchedJob


@pytest.mark.parametrize("method", [SaLoRA, SaLoRABilevel])
@pytest.mark.parametrize(("steps", "window"), [(3, 1), (5, 2)])
def test_windows_that_leave_all_to_chance_are_refused(method, steps: int, window: int) -> None:
    said = rf"{window} of {steps} steps.*method.start=0.1.*train.epochs"
    with pytest.raises(UserError, match=said):
        train(method(rank=4), WatchedJob(max_steps=steps, epochs=9))


@pytest.mark.parametrize(("steps", "warned"), [(10, True), (63, True), (66, False)])
def test_short_windows_are_warned_of(
    steps: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "problems"):
        SaLoRA(density=0.25).check_window(steps)
    found = [record.getMessage() for record in caplog.records]
    assert len(found) == warned
    assert not warned or f"of {steps} steps" in found[0]
    assert (
        not warned or "fewer than 20 the density may end far from method.density=0.25" in found[0]
    )

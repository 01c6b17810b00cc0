"""Signals: raised at once, after the step while training, and never lost."""

import os
import signal
import sys
import time
from collections.abc import Callable

import pytest

from experiments.cli import stopping


def send(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_at_once(number: int, status: int) -> None:
    before = signal.getsignal(number)
    with stopping.orderly():
        with pytest.raises(stopping.Stopped):
            send(number)
        assert stopping.status() == status
    assert not stopping.requested()
    assert signal.getsignal(number) is before


def test_after_the_step(capfd: pytest.CaptureFixture[str]) -> None:
    def part() -> None:
        with stopping.waiting():
            assert stopping.due() is None
            send()
            assert isinstance(stopping.due(), stopping.Stopped)
        pytest.fail("the request was forgotten")  # without another look

    with stopping.orderly():
        with pytest.raises(stopping.Stopped):
            part()
        assert "after this step" in capfd.readouterr().err


def test_the_same_signal_again_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    with stopping.orderly(), stopping.waiting():
        send()
        send()  # a terminal and a scheduler tell the same twice
        monkeypatch.setattr(stopping, "SAME", -1.0)
        with pytest.raises(stopping.Stopped):
            send()
        monkeypatch.undo()
        stopping._state.number = None


def test_where_python_cannot_raise() -> None:
    class Deaf:
        def __del__(self) -> None:
            send()
            time.sleep(0)  # the handler's moment

    def part() -> None:
        Deaf()
        time.sleep(5)

    with stopping.orderly(), pytest.raises(stopping.Stopped):
        part()


def test_what_else_cannot_be_raised_goes_where_it_went(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test's or a notebook's own hook, not the terminal."""

    class Broken:
        def __del__(self) -> None:
            raise ValueError("broken")

    found: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: found.append(str(what.exc_value)))
    with stopping.orderly(), stopping.orderly():
        Broken()
    assert found == ["broken"]


def test_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with stopping.orderly():
            send(signal.SIGHUP)
            assert not stopping.requested()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_worker_begins_no_other_run() -> None:
    told: list[Callable[[], None]] = []
    with stopping.orderly(), stopping.telling(lambda: told.append(stopping.requested)):
        with stopping.heeding():
            assert stopping.busy()
        send(signal.SIGTERM)
        assert len(told) == 1
        assert not stopping.busy()
        with pytest.raises(stopping.Stopped), stopping.heeding():
            pytest.fail("a run has begun")

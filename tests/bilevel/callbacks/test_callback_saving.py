"""Checkpoints now and then, and the progress bar."""

import io

import pytest
import torch

from bilevel import (
    UserError,
)
from bilevel.callbacks import (
    Callback,
    CheckpointEvery,
    ProgressBar,
)
from bilevel.checkpoint.folder import Checkpointer
from tests.bilevel.watched import Crash, build


def test_checkpoints_every_and_last(tmp_path):
    keeper = Checkpointer(tmp_path, keep=9)
    engine = build(8, [CheckpointEvery(keeper, 3, "search")])
    engine.run()
    steps = [int(p.stem[-8:]) for p in keeper.paths()]
    assert steps == [3, 6, 8]
    again = build(8, [CheckpointEvery(keeper, 3, "search")])
    again.load_state_dict(keeper.latest()[1])
    assert again.global_step == 8
    assert torch.equal(again.inner.module.weight, engine.inner.module.weight)


def test_checkpoint_when_stopped_early_and_own_state(tmp_path):
    class Stop(Callback):
        def on_step_end(self, engine):
            if engine.global_step == 4:
                engine.request_stop("enough")

    keeper = Checkpointer(tmp_path, keep=9)
    saver = CheckpointEvery(keeper, 3, state=lambda engine: {"at": engine.global_step})
    build(8, [Stop(), saver]).run()
    assert keeper.latest()[1] == {"at": 4}


def test_checkpoints_must_come_last(tmp_path):
    saver = CheckpointEvery(Checkpointer(tmp_path), 1)
    with pytest.raises(UserError, match="must be the last"):
        build(1, [saver, Callback()]).run()
    with pytest.raises(UserError, match="every=0"):
        CheckpointEvery(Checkpointer(tmp_path), 0)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_shows_rate_time_left_and_both_losses():
    screen = Terminal()
    build(7, [ProgressBar("search", refresh=0.0, stream=screen)]).run()
    last = screen.getvalue().split("\r")[-1]
    assert last.startswith("search: 100%")
    assert "7/7" in last
    assert "lower loss=" in last
    assert "upper loss=" in last
    middle = next(part for part in screen.getvalue().split("\r") if "3/7" in part)
    assert "<" in middle  # elapsed<remaining
    assert "step/s" in middle or "s/step" in middle


def test_progress_goes_on_from_the_resumed_step():
    engine = build(4)
    engine.run()
    screen = Terminal()
    resumed = build(6, [ProgressBar(refresh=0.0, stream=screen)])
    state = engine.state_dict()
    state["callbacks"] = [{}]
    resumed.load_state_dict(state)
    resumed.run()
    assert "4/6" in screen.getvalue()
    assert "3/6" not in screen.getvalue()
    assert "6/6" in screen.getvalue()


def test_progress_is_quiet_without_a_terminal():
    stream = io.StringIO()
    bar = ProgressBar("search", refresh=0.0, stream=stream)
    build(3, [bar]).run()
    assert stream.getvalue() == ""
    assert bar._losses.read() == {}


def test_progress_reads_losses_only_when_it_draws(monkeypatch):
    screen = Terminal()
    bar = ProgressBar(refresh=3600.0, stream=screen)
    reads = []
    read = bar._losses.read
    monkeypatch.setattr(bar._losses, "read", lambda: reads.append(1) or read())
    build(30, [bar]).run()
    assert 1 <= len(reads) <= 2


def test_progress_leaves_a_line_when_a_step_fails():
    screen = Terminal()
    with pytest.raises(KeyboardInterrupt):
        build(5, [ProgressBar(refresh=0.0, stream=screen), Crash(2)]).run()
    assert screen.getvalue().endswith("\n")


def test_asked_to_stop_saves_first(tmp_path):
    keeper = Checkpointer(tmp_path)
    ended = KeyboardInterrupt()
    asked = iter([None, None, ended])
    engine = build(8, [CheckpointEvery(keeper, 5, stop=lambda: next(asked))])
    with pytest.raises(KeyboardInterrupt) as caught:
        engine.run()
    assert caught.value is ended
    again = build(8, [CheckpointEvery(keeper, 5)])
    again.load_state_dict(keeper.latest()[1])
    assert again.global_step == 3

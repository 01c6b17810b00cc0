"""Damaged, truncated and foreign files; full disks; kills."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from safetensors.torch import save_file

from bilevel.checkpoint import state_file
from bilevel.checkpoint.folder import (
    CheckpointDamaged,
    Checkpointer,
    load_state,
    save_state,
)
from bilevel.errors import UserError
from tests.bilevel.disks import fill_disk


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "state.safetensors"
    save_state(path, {"x": torch.arange(300.0), "n": {"y": torch.ones(3), "k": 1}})
    return path


def test_a_flipped_byte_is_found_anywhere(written):
    good = written.read_bytes()
    for position in [*range(8), *range(8, len(good), 7)]:
        bad = bytearray(good)
        bad[position] ^= 0x10
        written.write_bytes(bad)
        with pytest.raises(CheckpointDamaged):
            load_state(written)


def test_every_truncation_is_found(written):
    good = written.read_bytes()
    for size in [0, 1, 7, 8, 9, *range(10, len(good), 37), len(good) - 1]:
        written.write_bytes(good[:size])
        with pytest.raises(CheckpointDamaged):
            load_state(written)
    written.write_bytes(good + b"\0")
    with pytest.raises(CheckpointDamaged):
        load_state(written)


def test_file_without_our_metadata(tmp_path):
    save_file({"x": torch.ones(2)}, tmp_path / "bare")
    save_file({"x": torch.ones(2)}, tmp_path / "other", metadata={"format": "pt"})
    (tmp_path / "text").write_text("not a checkpoint at all")
    for name in ("bare", "other", "text"):
        with pytest.raises(CheckpointDamaged, match="no checksum"):
            load_state(tmp_path / name)


def test_other_format_version(tmp_path, monkeypatch):
    monkeypatch.setattr(state_file, "_FORMAT", "bilevel-state-9")
    save_state(tmp_path / "s", {})
    monkeypatch.undo()
    with pytest.raises(CheckpointDamaged, match=r"bilevel-state-9.*reads bilevel-state-1"):
        load_state(tmp_path / "s")


def test_pickled_file_is_refused_unread(tmp_path):
    torch.save({"x": 1}, tmp_path / "s")
    with pytest.raises(CheckpointDamaged):
        load_state(tmp_path / "s")


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="no checkpoint at"):
        load_state(tmp_path / "none")


@pytest.mark.parametrize("room", [0, 2000, 5000])
def test_full_disk(written, monkeypatch, room):
    before = written.read_bytes()
    fill_disk(monkeypatch, room)
    with pytest.raises(UserError, match=r"No space left on device.*earlier checkpoints"):
        save_state(written, {"x": torch.zeros(2000)})
    monkeypatch.undo()
    assert written.read_bytes() == before
    assert os.listdir(written.parent) == [written.name]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_disk_that_fills_while_flushing(written, monkeypatch):
    """Small writes fail only when the buffer is written out."""
    before = written.read_bytes()
    with open("/dev/full", "wb") as device:
        monkeypatch.setattr(state_file, "open", lambda *_: device, raising=False)
        with pytest.raises(UserError, match="No space left on device"):
            save_state(written, {"k": 1})
    assert written.read_bytes() == before


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file/s: "):
        save_state(tmp_path / "file" / "s", {})


def run_python(body, *arguments):
    source = "import os, signal, sys, torch\n" + textwrap.dedent(body)
    return subprocess.Popen([sys.executable, "-c", source, *map(str, arguments)])


@pytest.mark.parametrize("moment", ["write", "fsync", "replace"])
def test_kill_at_a_moment_of_the_write_leaves_the_old_one(tmp_path, moment):
    body = """
    from bilevel.checkpoint import state_file
    from bilevel.checkpoint.folder import Checkpointer
    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)
    keeper = Checkpointer(sys.argv[1])
    keeper.save("search", 1, {"x": torch.ones(100_000)})
    if sys.argv[2] == "write":
        class Dying:
            def __init__(self, start): self.count = 0
            def update(self, content):
                self.count += 1
                if self.count == 2: die()
        state_file.hashlib.sha256 = Dying
    else:
        setattr(os, sys.argv[2], die)
    keeper.save("search", 2, {"x": torch.zeros(100_000), "y": torch.zeros(100_000)})
    """
    assert run_python(body, tmp_path, moment).wait(60) == -signal.SIGKILL
    names = sorted(os.listdir(tmp_path))
    assert len(names) == 2
    assert names[0].endswith(".tmp")
    keeper = Checkpointer(tmp_path)
    path, state = keeper.latest()
    assert path.name == "00-search-00000001.safetensors"
    assert torch.equal(state["x"], torch.ones(100_000))
    keeper.save("search", 2, {})
    assert len(os.listdir(tmp_path)) == 2  # the leftover is gone
    assert len(keeper.paths()) == 2


def test_kills_at_any_time_leave_a_good_checkpoint(tmp_path):
    body = """
    from bilevel.checkpoint.folder import Checkpointer
    keeper = Checkpointer(sys.argv[1])
    found = keeper.latest()
    step = found[1]["step"] if found else 0
    while True:
        step += 1
        keeper.save("search", step, {"step": step, "x": torch.full((500_000,), float(step))})
    """
    last = 0
    for delay in (0.05, 0.11, 0.173):
        process = run_python(body, tmp_path)
        deadline = time.monotonic() + 60
        while not any(p.name > f"00-search-{last:08d}.z" for p in Checkpointer(tmp_path).paths()):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        path, state = Checkpointer(tmp_path).latest()
        assert path.name == f"00-search-{state['step']:08d}.safetensors"
        assert state["x"].eq(state["step"]).all()
        assert state["step"] > last
        last = state["step"]

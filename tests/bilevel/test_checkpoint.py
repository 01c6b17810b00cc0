"""State files and checkpoint folders: round trips, and every fault that a disk or a kill brings."""

import errno
import json
import logging
import math
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bilevel import state_file
from bilevel.checkpoint import (
    CheckpointDamaged,
    Checkpointer,
    flatten,
    load_state,
    save_state,
    unflatten,
)
from bilevel.errors import UserError


def assert_same(a, b, where="state"):
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, where
        assert torch.equal(a, b), where
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype, where
        np.testing.assert_array_equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}.{i}")
    elif isinstance(a, float) and math.isnan(a):
        assert math.isnan(b), where
    else:
        assert a == b, where


EVERYTHING = {
    "dtypes": {
        str(d): torch.tensor([[0, 1], [2, 3]]).to(d)
        for d in (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.bool)
    },
    "integers": [torch.arange(3, dtype=d) for d in (torch.int64, torch.int32, torch.uint8)],
    "odd": (torch.tensor(1.5), torch.empty(0, 3), torch.arange(6).view(2, 3).t()),
    "special": torch.tensor([math.inf, -math.inf, math.nan]).nan_to_num(),
    1: {2.5: "float key", None: "none key", (1, "a"): "tuple key", True: 0},
    "numbers": [0.1, 1e-308, -0.0, math.inf, -math.inf, math.nan, 10**30, True, False, None],
    "arrays": [np.arange(5, dtype=np.uint32), np.array(2.5), np.zeros((2, 0)), np.array([True])],
    "text": 'quotes " and \\ and "sha256":"' + "0" * 64 + '" and \u00fc\u2028',
    "a.b": {"c": torch.ones(1)},
    "a": {"b.c": torch.zeros(1), "b": {"c": torch.full((1,), 2.0)}},
    "empty": [{}, [], ()],
}


def test_flatten_round_trip():
    tensors, text = flatten(EVERYTHING)
    json.loads(text)
    assert_same(unflatten(tensors, text), EVERYTHING)


def test_file_round_trip(tmp_path):
    path = tmp_path / "new" / "state.safetensors"
    save_state(path, EVERYTHING)
    assert_same(load_state(path), EVERYTHING)
    assert os.listdir(path.parent) == [path.name]
    assert len(load_file(path)) == len(flatten(EVERYTHING)[0])  # stock safetensors reads it


@pytest.mark.parametrize("state", [None, 3, [], torch.ones(2), "x"])
def test_any_root(tmp_path, state):
    save_state(tmp_path / "s", state)
    assert_same(load_state(tmp_path / "s"), state)


def test_same_state_same_bytes(tmp_path):
    save_state(tmp_path / "a", EVERYTHING)
    save_state(tmp_path / "b", EVERYTHING)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_parameters_views_and_numpy_scalars(tmp_path):
    parameter = torch.nn.Parameter(torch.randn(3, 4))
    state = {"p": parameter, "v": parameter[:, 1], "n": np.float32(0.1), "i": np.int64(3)}
    save_state(tmp_path / "s", state)
    loaded = load_state(tmp_path / "s")
    assert torch.equal(loaded["p"], parameter)
    assert torch.equal(loaded["v"], parameter[:, 1])
    assert not loaded["p"].requires_grad
    assert loaded["n"] == float(np.float32(0.1))
    assert loaded["i"] == 3


def test_loaded_tensors_outlive_the_file(tmp_path):
    save_state(tmp_path / "s", {"x": torch.arange(1000.0)})
    loaded = load_state(tmp_path / "s")
    with open(tmp_path / "s", "r+b") as file:
        file.truncate(0)
    loaded["x"] += 1
    assert torch.equal(loaded["x"], torch.arange(1000.0) + 1)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_optimizer_scheduler_and_generator_go_on_bit_equal(tmp_path, name):
    """5 + 5 steps with everything through a file in between equal 10 steps."""

    def build():
        torch.manual_seed(0)
        layer = torch.nn.Linear(4, 2)
        optimizer = (
            torch.optim.AdamW(layer.parameters(), lr=0.1, amsgrad=True)
            if name == "adamw"
            else torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
        )
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=20)
        return layer, optimizer, scheduler, np.random.default_rng(0)

    def train(layer, optimizer, scheduler, numpy_generator, steps):
        for _ in range(steps):
            noise = torch.from_numpy(numpy_generator.standard_normal((3, 4))).float()
            layer(torch.randn(3, 4) + noise).pow(2).mean().backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()

    whole = build()
    train(*whole, 10)
    first = build()
    train(*first, 5)
    state = {
        "layer": dict(first[0].state_dict()),
        "optimizer": first[1].state_dict(),
        "scheduler": first[2].state_dict(),
        "numpy": first[3].bit_generator.state,
        "torch": torch.get_rng_state(),
    }
    save_state(tmp_path / "s", state)
    second = build()
    torch.manual_seed(99)
    loaded = load_state(tmp_path / "s")
    second[0].load_state_dict(loaded["layer"])
    second[1].load_state_dict(loaded["optimizer"])
    second[2].load_state_dict(loaded["scheduler"])
    second[3].bit_generator.state = loaded["numpy"]
    torch.set_rng_state(loaded["torch"])
    train(*second, 5)
    assert torch.equal(second[0].weight, whole[0].weight)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": [{"b": object()}]}, "a object into a checkpoint .at a.0.b"),
        ({"a": {1, 2}}, "a set .*at a"),
        (torch.ones(2, dtype=torch.cfloat), "complex64 tensor .*at the top"),
        ({"s": torch.ones(2).to_sparse()}, "tensor .*at s"),
        ({"o": np.array([None])}, "a ndarray .*at o"),
        ({torch.float32: 1}, "a dtype .*at key of"),
    ],
)
def test_what_cannot_be_saved_is_named(tmp_path, value, words):
    with pytest.raises(UserError, match=words):
        save_state(tmp_path / "s", value)
    assert os.listdir(tmp_path) == []


# ------------------------------------------------------------------ damage


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


# ------------------------------------------------------------------ full disk, kills


class FullDisk:
    """A file on which only ``room`` bytes fit."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, content):
        self.room -= len(content)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(content)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *details):
        self.file.close()


def fill_disk(monkeypatch, room):
    def opened(*arguments):
        return FullDisk(open(*arguments), room)

    monkeypatch.setattr(state_file, "open", opened, raising=False)


@pytest.mark.parametrize("room", [0, 2000, 5000])
def test_full_disk(written, monkeypatch, room):
    before = written.read_bytes()
    fill_disk(monkeypatch, room)
    with pytest.raises(UserError, match=r"No space left on device; .*earlier checkpoints are unt"):
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
    from bilevel import state_file
    from bilevel.checkpoint import Checkpointer
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
    from bilevel.checkpoint import Checkpointer
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


# ------------------------------------------------------------------ the folder


def names(keeper):
    return [p.name for p in keeper.paths()]


def test_names_order_and_rotation(tmp_path):
    keeper = Checkpointer(tmp_path / "checkpoints", keep=2)
    assert keeper.latest() is None
    for step in (5, 10, 100):
        keeper.save("search", step, {"step": step})
    assert names(keeper) == [
        "00-search-00000010.safetensors",
        "00-search-00000100.safetensors",
    ]
    keeper.save("retrain", 1, {"step": 1})
    again = Checkpointer(tmp_path / "checkpoints", keep=2)  # as a resumed run would
    again.save("retrain", 2, {"step": 2})
    again.save("finish", 1, {"step": "last"})
    assert names(again) == ["01-retrain-00000002.safetensors", "02-finish-00000001.safetensors"]
    path, state = again.latest()
    assert state == {"step": "last"}
    assert again.last_good == path


def test_damaged_newest_is_reported_and_passed_over(tmp_path, caplog):
    keeper = Checkpointer(tmp_path, keep=3)
    paths = [keeper.save("search", step, {"step": step}) for step in (1, 2, 3)]
    paths[2].write_bytes(paths[2].read_bytes()[:-1])
    paths[1].write_bytes(b"")
    resumed = Checkpointer(tmp_path, keep=3)
    with caplog.at_level(logging.WARNING):
        path, state = resumed.latest()
    assert state == {"step": 1}
    assert path == paths[0]
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    for message, damaged in zip(messages, (paths[2], paths[1]), strict=True):
        assert damaged.name in message
        assert "damaged" in message
        assert f"using {paths[0].name} instead" in message
    assert len(names(resumed)) == 3  # reading changes nothing
    resumed.save("search", 2, {"step": 2})
    assert names(resumed) == [paths[0].name, paths[1].name]
    assert (tmp_path / (paths[2].name + ".damaged")).exists()
    assert resumed.latest()[1] == {"step": 2}


def test_damage_never_costs_the_checkpoint_just_written(tmp_path):
    keeper = Checkpointer(tmp_path, keep=1)
    keeper.keep = 2
    keeper.save("search", 9, {"step": 9})
    keeper.save("retrain", 1, {}).write_bytes(b"damaged")
    resumed = Checkpointer(tmp_path, keep=1)
    resumed.latest()
    resumed.save("search", 10, {"step": 10})
    assert names(resumed) == ["00-search-00000010.safetensors"]
    assert Checkpointer(tmp_path).latest()[1] == {"step": 10}


def test_nothing_but_damage_is_an_error(tmp_path):
    keeper = Checkpointer(tmp_path)
    keeper.save("search", 1, {}).write_bytes(b"")
    with pytest.raises(UserError, match=r"every checkpoint .*00-search-00000001"):
        keeper.latest()


def test_full_disk_keeps_the_earlier_checkpoints(tmp_path, monkeypatch):
    keeper = Checkpointer(tmp_path, keep=1)
    keeper.save("search", 1, {"step": 1})
    fill_disk(monkeypatch, 10)
    with pytest.raises(UserError, match="No space left"):
        keeper.save("search", 2, {"step": 2})
    monkeypatch.undo()
    assert keeper.latest()[1] == {"step": 1}
    assert os.listdir(tmp_path) == ["00-search-00000001.safetensors"]


def test_bad_arguments(tmp_path):
    with pytest.raises(UserError, match="keep=0"):
        Checkpointer(tmp_path, keep=0)
    with pytest.raises(UserError, match="'a/b'"):
        Checkpointer(tmp_path).save("a/b", 1, {})

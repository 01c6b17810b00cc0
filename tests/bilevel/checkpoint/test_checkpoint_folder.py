"""A folder of checkpoints: rotation, fallback."""

import logging
import os

import pytest

from bilevel.checkpoint.folder import (
    Checkpointer,
)
from bilevel.errors import UserError
from tests.bilevel.disks import fill_disk


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

"""State files and checkpoint folders: round trips, and every fault that a disk or a kill brings."""

import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bilevel.checkpoint.folder import (
    flatten,
    load_state,
    save_state,
    unflatten,
)
from bilevel.errors import UserError
from tests.bilevel.states import EVERYTHING, assert_same


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

"""Generators of a GPU go along with those of the host; a saved state fits another machine."""

import logging

import pytest
import torch

from bilevel.nests import to_device
from bilevel.replay.random_state import RandomState


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs' generators, as far as RandomState sees them, and which of them were read."""
    states = {0: torch.tensor([10]), 1: torch.tensor([11])}
    read: list[int] = []

    def get(index):
        read.append(index)
        return states[index].clone()

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_rng_state", get)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [get(0), get(1)])
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda state, index: states.__setitem__(index, state)
    )
    return states, read


def test_only_the_device_in_use_is_read_and_replayed(gpus):
    states, read = gpus
    state = RandomState.capture("cuda:1")
    assert list(state.cuda) == read == [1]
    states[0], states[1] = torch.tensor([20]), torch.tensor([21])
    with state.replayed():
        assert states[1] == 11
        states[1] = torch.tensor([12])  # drawn from, as dropout does
    assert (states[0], states[1]) == (20, 21)
    assert list(RandomState.capture("cuda").cuda) == [1]
    assert list(RandomState.capture().cuda) == [0, 1]


def test_a_saved_state_goes_on_at_another_gpu(gpus):
    states, _ = gpus
    saved = RandomState.from_state_dict(RandomState.capture("cuda:1").state_dict())
    saved.on("cuda:0").restore()
    assert (states[0], states[1]) == (11, 11)
    assert list(saved.on("cuda:1").cuda) == [1]


def test_one_without_a_gpu_says_that_dropout_differs(gpus, caplog):
    saved = RandomState.capture("cuda:0")
    with caplog.at_level(logging.WARNING):
        assert not saved.on("cpu").cuda
    assert "dropout" in caplog.text
    caplog.clear()
    RandomState.capture("cpu").on("cpu")
    assert not caplog.text


def test_batches_go_to_a_gpu_through_pinned_memory(monkeypatch):
    """Else the host waits while the driver copies, behind all that the device has to do."""
    copied = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: x + 100)

    def to(x, device, non_blocking):
        copied.append((x.tolist(), device.type, non_blocking))
        return x

    monkeypatch.setattr(torch.Tensor, "to", to)
    to_device({"input_ids": [torch.tensor([1])], "labels": torch.tensor(2)}, torch.device("cuda"))
    to_device(torch.tensor(3), torch.device("cpu"))
    assert copied == [([101], "cuda", True), (102, "cuda", True), (3, "cpu", True)]

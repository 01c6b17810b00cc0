"""Apple's GPU, which no machine here has: it is chosen, its dropout is replayed."""

from typing import Any

import pytest
import torch

from bilevel import distributed, precision
from bilevel.errors import UserError
from bilevel.replay.random_state import RandomState
from tests.bilevel import no_float64

MPS = torch.device("mps")


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


def test_it_is_the_gpu_of_a_mac(mac: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert distributed.setup("default").device == MPS
    assert distributed.setup("gpu").device == MPS
    assert distributed.setup("cpu").device == torch.device("cpu")
    assert precision.resolve("auto", MPS) == "fp32"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert distributed.setup("default").device == torch.device("cuda:0")


def test_without_any_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert distributed.setup("default").device == torch.device("cpu")
    with pytest.raises(UserError, match="strategy=gpu"):
        distributed.setup("gpu")


def test_its_generator_is_put_back(mac: None, monkeypatch: pytest.MonkeyPatch) -> None:
    held = {"state": torch.tensor([1])}
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: held["state"])
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda new: held.update(state=new))
    assert RandomState.capture("cpu").mps is None
    for state in (RandomState.capture(MPS), RandomState.capture()):
        held["state"] = torch.tensor([2])
        with RandomState.from_state_dict(state.state_dict()).replayed():
            assert held["state"].item() == 1
        assert held["state"].item() == 2
        held["state"] = torch.tensor([1])


def test_a_state_goes_on_where_it_can(caplog: Any) -> None:
    plain = RandomState.capture("cpu")
    apple = RandomState(plain.python, plain.numpy, plain.cpu, {}, torch.tensor([1]))
    assert apple.on(MPS) is apple
    assert not caplog.records
    assert apple.on("cpu").mps is None
    assert "dropout" in caplog.text
    other = RandomState(plain.python, plain.numpy, plain.cpu, {0: torch.tensor([1])})
    assert other.on(MPS).cuda == {}
    assert plain.on(MPS) is plain


def test_sums_in_float64_go_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not precision.has_float64(MPS)
    assert precision.has_float64(torch.device("cuda:0"))
    x = torch.tensor([0.1, 0.2], requires_grad=True)
    with no_float64.told(monkeypatch) as made:
        total = precision.in_float64(x).sum()
        total.backward()
    assert made == []
    assert total.dtype == torch.float64
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
    with no_float64.told(monkeypatch, without=False) as made:  # the stand-in can tell
        precision.in_float64(x.detach())
    assert len(made) == 1
    with no_float64.told(monkeypatch) as made:
        torch.zeros(2, dtype=torch.float64, device=no_float64.DEVICE)
        torch.zeros(2, dtype=torch.float64)
        x.detach().cpu().double()
    assert len(made) == 1

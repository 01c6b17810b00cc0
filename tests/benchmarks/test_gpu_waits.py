"""No step of ours makes the host wait for a device, as far as what is dispatched on a CPU tells."""

from collections.abc import Callable

import pytest
import torch
from torch.overrides import TorchFunctionMode

from benchmarks.gpu.methods import PLAIN, TWO_LEVELS, method_engine
from benchmarks.gpu.models import SMALL
from benchmarks.gpu.waiting import by_dispatch, counters
from benchmarks.gpu.waits import ALLOWED, ESTIMATORS, others, waits
from bilevel import BilevelEngine
from problems import AutoLoRA, DoRA, SaLoRA
from problems.adalora import AdaLoRA
from problems.delta_lora import DeltaLoRA

CPU = torch.device("cpu")
METHODS = {
    "lora": PLAIN,
    "dora": DoRA(),
    "adalora": AdaLoRA(),
    "delta_lora": DeltaLoRA(),
    "salora": SaLoRA(start=0.0, end=1.0),
    **TWO_LEVELS,
}


@pytest.fixture(autouse=True)
def as_on_an_accelerator(monkeypatch):
    """Learned rates are read where reading costs nothing, and only there."""
    for where in ("bilevel.step_settings", "bilevel.replay.recorder"):
        monkeypatch.setattr(f"{where}.reads_settings", lambda level: False)


def engine(method, estimator=None, **options):
    return method_engine(
        method, CPU, SMALL, length=8, batch_size=4, hypergradient=estimator, **options
    )


def waiting(engine: BilevelEngine) -> dict[str, int]:
    """What waits, but for a number that is read where it was found to be on the host."""
    found = others(waits(engine, on_gpu=False))
    host = "bilevel/hypergradient/optimizer_state.py"
    return {place: count for place, count in found.items() if not place.startswith(host)}


@pytest.mark.parametrize("name", METHODS)
def test_no_method_waits(name):
    assert waiting(engine(METHODS[name], precision="fp32")) == {}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_no_estimator_waits_but_for_known_reasons(name):
    found = waiting(engine(AutoLoRA(), ESTIMATORS[name], precision="fp32"))
    allowed = f"autolora, {name}" in ALLOWED
    assert sum(found.values()) == int(allowed), found


def test_nor_in_bf16_or_when_gradients_are_clipped():
    """Nor are terms counted there: tests/bilevel/test_micro_batches.py."""
    assert waiting(engine(AutoLoRA(), precision="bf16", gradient_clipping=1.0)) == {}


READS: dict[str, Callable[[torch.Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x[0]),
    "if": lambda x: bool((x > 0).any()),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "mask": lambda x: x[x > 0],
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "where, both": lambda x: torch.where(x > 0, 1, 0),
    "tensor": lambda x: x + torch.tensor(2.0, device=x.device),
    "nonzero": lambda x: x.nonzero(),
    "eigenvalues": lambda x: torch.linalg.eigh(torch.outer(x, x)),
    "pseudo-inverse": lambda x: torch.linalg.pinv(torch.outer(x, x), hermitian=True),
}


@pytest.mark.parametrize("name", READS)
def test_the_counter_sees_what_waits(name):
    x = torch.tensor([1.0, -2.0])
    with by_dispatch() as found:
        READS[name](x)
    assert sum(found.values()) >= 1
    assert all(place.startswith("test_gpu_waits.py:") for place in found)


def test_a_place_is_whose_call_it_is_and_not_the_mode_that_it_passed_through():
    class Through(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    def caller(x):
        return bool(x.all())

    with by_dispatch() as found, Through():
        caller(torch.ones(2))
    line = caller.__code__.co_firstlineno + 1
    assert list(found) == [f"test_gpu_waits.py:{line}: reads a number"]


def test_and_passes_over_what_does_not():
    x = torch.tensor([1.0, -2.0])
    optimizer = torch.optim.AdamW([p := torch.nn.Parameter(x.clone())], foreach=False)
    p.grad = x
    optimizer.step()
    with by_dispatch(lambda: counters([optimizer])) as found:
        optimizer.step()  # reads its step count, which is on the host
        torch.full((), 3.0, device=x.device)
        x.masked_fill(x < 0, 0.0)
        torch.where(x > 0, x, torch.zeros_like(x))
        x[torch.tensor([1, 0])]
    assert not found

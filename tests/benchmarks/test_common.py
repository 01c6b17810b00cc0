"""What the benchmarks share computes where it is asked to."""

import pytest
import torch

from benchmarks.common import our_engine
from bilevel.hypergradient import NoHypergradient


def test_the_cpu_is_taken_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a machine with a GPU, which is what an engine takes by default."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    engine = our_engine(NoHypergradient(), "fp32", device="cpu", batch=2, length=4)
    assert engine.device == torch.device("cpu")

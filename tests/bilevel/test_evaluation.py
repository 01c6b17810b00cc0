"""The precision that a model is evaluated in, and the device that it is one of."""

import torch
from torch import nn

from bilevel import precision, sharding
from bilevel.evaluation import matching_autocast


def test_autocast_is_of_the_device_that_computes(monkeypatch):
    """With a frozen weight that stands for a part of the base, kept by the CPU."""
    model = nn.ParameterList([nn.Parameter(torch.ones(2, dtype=torch.bfloat16), False)])
    model.append(nn.Parameter(torch.ones(2, device="meta")))
    monkeypatch.setattr(sharding, "_is_part", lambda tensor: not tensor.requires_grad)
    monkeypatch.setattr(precision, "autocast", lambda kind, device: (kind, device))
    assert matching_autocast(model) == ("bf16", "meta")

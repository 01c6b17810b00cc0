"""Batches go to where the model computes, which need not be where its first weights lie."""

import torch
from torch import nn

from bilevel import sharding
from experiments.training.scoring import outputs_of


class Offloaded(nn.Module):
    """A frozen weight that stands for a part kept by the CPU, and a trained one elsewhere."""

    def __init__(self):
        super().__init__()
        self.part = nn.Parameter(torch.ones(2), requires_grad=False)
        self.adapter = nn.Parameter(torch.ones(2, device="meta"))

    def forward(self, input_ids):
        return input_ids.device.type


def test_of_an_offloaded_base(monkeypatch):
    monkeypatch.setattr(sharding, "_is_part", lambda tensor: not tensor.requires_grad)
    rows = [{"input_ids": [1, 2]}, {"input_ids": [3]}]

    def collate(rows):
        return {"input_ids": torch.tensor([len(row["input_ids"]) for row in rows])}

    with outputs_of(Offloaded(), rows, collate) as asked:
        assert [outputs for _, outputs, _ in asked] == ["meta"]

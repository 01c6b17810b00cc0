"""Trained-looking adapters on tiny transformers, and held-out examples for criteria."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from bilevel.cutting import Losses, ScoringData
from tests.bilevel.lowrank.conftest import _adapted, _base, _batch


def _scoring(model, count: int = 12, seed: int = 5) -> ScoringData:
    """Random sentences of unequal length with random labels, in batches of four."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count // 4):
        mask = torch.ones(4, 8, dtype=torch.long)
        mask[1, 6:] = 0
        mask[3, 3:] = 0
        ids = torch.randint(4, 50, (4, 8), generator=generator)
        labels = torch.randint(3, (4,), generator=generator)
        batches.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return ScoringData(batches, lambda: _losses(model, batches))


@torch.no_grad()
def _losses(model, batches) -> Losses:
    model.eval()
    rows = [
        functional.cross_entropy(model(**batch).logits, batch["labels"], reduction="none")
        for batch in batches
    ]
    totals = torch.cat(rows).numpy()
    return Losses(totals, np.ones(len(totals), dtype=int))


@pytest.fixture
def base():
    return _base


@pytest.fixture
def adapted():
    return _adapted


@pytest.fixture
def batch():
    return _batch()


@pytest.fixture
def scoring():
    return _scoring

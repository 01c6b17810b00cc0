"""A state with every kind of value, and its comparison to the bit."""

import math

import numpy as np
import torch


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

"""Copies of nests."""

from collections import Counter, namedtuple

import numpy as np
import torch

from bilevel.nests import clone_nested

Pair = namedtuple("Pair", "first second")


def test_a_copy_shares_nothing():
    leaves = [torch.zeros(1) for _ in range(3)]
    nest = {
        "tuple": (leaves[0], [leaves[1]]),
        "pair": Pair(leaves[2], 1),
        "counter": Counter({3: 2}),
        "array": np.zeros(1),
    }
    copied = clone_nested(nest)
    for leaf in leaves:
        leaf += 1
    nest["array"] += 1
    assert copied["tuple"][0] == copied["tuple"][1][0] == copied["pair"].first == 0
    assert copied["array"] == 0
    assert list(copied["counter"].elements()) == [3, 3]  # as MultiStepLR asks it

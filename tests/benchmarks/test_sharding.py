"""The table of what a shared base costs, on shapes that are made in a moment."""

import pytest

from benchmarks import sharding

SMALL = {
    **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2},
}


@pytest.fixture(autouse=True)
def shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "SHAPES", {"small": SMALL})


def test_a_base_in_bf16_is_shared_out_and_its_factors_are_not() -> None:
    one, two = (sharding.cost_of("small", gpus, 4)[0] for gpus in (1, 2))
    # query, key, value, output; three maps of the feed-forward; two norms: by layer
    layer = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 96 + 2 * 64
    base = 2 * (2 * layer + 2 * 32000 * 64 + 64)
    for cost in (one, two):  # the last norm is in no block, and stays whole
        assert cost.whole + cost.others - cost.trained == base
    assert two.part == pytest.approx(one.whole / 2, rel=0.01)
    factors = 2 * 4 * ((64 + 64) + (64 + 32))  # of query and value
    assert one.trained == two.trained == 4 * factors


def test_a_row_adds_up_and_more_passes_receive_more() -> None:
    (row,) = sharding.rows(gpus=4, rank=4, batch=2, length=8, rate=100.0)
    cost, _ = sharding.cost_of("small", 4, 4)
    tokens = 2 * 8
    activations = 2 * tokens * 64 * 2 + tokens * 32000 * 6
    whole = cost.most + 3 * cost.trained + activations
    assert float(row["a GPU in all"]) == pytest.approx(whole / sharding.GIB, abs=0.05)
    assert row["model"] == "small"
    assert [key for key in row if key.endswith("(s)")] == [
        f"{method}: GB a step (s)" for method in sharding.PASSES
    ]

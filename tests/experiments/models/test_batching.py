"""Batches of evaluation: of like length, each example once, no more tokens than were asked for."""

import pytest

from experiments.models.batching import EXAMPLES, TOKENS, batches


@pytest.mark.parametrize("options", [{}, {"examples": 8}, {"examples": 8, "tokens": 4}])
def test_no_batch_is_larger_than_asked_for(options):
    lengths = [3, 500, 20, 20, 70, 1, *range(1, 120), 5_000]
    found = list(batches(lengths, **options))
    assert sorted(i for part in found for i in part) == list(range(len(lengths)))
    examples = options.get("examples", EXAMPLES)
    most = examples * options.get("tokens", TOKENS)
    for part in found:
        assert len(part) <= examples
        assert len(part) == 1 or len(part) * max(lengths[i] for i in part) <= most
    order = [lengths[i] for part in found for i in part]
    assert order == sorted(order, reverse=True)


def test_short_examples_fill_a_batch():
    assert [len(part) for part in batches([10] * 130)] == [64, 64, 2]

"""Put examples into batches for evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

__all__ = ["batches"]

# Tokens of a batch, padding included, and examples of a batch, at most.
TOKENS = 8192
EXAMPLES = 64


def batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of examples in batches of like length, longest first.

    They need little padding; where an example is padded changes nothing else.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        size = min(EXAMPLES, max(1, TOKENS // lengths[order[start]]))
        yield order[start : start + size]
        start += size

"""Put examples into batches for evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

__all__ = ["EXAMPLES", "batches"]

EXAMPLES = 64  # of a batch at most
TOKENS = 32  # of a batch at most, padding included, for each example that it may have


def batches(
    lengths: Sequence[int], examples: int = EXAMPLES, tokens: int = TOKENS
) -> Iterator[list[int]]:
    """Indices of examples in batches of like length, longest first.

    They need little padding; where an example is padded changes nothing else.

    Args:
        lengths: tokens of each example.
        examples: of a batch at most; of long ones fewer.
        tokens: of a batch at most, for each of ``examples``. So small by default that scoring
            takes no more memory than training did.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        size = min(examples, max(1, tokens * examples // lengths[order[start]]))
        yield order[start : start + size]
        start += size

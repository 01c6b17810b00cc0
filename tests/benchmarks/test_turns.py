"""Loops that take turns: blocks in order, errors, and the ratio of what they took."""

from collections.abc import Callable

import pytest

from benchmarks.turns import Turns, ratio


def endless(name: str, seen: list[str]) -> Callable[[Callable[[], None]], None]:
    def loop(step: Callable[[], None]) -> None:
        while True:
            seen.append(name)
            step()

    return loop


def test_loops_go_on_in_blocks_one_after_the_other() -> None:
    seen: list[str] = []
    found = Turns({"a": endless("a", seen), "b": endless("b", seen)}, block=2).seconds(rounds=2)
    # what comes before a first step, and that step, are a turn of their own
    assert "".join(seen) == "abaabbaabb"
    assert {name: len(seconds) for name, seconds in found.items()} == {"a": 2, "b": 2}
    assert all(second >= 0 for seconds in found.values() for second in seconds)


def test_what_a_loop_raises_is_raised_and_the_others_end() -> None:
    seen: list[str] = []

    def broken(step: Callable[[], None]) -> None:
        step()
        raise ValueError("no more data")

    with pytest.raises(ValueError, match="no more data"):
        Turns({"a": endless("a", seen), "b": broken}, block=1).seconds(rounds=3)
    assert len(seen) == 2


def test_a_loop_that_ends_by_itself_is_told() -> None:
    with pytest.raises(RuntimeError, match="ended"):
        Turns({"a": lambda step: step()}, block=1).seconds(rounds=3)


def test_the_ratio_is_of_each_round() -> None:
    """So a machine that slows down from round to round changes nothing."""
    below = [1.0, 2.0, 4.0, 8.0, 16.0]
    assert ratio([2 * x for x in below], below) == (2.0, 2.0, 2.0)
    middle, low, high = ratio([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
    assert (middle, low, high) == (2.0, 1.0, 3.0)

"""What cannot be done with suspects is told before anything is trained."""

from dataclasses import replace
from typing import Any

import pytest

from bilevel import UserError
from experiments.suspecting.apply import check
from experiments.tasks.demo_noisy import DemoNoisy


@pytest.fixture(scope="module")
def classes() -> Any:
    return DemoNoisy(max_train=14, trusted=4).load()


@pytest.fixture(scope="module")
def numbers(classes: Any) -> Any:
    return replace(classes, label_names=None, metrics=("pearson",))


@pytest.mark.parametrize("count", [10, 1000])
def test_so_many_suspects_that_nothing_is_left(count: int, classes: Any) -> None:
    with pytest.raises(UserError, match=r"count=.*10 training.*apply=trusted"):
        check(classes, "drop", count, learned=False)
    check(classes, "drop", 9, learned=False)


def test_so_many_suspects_that_less_than_a_batch_is_left(classes: Any) -> None:
    """Ten training and four trusted examples."""
    check(classes, "drop", 6, learned=False, batch=8)
    check(classes, "relabel", 9, learned=False, batch=8)
    with pytest.raises(UserError, match=r"count=7.*one batch of 8.*4 trusted.*give 6 or less"):
        check(classes, "drop", 7, learned=False, batch=8)


@pytest.mark.parametrize("apply", [None, "weight", "trusted"])
def test_a_count_of_what_is_neither_dropped_nor_relabelled(apply: Any, classes: Any) -> None:
    with pytest.raises(UserError, match=r"count=3.*apply=drop.*apply=relabel"):
        check(classes, apply, 3, learned=True)
    check(classes, apply, None, learned=True)


def test_without_classes_the_count_is_needed(numbers: Any) -> None:
    with pytest.raises(UserError, match=r"apply=drop.*count=N"):
        check(numbers, "drop", None, learned=False)
    check(numbers, "drop", 3, learned=False)


def test_only_what_is_to_be_had_is_offered(numbers: Any, classes: Any) -> None:
    with pytest.raises(UserError, match="allowed are drop, weight, trusted"):
        check(numbers, "relabel", 3, learned=True)
    with pytest.raises(UserError, match="allowed are drop, relabel, pooled, trusted"):
        check(classes, "weight", None, learned=False)

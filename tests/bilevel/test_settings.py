"""Settings: a field says type, range, default and meaning, and everything else follows from it."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import pytest
from annotated_types import Gt, Lt

from bilevel.errors import UserError
from bilevel.settings import (
    Count,
    Positive,
    Settings,
    Share,
    defaults,
    describe,
    from_values,
    options,
)


@dataclass(frozen=True)
class Rates(Settings):
    """An optimiser's."""

    lr: Positive | None = None
    """Learning rate."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Adam's."""


@dataclass(frozen=True)
class Base(Settings):
    """What both kinds share."""

    split: Annotated[float, Gt(0), Lt(1)] = 0.5
    """Share of
    D_train."""


@dataclass(frozen=True)
class Search(Base):
    """A method's."""

    name: ClassVar[str] = "search"
    rank: Count = 8
    """Components."""
    gate: Literal["softmax", "real"] = "softmax"
    places: str | list[str] | None = None
    upper: Rates = field(default_factory=lambda: Rates(lr=0.1, betas=(0.5, 0.9)))
    """Of the upper level."""


def test_values_become_an_instance():
    found = from_values(Search, {"rank": 3, "upper": {"betas": [0.25, 0]}, "split": 0.75}, "method")
    # The class's own default of a part stays where the values say nothing of it.
    assert found == Search(rank=3, split=0.75, upper=Rates(lr=0.1, betas=(0.25, 0.0)))
    assert isinstance(found.upper.betas[1], float)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rank": 0}, "method.rank=0.*1 or more"),
        ({"rank": True}, "method.rank=true.*integer"),
        ({"rank": "4"}, "method.rank='4'.*integer"),
        ({"rank": 2.0}, "method.rank=2.0.*integer"),
        ({"rank": None}, "method.rank=null.*integer"),
        ({"gate": "sigmoid"}, "method.gate=sigmoid.*softmax, real"),
        ({"split": 1}, r"method.split=1.*in \(0, 1\)"),
        ({"split": float("nan")}, "method.split=nan.*number"),
        ({"upper": {"lr": float("inf")}}, "method.upper.lr=inf.*finite"),
        ({"upper": {"betas": [0.9]}}, "method.upper.betas.*2 values.*number"),
        ({"upper": 3}, "method.upper=3.*group"),
        ({"upper": {"beta": 1}}, "'beta' in method.upper.*betas"),
        ({"rnk": 4}, "'rnk' in method.*rank"),
        ({"places": [1]}, "method.places.*list"),
    ],
)
def test_a_slip_is_told_with_its_place(values, said):
    with pytest.raises(UserError, match=said):
        from_values(Search, values, "method")


@pytest.mark.parametrize(
    "wrong", [{"rank": 0}, {"rank": "4"}, {"gate": 1}, {"upper": {"lr": 1}}, {"split": None}]
)
def test_an_instance_checks_itself(wrong):
    with pytest.raises(UserError, match=f"Search.{next(iter(wrong))}"):
        Search(**wrong)


def test_python_may_give_a_list_for_a_tuple_and_an_integer_for_a_number():
    made = Rates(lr=1, betas=[0, 0.5])  # type: ignore[arg-type]
    assert made == Rates(lr=1.0, betas=(0.0, 0.5))
    assert isinstance(made.betas, tuple)


def test_defaults_are_plain_values():
    assert defaults(Search) == {
        "split": 0.5,
        "rank": 8,
        "gate": "softmax",
        "places": None,
        "upper": {"lr": 0.1, "betas": [0.5, 0.9]},
    }


def test_options_tell_all_of_it():
    found = {option.name: option for option in options(Search, {"rank": 4})}
    names = ["split", "rank", "gate", "places", "upper", "upper.lr", "upper.betas"]
    assert list(found) == names
    assert found["split"].meaning == "Share of D_train."
    assert (found["rank"].default, found["rank"].allowed) == ("4", "an integer, 1 or more")
    assert found["upper"].meaning == "Of the upper level."
    assert found["upper.lr"].default == "0.1"
    assert found["upper.lr"].meaning == "Learning rate."


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (Count, "an integer, 1 or more"),
        (Share | None, "a number, in [0, 1), or null"),
        (Literal["a", "b"], "one of a, b"),
        (tuple[Share, Share], "a list of 2 values like [a,b], each a number, in [0, 1)"),
        (tuple[Count, ...], "a list like [a,b], each an integer, 1 or more"),
        (bool, "true or false"),
        (Any, "anything"),
    ],
)
def test_a_type_in_words(hint, words):
    assert describe(hint) == words


def test_a_number_that_is_none_is_no_choice_called_finite():
    @dataclass(frozen=True)
    class Cut(Settings):
        at: Share | Literal["best"] = "best"

    with pytest.raises(UserError, match=r"at=nan.*one of best, and finite$"):
        Cut(at=math.nan)


def test_a_function_is_called_with_checked_values_too():
    def make(size: int, name: str = "x") -> tuple[int, str]:
        return size, name

    assert from_values(make, {"size": 2}, "task") == (2, "x")
    with pytest.raises(UserError, match=r"task.size"):
        from_values(make, {}, "task")
    with pytest.raises(UserError, match=r"task.name=1.*text"):
        from_values(make, {"size": 2, "name": 1}, "task")

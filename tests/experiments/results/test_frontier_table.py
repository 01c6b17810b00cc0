"""The lines of a frontier: what was chosen, and what passes and was not."""

import pytest

from bilevel.cutting import Frontier
from bilevel.cutting.frontier import Point
from experiments.results.frontier_table import frontier_table

POINTS = [
    Point(0, 0, 2.0, 1.0, 0.01),
    Point(2, 20, 1.0, 0.0, 0.001),
    Point(4, 40, 1.1, 0.1, 0.001),
    Point(5, 50, 1.0, 0.01, 0.001),
    Point(8, 80, 1.0, 0.0, 0.0),
]


def test_a_smaller_part_that_passes_is_named_with_the_reason():
    said = frontier_table(Frontier(POINTS, {}, 0.02, True, 5, 99, errors=2.0)).splitlines()
    assert [line.endswith("chosen") for line in said[1:6]] == [False, False, False, True, False]
    assert "5 of 8 components" in said[6]
    assert "errors=2" in said[6]
    assert said[7].startswith("2 components pass too")
    assert len(said) == 8
    without = [POINTS[0], *POINTS[2:]]
    said = frontier_table(Frontier(without, {}, 0.02, True, 5, 99)).splitlines()
    assert len(said) == 6


@pytest.mark.parametrize(("constant", "named"), [(0.9, True), (1.4, False), (None, False)])
def test_a_delta_that_counts_from_the_constant_answer_says_so(constant, named) -> None:
    points = [Point(0, 0, 1.2, 1.0, 0.1), Point(2, 20, 0.2, 0.0, 0.0)]
    frontier = Frontier(points, {}, 0.014, True, 2, 30, constant=constant)
    assert ("constant answer (loss 0.9000)" in frontier_table(frontier)) == named


def test_where_nothing_was_learned_the_constant_answer_is_told() -> None:
    points = [Point(0, 0, 1.2, 0.2, 0.2), Point(2, 20, 1.0, 0.0, 0.0)]
    assert "constant" not in frontier_table(Frontier(points, {}, 0.0, False, None, 30))
    told = frontier_table(Frontier(points, {}, 0.0, False, None, 30, constant=1.01))
    assert "best constant answer's, 1.0100" in told

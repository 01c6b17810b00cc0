"""What the check of the hypergradients measures, and what it says of it."""

import math

import pytest

from bilevel.hypergradient import CheckResult
from experiments import check_hypergradient
from experiments.check_hypergradient import Measurement, table, verdict
from problems import AutoLoRA, BiDoRA


def result(name, error, seconds=1.0, exact_norm=1.0, norm=1.0, cosine=0.9):
    nothing = exact_norm == 0
    return CheckResult(
        name=name,
        cosine=math.nan if nothing or norm == 0 else cosine,
        relative_error=math.nan if nothing else 2 * error,
        total_cosine=cosine,
        total_error=error,
        norm=norm,
        exact_norm=exact_norm,
        direct_norm=1.0,
        exact_direct_cosine=math.nan if nothing else 0.1,
        seconds=seconds,
    )


FOUND = Measurement(
    [
        result("finite_difference", 5.0, 0.2),
        result("unrolled", 0.0, 0.3),
        result("sama", 0.01, 0.1),
        result("none", 0.02, 0.0, norm=0.0),
        result("finite_difference", 0.01, 0.2),
        result("unrolled", 0.0, 0.3),
        result("sama", 0.02, 0.1),
        result("none", 0.2, 0.0, norm=0.0),
    ],
    asked="finite_difference",
)


def test_what_may_be_trusted_is_right_on_every_batch_and_told_with_its_cost():
    said = verdict(FOUND)
    trusted, own = said.split("; the run's own, ")
    assert "sama (error 0.02, 0.100 s), unrolled (error 0, 0.300 s)" in trusted
    assert "finite_difference" not in trusted
    assert "none" not in trusted
    assert own.startswith("finite_difference, is not among them (error 5")


def test_a_reference_of_0_is_a_sentence():
    zeros = [result("unrolled", 0.0, exact_norm=0.0, norm=0.0) for _ in range(2)]
    said = verdict(Measurement(zeros, asked="unrolled"))
    assert "0 on all 2 batches" in said
    assert "trusted" not in said
    assert "nan" not in said + table(Measurement(zeros))
    half = Measurement([*zeros[:1], result("unrolled", 0.0)], asked="unrolled")
    assert "0 on 1 of the 2 batches" in verdict(half)
    assert "nan" not in table(half)


def test_a_value_that_is_no_number_is_not_trusted():
    bad = Measurement([result("neumann", math.nan), result("unrolled", 0.0)])
    assert "neumann" not in verdict(bad)


def test_bidoras_reference_is_not_called_exact():
    found = Measurement(FOUND.results, asked="unrolled", inexact=BiDoRA.inexact)
    assert not AutoLoRA.inexact
    said = verdict(found)
    assert "none is exact here" in said
    assert "norm" in said
    assert "to be trusted" not in said
    assert "exact" not in table(found)
    assert "exact" in table(FOUND)


def test_a_short_stage_is_measured_inside_its_schedule(quick, capsys):
    """4 global steps, and 40 asked for: the learning rate has not ended."""
    words = [*quick, "task.max_train=64", "train.epochs=1"]
    check_hypergradient.main([*words, "steps=40", "batches=1"])
    shown = capsys.readouterr().out
    assert "note: steps=40" in shown
    assert "measured after 2" in shown
    assert "nan" not in shown
    assert "unrolled, is among them" in shown
    with pytest.raises(SystemExit):
        check_hypergradient.main([*words, "batches=4"])
    assert "batches=4" in capsys.readouterr().err


LATE = ["method=salora_bilevel", "method.start=0.5", "method.end=0.9", "steps=1"]


@pytest.mark.parametrize("words", [["method=salora"], LATE], ids=lambda words: words[0])
def test_where_no_hypergradient_is_taken_there_is_none_to_check(words, quick, capsys):
    """Never on one level, and on two not before the gates' window."""
    with pytest.raises(SystemExit):
        check_hypergradient.main([*quick, "task.max_train=64", "batches=1", *words])
    said = capsys.readouterr().err
    assert "no upper level differentiates" in said
    assert "finite_difference" not in said

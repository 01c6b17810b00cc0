"""The progress bar of a cut: there from the first call on, on terminals only."""

import sys

import pytest

from bilevel.cutting.counted import Counted, counted


def test_the_bar_is_for_terminals(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with counted(lambda: 3, "frontier", 9) as function:
        assert [function() for _ in range(4)] == [3, 3, 3, 3]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with counted(lambda: 3, "frontier", 9) as function:
        assert capsys.readouterr().err == ""  # not before the first call
        function()
    assert "frontier" in capsys.readouterr().err


def test_a_criterion_moves_a_bar_by_the_batches_that_it_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with counted(lambda: None, "criterion activation", unit="batch") as passed:
        batches = Counted(["a", "b", "c"], passed)
        assert [*list(batches), batches[1]] == ["a", "b", "c", "b"]
        assert len(batches) == 3
    assert "criterion activation: 4batch" in capsys.readouterr().err

"""The benchmark of a step's cost: what it times, and what its table says."""

from pathlib import Path

import pytest

from benchmarks import common, step_cost
from tests.benchmarks.small import small_model, started, table

PAGE = Path(__file__).parent.parent.parent / "docs" / "hypergradients.md"


def test_the_table_has_the_estimators_that_are_asked_for_in_lora_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(common, "base_model", small_model)
    seconds = {"LoRA fp32": 2.0, "LoRA, eager fp32": 1.0, "none fp32": 3.0, "sama fp32": 8.0}
    names = {}

    def candidates(*args: object, **options: object) -> dict[str, object]:
        steps = real(*args, **options)
        names.update({step: name for name, step in steps.items()})
        return steps

    def timed(step: object, device: str, clock: str) -> float:
        assert (device, clock) == ("cpu", "cpu")
        return seconds.get(names[step], 4.0)

    real = step_cost.candidates
    monkeypatch.setattr(step_cost, "candidates", candidates)
    monkeypatch.setattr(step_cost, "timed", timed)
    words = ["--rounds", "3", "--clock", "cpu", "--precision", "fp32", "--only", "none,sama"]
    out = started("step_cost", [*words, "--batch", "2", "--length", "4"], monkeypatch, capsys)
    assert "batch 2, length 4, 3 rounds" in out
    assert table(out) == [
        ["step", "precision", "ms", "LoRA steps", "stock Betty's time"],
        ["LoRA", "fp32", "2000", "1.00", "0.50"],
        ["LoRA, eager", "fp32", "1000", "0.50", "0.25"],
        ["none", "fp32", "3000", "1.50", "0.75"],
        ["sama", "fp32", "8000", "4.00", "2.00"],
        ["stock Betty darts", "fp32", "4000", "2.00", "1.00"],
    ]


def test_the_page_has_a_row_for_each_estimator() -> None:
    rows = {row[0].replace("**", "") for row in table(PAGE.read_text(encoding="utf-8"))}
    assert set(step_cost.ESTIMATORS) <= rows

"""The benchmark of SaLoRA's window: it times the phases that it says."""

import pytest

from benchmarks import salora_window
from tests.benchmarks.small import small_model, started, table


def test_the_table_has_lora_and_each_phase(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(salora_window, "base_model", small_model)
    monkeypatch.setattr(salora_window, "timed", lambda step, device, clock: 0.002)
    words = ["--rounds", "2", "--clock", "cpu", "--precision", "fp32"]
    head, *rows = table(started("salora_window", words, monkeypatch, capsys))
    assert head == ["step", "precision", "ms", "LoRA steps", "lowest, highest quarter"]
    phases = ["SaLoRA, before", "SaLoRA, inside", "SaLoRA, after", "SaLoRA, before, beta = 0"]
    assert [row[0] for row in rows] == ["LoRA", *phases]
    assert {tuple(row[1:]) for row in rows} == {("fp32", "2", "1.000", "1.000, 1.000")}


@pytest.mark.parametrize("phase", ["before", "inside", "after"])
def test_the_gates_learn_inside_alone(phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(salora_window, "base_model", small_model)
    engine = salora_window.inside(phase, "fp32", "cpu")
    gates = engine.problems[0].gate_window.gates
    before = gates.logits.detach().clone()
    engine.train_step()
    assert bool((gates.logits != before).any()) == (phase == "inside")

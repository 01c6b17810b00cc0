"""The table of learned or drawn settings that a run prints."""

from problems.learned_settings.table import table
from problems.lora_settings.record import ModuleSettings


def test_a_row_a_module_and_what_is_one_for_all_below() -> None:
    found = table(ModuleSettings(decay={"a": 0.5, "bb": 2.0}, scale={"a": 3.0}, temperature=0.25))
    rows = [line.split() for line in found.splitlines()]
    assert rows == [
        ["module", "decay", "scale"],
        ["a", "0.5", "3"],
        ["bb", "2", "-"],
        ["temperature", "0.25"],
    ]


def test_usual_settings_are_said_to_be_so() -> None:
    assert "usual settings" in table(ModuleSettings())

"""Configurations of before: read as they would be written today."""

from bilevel.settings import defaults
from experiments.config.renamed import completed, up_to_date
from problems import AutoLoRA


def test_a_class_that_has_moved_and_an_option_that_is_gone():
    moved = up_to_date({"_target_": "problems.salora_bilevel.SaLoRABilevel", "rank": 2})
    assert moved == {"_target_": "problems.salora.SaLoRABilevel", "rank": 2}
    gone = up_to_date({"_target_": "bilevel.hypergradient.ConjugateGradient", "alpha": 1.0})
    assert "alpha" not in gone


def test_options_that_are_newer_have_their_defaults():
    target = f"{AutoLoRA.__module__}.AutoLoRA"
    old = {"method": {"_target_": target, "upper": {"lr": 0.5}}, "train": {"epochs": 2}}
    new = completed(old)
    expected = defaults(AutoLoRA)
    expected["upper"]["lr"] = 0.5
    assert new["method"] == {"_target_": target, **expected}
    assert (new["train"]["epochs"], new["train"]["batch_size"]) == (2, 16)


def test_what_is_no_class_of_settings_is_left_alone():
    for target in ("os.system", "nowhere.Thing", "nowhere.__class__", "builtins.dict", ""):
        config = {"task": {"_target_": target, "command": "true"}}
        assert completed(config) == config

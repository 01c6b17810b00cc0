"""Launchers and sweepers of packages that may not be there."""

from importlib import resources

import pytest

from experiments.config.composition import compose_config
from experiments.run import main
from experiments.sweeping import plugins


@pytest.mark.parametrize("word", plugins.PLUGINS)
@pytest.mark.parametrize("sweep", [[], ["-m"]])
def test_a_missing_package_is_named(
    word: str, sweep: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plugins, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        main([*sweep, word, "method=lora"])
    told = capsys.readouterr().err
    plugin = plugins.PLUGINS[word]
    assert plugin.package.replace("_", "-") in told
    assert f"bilevel-finetuning[{plugin.extra}]" in told
    assert told.count("\n") == 1


def test_settings_are_merged_for_those_that_have_some() -> None:
    files = {
        f"hydra/{part}={file.name.removesuffix('.yaml')}"
        for part in ("launcher", "sweeper")
        for file in resources.files("conf").joinpath("hydra", f"for_{part}").iterdir()
    }
    assert files == set(plugins.WITH_SETTINGS)
    words = plugins.with_settings(["method=lora", "hydra/launcher=ray", "hydra/sweeper=optuna"])
    assert words[3:] == ["+hydra/for_launcher=ray", "+hydra/for_sweeper=optuna"]


@pytest.mark.parametrize("word", plugins.WITH_SETTINGS)
def test_settings_have_options_of_the_plugin(word: str) -> None:
    pytest.importorskip(f"hydra_plugins.{plugins.PLUGINS[word].package}")
    settings = plugins.WITH_SETTINGS[word].partition("=")[0].partition("for_")[2]
    config = compose_config([word, plugins.WITH_SETTINGS[word]])
    assert "_target_" in config.hydra[settings]

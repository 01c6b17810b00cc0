"""Which folders a user's own classes are taken from, and files there that are no options."""

from pathlib import Path

import pytest

from bilevel.errors import UserError
from experiments.config.composition import compose_config
from experiments.config.instantiate import user_modules
from experiments.config.plan import Plan


def with_code(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "mine_alone.py").write_text("raise SystemExit('this was run')")
    return folder


def test_code_beside_the_users_own_configuration_is_taken(tmp_path: Path) -> None:
    assert user_modules([with_code(tmp_path / "own")]) == ["mine_alone"]


def test_a_run_s_folder_gives_settings_and_no_code(tmp_path: Path) -> None:
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    assert user_modules([with_code(tmp_path / "run" / "learned_settings")]) == []


@pytest.mark.parametrize("group", ["method", "task", "model", "hypergradient"])
def test_an_option_that_is_a_list_is_told(tmp_path: Path, group: str) -> None:
    (tmp_path / group).mkdir()
    (tmp_path / group / "mine.yaml").write_text("- 1\n", encoding="utf-8")
    with pytest.raises(UserError, match=f"configuration of {group} names no _target_"):
        Plan.of(compose_config([f"{group}=mine"], str(tmp_path)))

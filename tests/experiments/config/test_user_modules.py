"""Which folders a user's own classes are taken from."""

from pathlib import Path

from experiments.config.instantiate import user_modules


def with_code(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "mine_alone.py").write_text("raise SystemExit('this was run')")
    return folder


def test_code_beside_the_users_own_configuration_is_taken(tmp_path: Path) -> None:
    assert user_modules([with_code(tmp_path / "own")]) == ["mine_alone"]


def test_a_run_s_folder_gives_settings_and_no_code(tmp_path: Path) -> None:
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    assert user_modules([with_code(tmp_path / "run" / "learned_settings")]) == []

"""What --help says: first what people use, then every option of a group from its class."""

import json
import sys
from pathlib import Path

import pytest

import experiments
from experiments.run import main

METHOD = '''
from dataclasses import dataclass
from typing import ClassVar

from bilevel.settings import Count
from problems import LoRA


@dataclass(frozen=True)
class Mine(LoRA):
    """LoRA with one more option."""

    name: ClassVar[str] = "mine"
    {field}
'''
FIELD = '''patience: Count = 7
    """Steps that it waits."""
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a method of one's own, whose class has a field more than LoRA."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine_method", raising=False)
    (tmp_path / "method").mkdir()
    (tmp_path / "mine_method.py").write_text(METHOD.format(field=FIELD))
    (tmp_path / "method" / "mine.yaml").write_text("_target_: mine_method.Mine\n")
    monkeypatch.chdir(tmp_path)
    return ["--config-dir", str(tmp_path), "method=mine"]


def said(words, capsys):
    main(words)
    return capsys.readouterr().out


def test_the_front_page_has_what_people_use_and_names_every_program(capsys):
    text = said(["--help"], capsys)
    top = "\n".join(text.splitlines()[:20])
    for option in ("method=", "task=", "model=", "task.data_dir", "task.text_columns", "seed"):
        assert option in top
    for path in Path(experiments.__file__).parent.glob("*.py"):
        if '__name__ == "__main__"' in path.read_text():
            assert f"python -m experiments.{path.stem}" in text


def test_a_group_s_page(capsys):
    text = said(["--help", "method=autolora"], capsys)
    assert "method.rank=8" in text
    assert "an integer, 1 or more" in text
    assert "method.upper.betas=[0.5, 0.999]" in text
    assert "threshold" in text
    assert "autolora" in said(["--help", "method"], capsys)
    assert "train.epochs=5.0" in said(["--help", "train"], capsys)


@pytest.mark.parametrize("word", ["metod", "metod=lora"])
def test_an_unknown_group(word, capsys):
    with pytest.raises(SystemExit):
        main(["--help", word])
    assert "'method'" in capsys.readouterr().err


def test_an_empty_word_is_told_as_one(capsys):
    """As of a variable of the shell that is not set."""
    with pytest.raises(SystemExit):
        main(["--help", ""])
    assert capsys.readouterr().err.startswith("error: ")


def test_other_options_stand_beside_a_group(capsys):
    beside = ["seed=1", "train.lr=1", "hydra/launcher=joblib"]
    assert said(["--help", "method=lora", *beside], capsys)


def test_a_field_is_the_only_place_of_an_option(own, quick, capsys, tmp_path):
    text = said(["--help", *own], capsys)
    assert "method.patience=7" in text
    assert "Steps that it waits." in text
    with pytest.raises(SystemExit):
        main([*own, "method.patience=0"])
    error = capsys.readouterr().err
    assert "method.patience=0" in error
    assert "1 or more" in error
    short = ["train.max_steps=1", "run.figures=false", f"hydra.run.dir={tmp_path / 'run'}"]
    main([*own, *quick, *short, "method.patience=9"])
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["configuration"]["method"]["patience"] == 9
    assert "patience: 9" in (tmp_path / "run" / ".hydra" / "config.yaml").read_text()

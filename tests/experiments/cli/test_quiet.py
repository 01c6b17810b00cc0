"""What the programs print is their own: no bars and no known warnings of the libraries."""

import warnings
from pathlib import Path

import pytest
import transformers

from experiments import evaluate, export
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.training.job import execute


@pytest.fixture(autouse=True)
def loud() -> None:
    """As in a fresh process, whatever ran before."""
    transformers.utils.logging.enable_progress_bar()


def run(folder: Path, quick: list[str], method: str) -> Path:
    words = [word for word in quick if not word.startswith("method.")]
    words += [f"method={method}", "train.max_steps=1", "run.figures=false"]
    execute(Plan.of(compose_config(words)), folder)
    transformers.utils.logging.enable_progress_bar()
    return folder


@pytest.mark.parametrize(
    ("program", "method", "words"),
    [(evaluate.main, "bitfit", []), (export.main, "lora", ["merge=true"])],
)
def test_evaluate_and_export_show_no_bars(
    program, method, words, tmp_path: Path, quick: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(tmp_path / "run", quick, method)
    capsys.readouterr()
    program([f"run={folder}", *words])
    found = capsys.readouterr()
    assert found.err == ""
    assert found.out


def test_a_run_shows_no_warning_that_nobody_can_act_on(tmp_path: Path, quick: list[str]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(tmp_path / "run", quick, "lora")
    texts = [str(one.message) for one in caught]
    assert not [text for text in texts if "gradient_checkpointing" in text]

"""resume=True knows its own run by all that decides it, however it is said."""

from pathlib import Path
from typing import Any

import pytest

from bilevel.errors import UserError
from bilevel.hypergradient import FiniteDifference, Unrolled
from experiments.answers import Decoding
from experiments.api import finetune
from problems import LoRA
from tests.experiments import writers
from tests.experiments.test_api_rows import classifier, labelled

SETTINGS: dict[str, Any] = {"max_steps": 2, "epochs": 3, "batch_size": 4, "lr": 1e-2}
ENGINE = {"precision": "fp32"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resumed") / "run"


@pytest.fixture(scope="module")
def begun(tiny: Path, folder: Path) -> dict[str, Any]:
    """The result of a finished run."""
    return call(tiny, folder, resume=False, engine=ENGINE, **SETTINGS)


def call(tiny: Path, folder: Path, **arguments: Any) -> dict[str, Any]:
    given = classifier(tiny), writers.tokenizer(), {"train": labelled(), "test": labelled(6)}
    return finetune(*given, LoRA(rank=2), folder=folder, **arguments).result


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"seed": 7}, r"seed \(0 there, 7 here\)"),
        ({"hypergradient": FiniteDifference()}, r"hypergradient \(Unrolled.* there, FiniteDiff"),
        ({"target_modules": "all"}, r"target_modules \(qv there, all here\)"),
        ({"head": ["classifier"]}, r"head \(null there, \[classifier\] here\)"),
        ({"metrics": ["accuracy"]}, r"metrics \(null there, \[accuracy\] here\)"),
        ({"lr": 1e-3}, r"train\.lr \(0\.01 there, 0\.001 here\)"),
        ({"engine": {"precision": "bf16"}}, r"engine\.precision \(fp32 there, bf16 here\)"),
    ],
)
def test_another_run_is_refused(
    other: dict[str, Any], words: str, tiny: Path, folder: Path, begun: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=f"holds another run, different in {words}"):
        call(tiny, folder, resume=True, **{**SETTINGS, "engine": ENGINE, **other})


@pytest.mark.parametrize(
    "same",
    [
        {"engine": {"keep_checkpoints": 5, "checkpoint_every": 7, **ENGINE}},
        {"epochs": 3.0},
        {"hypergradient": Unrolled(), "target_modules": "qv"},
    ],
)
def test_the_same_run_in_other_words(
    same: dict[str, Any], tiny: Path, folder: Path, begun: dict[str, Any]
) -> None:
    turned = dict(reversed(SETTINGS.items()))
    assert call(tiny, folder, resume=True, **{**turned, "engine": ENGINE, **same}) == begun


def test_the_way_of_writing_is_told(tmp_path: Path) -> None:
    rows = [{"input_ids": [1, 5, 6, 2], "labels": [-100, -100, 6, 2]} for _ in range(4)]

    def written(beams: int, resume: bool) -> None:
        given = writers.model("gpt2"), writers.tokenizer(), {"train": rows, "test": rows[:1]}
        decoding = Decoding(beams=beams, max_new_tokens=2)
        options = {**SETTINGS, "engine": ENGINE, "decoding": decoding, "resume": resume}
        finetune(*given, LoRA(rank=2), folder=tmp_path / "run", **options)

    written(1, resume=False)
    with pytest.raises(UserError, match=r"decoding\.beams \(1 there, 2 here\)"):
        written(2, resume=True)

"""Training and scoring on a device without float64 (Apple's) make no such tensor there."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bilevel import BilevelEngine, distributed
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.tasks.kinds.choices import ChoiceData
from experiments.tasks.kinds.label_sets import LabelSetData
from experiments.tasks.kinds.labelled import LabelledData
from experiments.tasks.kinds.spans import SpanData
from experiments.tasks.kinds.tags import TaggedData
from experiments.tasks.kinds.text import TextData
from experiments.training.job import execute
from tests.bilevel import no_float64
from tests.experiments.asked import questions, written

DRAWN = torch.Generator().manual_seed(0)
SHARED: dict[str, Any] = {
    "name": "x",
    "train": [],
    "tests": {},
    "test_source": "test",
    "metrics": ("f1",),
    "max_length": 8,
}
WHOLE = torch.tensor([[1, -100, 0], [2, 1, -100]])
WINDOWS = {
    "labels": torch.tensor([[1, 2], [0, 0], [-100, -100]]),
    "attention_mask": torch.ones(3, 4, dtype=torch.long),
    "first": torch.tensor([0, 2]),
}
KINDS: dict[str, tuple[Any, tuple[int, ...], dict[str, torch.Tensor]]] = {
    "classes": (LabelledData(**SHARED, label_names=["a"]), (2, 3), {"labels": torch.arange(2)}),
    "number": (LabelledData(**SHARED), (3, 1), {"labels": torch.tensor([0.5, 1.0, 2.0])}),
    "labels": (LabelSetData(**SHARED, label_names=["a", "b"]), (2, 2), {"labels": torch.eye(2)}),
    "choices": (ChoiceData(**SHARED, label_names=["A", "B"]), (2, 2), {"labels": torch.arange(2)}),
    "tags": (TaggedData(**SHARED, tag_names=("O", "B-A", "I-A")), (2, 3, 3), {"labels": WHOLE}),
    "text": (TextData(**SHARED), (2, 3, 5), {"labels": WHOLE}),
    "spans": (SpanData(**SHARED), (3, 4, 2), WINDOWS),
}  # fmt: skip


class Outputs(SimpleNamespace):
    """Of a model: ``logits`` and ``loss``; nothing is in it by another name."""

    def __contains__(self, name: str) -> bool:
        return name in vars(self)


@pytest.mark.parametrize("kind", KINDS)
def test_losses(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task, shape, batch = KINDS[kind]
    outputs = Outputs(logits=torch.randn(shape, generator=DRAWN), loss=torch.tensor(0.5))
    expected = task.losses(outputs, batch), *task.example_losses(outputs, batch)
    with no_float64.told(monkeypatch) as made:
        found = task.losses(outputs, batch), *task.example_losses(outputs, batch)
    assert made == []
    assert found[0] == expected[0]
    assert found[1].dtype == torch.float64
    for one, other in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    with no_float64.told(monkeypatch, without=False) as made:
        task.example_losses(outputs, batch)
    assert made  # what has float64 sums in it, on the device


def trained(folder: Path, words: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What made float64 on the device while the engine ran: steps, and scores on the way."""
    seen: list[str] = []
    plain: Callable[..., Any] = BilevelEngine.run

    def run(engine: BilevelEngine, *args: Any, **options: Any) -> Any:
        with no_float64.told(monkeypatch) as made:
            found = plain(engine, *args, **options)
        seen.extend(made)
        return found

    monkeypatch.setattr(BilevelEngine, "run", run)
    world = distributed.World(device=no_float64.DEVICE)
    monkeypatch.setattr(distributed, "setup", lambda *args, **options: world)
    execute(Plan.of(compose_config(words)), folder)
    return seen


WORDS = ["run.figures=false", "engine.evaluate_every=4", "train.max_steps=12"]


def test_a_run_of_two_levels(
    quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*quick, *WORDS, "method=autolora", "method.search_epochs=1", "engine.metrics_every=2"]
    words = [word for word in words if word != "method.rank=4"]
    assert trained(tmp_path / "run", words, monkeypatch) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["method=salora"],
        ["method=salora_bilevel"],
        ["method=bilora"],
        ["method=learned_settings"],
        # without a second derivative, in which autograd casts what the stand-in cannot follow
        ["method=example_weights", "hypergradient=finite_difference"],
        [
            *("method=example_weights", "hypergradient=finite_difference"),
            "train.gradient_accumulation=2",
        ],
        ["method=lora_cut"],
        ["method=adalora"],
        ["method=lora", "train.class_weights=balanced"],
    ],
)
def test_other_methods(
    words: list[str], quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [word for word in quick if word != "method.rank=4"]
    if words[0] == "method=example_weights":
        given = ["task=demo_noisy" if word == "task=demo" else word for word in given]
    assert trained(tmp_path / "run", [*given, *WORDS, *words], monkeypatch) == []


@pytest.mark.slow
def test_answers_in_a_text(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = written(
        tmp_path / "data", train=questions(24), validation=questions(8), test=questions(8)
    )
    words = ["task=question_answering", f"task.data_dir={data}", "model=hub", "method=lora"]
    words += [f"model.pretrained={tiny}", "train.batch_size=4", "engine.precision=fp32", *WORDS]
    assert trained(tmp_path / "run", words, monkeypatch) == []

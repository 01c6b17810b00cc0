"""Whole runs on questions: scored, asked again, exported, carded, compared, shown; every method."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoTokenizer,
)

from bilevel.errors import UserError
from experiments import evaluate, export, predict
from experiments.comparing import predictions
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.metrics import spans
from experiments.pages import answers as pages
from experiments.pages import predictions as shown
from experiments.predicting.fine_tuned import load
from experiments.predicting.saved import Asking
from experiments.training.job import execute
from tests.experiments import writers
from tests.experiments.artefacts import cards
from tests.experiments.asked import choices, questions, written

METHODS = ["autolora", "adalora", "salora", "bilora", "dora", "bitfit", "ia3", "houlsby", "full"]
METHODS += ["delta_lora", "dylora", "bidora", "salora_bilevel", "pfeiffer", "autolora_singular"]
METHODS += ["lora_cut", "learned_settings", "example_weights", "pretrained", "lora_grid"]
METHODS += ["autolora_hard_concrete"]
QUICK = [
    *("model=hub", "train.batch_size=8", "train.lr=1e-2", "train.target_modules=all"),
    *("engine.precision=fp32", "engine.checkpoint_every=0", "run.figures=false", "method.rank=2"),
]
KINDS = ("spans", "choices")
HEADS = {"spans": AutoModelForQuestionAnswering, "choices": AutoModelForMultipleChoice}


class Asked(NamedTuple):
    """Data, words that begin a run on them, a run, and its result."""

    data: str
    words: list[str]
    run: Path
    result: dict[str, Any]
    rows: list[dict[str, Any]]


def run(folder: Path, words: list[str]) -> dict[str, Any]:
    return execute(Plan.of(compose_config(words)), folder)


@pytest.fixture(scope="module")
def asked(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Asked]:
    made: dict[str, Asked] = {}

    def of(kind: str) -> Asked:
        if kind in made:
            return made[kind]
        folder = tmp_path_factory.mktemp(kind)
        if kind == "spans":  # long texts too, in windows
            train, tested = questions(48), [*questions(14, 2), *questions(6, 3, pairs=11)]
            words = ["task=question_answering", "task.max_length=16", "task.stride=4"]
        else:
            train, tested, words = choices(48), choices(20, 2), ["task=multiple_choice"]
        data = written(folder / "data", train=train, validation=train[:8], test=tested)
        words = [*words, f"task.data_dir={data}", f"model.pretrained={tiny}", *QUICK]
        result = run(folder / "run", [*words, "method=lora", "train.epochs=2"])
        made[kind] = Asked(data, words, folder / "run", result, tested)
        return made[kind]

    return of


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_in_a_text_are_scored_and_written(asked: Callable[[str], Asked]) -> None:
    a = asked("spans")
    told = lines(a.run / "predictions.jsonl")
    assert (a.result["kind"], a.result["labels"], len(told)) == ("spans", None, 20)
    for row, given in zip(told, a.rows, strict=True):
        end = row["start"] + len(row["prediction"])
        assert given["context"][row["start"] : end] == row["prediction"] != ""
        assert (row["id"], row["answers"]) == (given["id"], given["answers"]["text"])
    by_hand = [spans.f1(row["prediction"], row["answers"]) for row in told]
    assert a.result["metrics"]["f1"] == pytest.approx(sum(by_hand) / 20, abs=1e-12)
    terms = [row["loss"] * row["terms"] for row in told]
    assert max(row["terms"] for row in told) > 2  # of several windows
    total = sum(terms) / sum(row["terms"] for row in told)
    assert a.result["test_loss"] == pytest.approx(total, abs=1e-5)
    worst = lines(a.run / "wrongest.jsonl")
    assert worst[0]["texts"][0] == worst[0]["question"]
    assert "exact_match" in a.result["metric_settings"]


def test_choices_are_scored_and_written(asked: Callable[[str], Asked]) -> None:
    a = asked("choices")
    told = lines(a.run / "predictions.jsonl")
    assert (a.result["kind"], a.result["labels"]) == ("choices", ["A", "B", "C", "D"])
    right = [row["prediction"] == given["label"] for row, given in zip(told, a.rows, strict=True)]
    assert a.result["metrics"] == {"accuracy": sum(right) / 20}
    worst = lines(a.run / "wrongest.jsonl")[0]
    assert worst["texts"][1:] == [
        f"{n}: {c}" for n, c in zip("ABCD", a.rows[worst["index"]]["choices"], strict=True)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_compared_and_shown(kind: str, asked: Callable[[str], Asked]) -> None:
    a = asked(kind)
    read = predictions.read(a.run, a.result)
    name = a.result["primary_metric"]
    assert read.scores[name].value == pytest.approx(a.result["metrics"][name], abs=1e-9)
    assert read.loss is not None
    assert read.loss.value == pytest.approx(a.result["test_loss"], abs=1e-5)
    page = pages.shown(shown.read(a.run, a.result), a.result)
    assert page["worst"]
    assert all(card["texts"] for card in page["worst"])
    names = [fact for fact, _ in page["worst"][0]["facts"]]
    assert names[:3] == ["right", "said", "F1" if kind == "spans" else names[2]]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_again_from_python_a_file_and_evaluate(
    kind: str, asked: Callable[[str], Asked], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = asked(kind)
    told = lines(a.run / "predictions.jsonl")
    rows = [{k: v for k, v in row.items() if k not in ("answers", "label")} for row in a.rows]
    found = load(a.run).predict(rows)
    assert [row["prediction"] for row in found] == [row["prediction"] for row in told]
    file = written(tmp_path, new=rows)
    for suffix in ("jsonl", "csv", "parquet"):
        out = tmp_path / f"out.{suffix}"
        predict.main([f"run={a.run}", f"data={file}/new.jsonl", f"out={out}"])
        assert out.is_file()
    for said, row, asked_row in zip(lines(tmp_path / "out.jsonl"), told, rows, strict=True):
        assert said["prediction"] == row["prediction"]
        assert {k: said[k] for k in asked_row} == asked_row
        if kind == "spans":
            assert said["start"] == row["start"]
            assert said["probability"] == pytest.approx(row["probability"], abs=1e-5)
        else:
            assert said["probability_B"] == pytest.approx(row["probabilities"][1], abs=1e-5)


def test_too_few_choices_are_told_before_a_model_loads(
    asked: Callable[[str], Asked],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    a = asked("choices")
    rows = [*a.rows[:1], {**a.rows[1], "choices": a.rows[1]["choices"][:3]}]
    file = written(tmp_path, new=rows)
    monkeypatch.setattr(Asking, "load", lambda self: pytest.fail("a model is loaded"))
    with pytest.raises(SystemExit):
        predict.main([f"run={a.run}", f"data={file}/new.jsonl", f"out={tmp_path}/o.csv"])
    said = capsys.readouterr().err
    assert "line 2 of" in said
    assert "has 3 choices, and this run's data have 4" in said
    evaluate.main([f"run={a.run}"])
    assert f"{a.result['metrics'][a.result['primary_metric']]:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize("kind", KINDS)
def test_the_card_and_the_merged_model_answer_alike(
    kind: str, tiny: Path, asked: Callable[[str], Asked], tmp_path: Path
) -> None:
    a = asked(kind)
    export.main([f"run={a.run}", f"out={tmp_path}", "merge=true"])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    row = a.rows[0]
    if kind == "spans":
        batch = tokenizer(row["question"], row["context"], return_tensors="pt")
        options = {"num_labels": 2}
    else:
        encoded = tokenizer([row["question"]] * 4, row["choices"], return_tensors="pt")
        batch, options = {k: v[None] for k, v in encoded.items()}, {}
    base = HEADS[kind].from_pretrained(tiny, **options)
    adapted = PeftModel.from_pretrained(base, str(a.run / "adapter_compact")).eval()
    merged = HEADS[kind].from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        first, second = (model(**batch)[0] for model in (adapted, merged))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)
    for folder in (a.run / "adapter", tmp_path / "merged"):
        (code,) = cards.blocks(folder)
        if kind == "spans":
            code = code.replace('"A text that says what it is."', repr(row["context"]))
            code = code.replace('"What is it?"', repr(row["question"]))
        else:
            code = code.replace('"A question?"', repr(row["question"]))
            code = code.replace('["One answer.", "Another one."]', repr(row["choices"]))
        code = code.replace(f'"./{tiny.name}"', repr(str(tiny)))  # where its reader has it
        _, printed = cards.run(code, folder.parent)
        said = lines(a.run / "predictions.jsonl")[0]["prediction"]
        if kind == "choices":
            said = row["choices"]["ABCD".index(said)]
        assert printed.startswith(said)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["method=prompt"], "virtual tokens"),
        (["method=prefix"], "virtual tokens"),
        (["method=linear_probe"], "linear_probe"),
        (["method=lora", "run.probe=true"], "run.probe"),
        (["method=lora", "train.class_weights=balanced"], "class_weights"),
        (["method=lora", "model.pretrained=gpt"], "has no head"),
    ],
)
def test_what_does_not_go_is_said_in_a_sentence(
    kind: str, words: list[str], said: str, asked: Callable[[str], Asked], tmp_path: Path
) -> None:
    rank = "method.rank=2"
    given = [word for word in asked(kind).words if word != rank]
    if "model.pretrained=gpt" in words:
        if kind == "spans":
            words = ["method=lora", f"model.pretrained={writers.folder(tmp_path / 'm', 'bart')}"]
        else:
            words = ["method=lora", f"model.pretrained={writers.folder(tmp_path / 'm', 'gpt2')}"]
    with pytest.raises(UserError, match=said):
        run(tmp_path / "run", [*given, *words])


def test_smoothing_is_for_choices(asked: Callable[[str], Asked], tmp_path: Path) -> None:
    words = ["method=lora", "train.label_smoothing=0.1", "train.max_steps=1"]
    with pytest.raises(UserError, match="label_smoothing"):
        run(tmp_path / "a", [*asked("spans").words, *words])
    assert run(tmp_path / "b", [*asked("choices").words, *words])["kind"] == "choices"


def test_large_data_stay_in_memory(asked: Callable[[str], Asked], tmp_path: Path) -> None:
    words = ["method=lora", "train.max_steps=1", "engine.cache_from=4"]
    assert run(tmp_path / "run", [*asked("spans").words, *words])["kind"] == "spans"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_is_scored(
    method: str, kind: str, asked: Callable[[str], Asked], tmp_path: Path
) -> None:
    given = [word for word in asked(kind).words if not word.startswith("method.")]
    values = run(tmp_path / "run", [*given, f"method={method}", "train.max_steps=12"])
    assert 0 <= values["metrics"][values["primary_metric"]] <= 1
    again = load(tmp_path / "run").predict(
        [
            {k: v for k, v in row.items() if k not in ("answers", "label")}
            for row in asked(kind).rows
        ]
    )
    told = lines(tmp_path / "run" / "predictions.jsonl")
    assert [row["prediction"] for row in again] == [row["prediction"] for row in told]

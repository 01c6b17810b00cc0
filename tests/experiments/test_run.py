"""Whole runs of a tiny model: files, contents, and what stock PEFT makes of the adapter."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from experiments import check_hypergradient, evaluate, export
from experiments.comparing import predictions
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.run import main
from experiments.tasks.demo import Demo
from experiments.training.job import execute

KEYS = {
    *("schema_version", "method", "task", "model", "seed", "metrics", "primary_metric"),
    *("train_loss", "validation_loss", "test_loss", "ranks", "trainable_parameters"),
    *("adapter_parameters", "data", "hypergradient", "engine", "seconds", "peak_memory_mib"),
    *("adapter_dir", "versions"),
}


def run(folder: Path, overrides: list[str]) -> dict[str, Any]:
    return execute(Plan.of(compose_config(overrides)), folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, quick: list[str]) -> Path:
    """Folder of a finished AutoLoRA run, made through the command line."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    main([*quick, f"hydra.run.dir={folder}"])
    return folder


def result_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def test_the_folder_holds_what_it_should(finished: Path) -> None:
    files = {str(p.relative_to(finished)) for p in finished.rglob("*") if p.is_file()}
    for name in (
        *("result.json", "metrics.jsonl", "predictions.jsonl", "trained_on.txt"),
        *("run.log", ".hydra/config.yaml"),
        *("adapter/adapter_config.json", "adapter/adapter_model.safetensors"),
        *("adapter_compact/adapter_config.json", "adapter_compact/adapter_model.safetensors"),
        *("figures/losses.png", "figures/ranks.png", "figures/gates.png"),
    ):
        assert name in files
    assert any(name.startswith("checkpoints/01-retrain") for name in files)


def test_result(finished: Path) -> None:
    r = result_of(finished)
    assert r.keys() >= KEYS
    assert (r["method"], r["task"], r["seed"]) == ("autolora", "demo", 0)
    assert r["primary_metric"] == "accuracy"
    assert 0 <= r["metrics"]["accuracy"] <= 1
    assert len(r["ranks"]) == 4
    assert all(1 <= rank <= 4 for rank in r["ranks"].values())
    # hidden size 32: a component has a row of 32 and a column of 32
    assert r["adapter_parameters"] == 64 * sum(r["ranks"].values())
    # search: 4 modules of rank 4, their gates, and a head of 2 x 32 + 2
    assert r["trainable_parameters"] == 4 * 4 * 64 + 16 + r["head_parameters"]
    assert r["data"] == {"train": 48, "validation": 48, "test": 80}
    assert r["engine"] == {
        "T1": 1,
        "T2": 1,
        "steps": {"search": 12, "retrain": 24},
        "upper_steps": {"search": 12},
        "precision": "fp32",
        "processes": 1,
    }
    assert r["hypergradient"]["name"] == "unrolled"
    assert set(r["seconds"]) == {"search", "retrain"}
    assert r["validation_loss"] == r["validation"]["loss"]
    assert (r["validation"]["source"], r["validation"]["trained_on"]) == ("training", True)
    assert r["kept"]["search"] == {"weights": "last", "step": 12}
    assert any("takes only 12 steps" in words for words in r["warnings"])
    assert r["entities"] is None
    rows = [json.loads(line) for line in (finished / "predictions.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == list(range(80))
    right = sum(row["label"] == row["prediction"] for row in rows)
    assert right / 80 == pytest.approx(r["metrics"]["accuracy"])
    assert all(sum(row["probabilities"]) == pytest.approx(1, abs=1e-5) for row in rows)
    assert all(re.fullmatch("[0-9a-f]{16}", row["key"]) for row in rows)
    assert len({row["key"] for row in rows}) > 60  # texts, of which few are alike
    read = predictions.read(finished, r)
    assert read.keys is not None
    assert read.loss.value == pytest.approx(r["test_loss"], abs=1e-4)


def test_metrics_file(finished: Path) -> None:
    lines = [json.loads(x) for x in (finished / "metrics.jsonl").read_text().splitlines()]
    search = [x for x in lines if x["stage"] == "search"]
    ends = [x for x in search if x["kind"] == "validation"]
    assert [x["step"] for x in ends] == [6, 12]
    assert {"train_loss", "validation_loss", "validation_accuracy"} <= ends[-1].keys()
    assert not any(key.startswith("test_") for line in ends for key in line)
    gates = [x for x in search if x["kind"] == "gates"]
    assert [x["step"] for x in gates] == list(range(13))
    for values in gates[-1]["gates"].values():
        assert sum(values) == pytest.approx(1, abs=1e-5)
    assert ends[-1]["validation_loss"] == pytest.approx(result_of(finished)["validation_loss"])


@pytest.mark.parametrize("layout", ["adapter", "adapter_compact"])
def test_stock_peft_gives_the_reported_scores(finished: Path, tiny: Path, layout: str) -> None:
    # Nothing of ours from here on but the sentences themselves.
    base = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=2)
    model = PeftModel.from_pretrained(base, finished / layout).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    test = Demo(max_train=96, max_test=80).load().tests["test"]
    batch = tokenizer([e.texts[0] for e in test], padding=True, return_tensors="pt")
    labels = torch.tensor([e.label for e in test])
    with torch.no_grad():
        logits = model(**batch).logits
    r = result_of(finished)
    assert float((logits.argmax(-1) == labels).double().mean()) == r["metrics"]["accuracy"]
    loss = torch.nn.functional.cross_entropy(logits, labels)
    assert float(loss) == pytest.approx(r["test_loss"], abs=1e-5)


def test_evaluate_again(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate.main([f"run={finished}"])
    shown = capsys.readouterr().out
    accuracy = result_of(finished)["metrics"]["accuracy"]
    assert f"{accuracy:.6g}   (its result.json says {accuracy:.6g})" in shown


def test_evaluate_on_other_data(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text(
            "text,label\nthe film was great,positive\nit was bad,negative\n"
        )
    words = [f"run={finished}", "task=classification", f"task.data_dir={tmp_path}"]
    evaluate.main([*words, "task.text_columns=[text]"])
    assert "accuracy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("train", "words", "said"),
    [
        (None, [], "train"),
        ("text,label\na,pos,\n", [], "line 2 .*3 fields"),
        ("text;label\na;pos\n", [], "delimiter=semicolon"),
        ("text,label\na,pos\nb,neg\n", ["task.label_column=y"], "'text', 'label'"),
        ("text,label\na,pos\nb,neg\n", ["task.data_dir=/nowhere"], "/nowhere is no folder"),
        ("text,label\na,pos\nb,neg\n", ["task.holdout=0.5", "train.batch_size=4"], "batch"),
    ],
)
def test_wrong_data_leaves_no_folder_behind(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    train: str | None,
    words: list[str],
    said: str,
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    if train is not None:
        (data / "train.csv").write_text(train)
    monkeypatch.chdir(tmp_path)
    task = ["task=classification", "task.text_columns=[text]", "model=demo", "method=lora"]
    with pytest.raises(SystemExit) as stop:
        main([*task, f"task.data_dir={data}", *words])
    assert stop.value.code == 2
    assert re.search(said, capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_what_is_logged_before_there_is_a_folder_is_in_its_log(
    tmp_path: Path, quick: list[str]
) -> None:
    rows = "".join(f"a film {i},{'pos' if i % 2 else 'neg'}\n" for i in range(40))
    for name in ("train.csv", "dev.csv"):
        (tmp_path / name).write_text(f"text,label\n{rows}")
    task = ["task=classification", f"task.data_dir={tmp_path}", "task.text_columns=[text]"]
    words = [word for word in quick if not word.startswith("task")]
    main([*words, *task, "method=lora", "train.batch_size=8", f"hydra.run.dir={tmp_path}/run"])
    assert "dev.csv is taken as the split validation" in (tmp_path / "run/run.log").read_text()


def test_export_again_and_merge(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export.main([f"run={finished}", f"out={tmp_path}"])
    before = (finished / "adapter" / "adapter_config.json").read_text()
    assert json.loads(before) == json.loads(
        (tmp_path / "adapter" / "adapter_config.json").read_text()
    )
    export.main([f"run={finished}", f"out={tmp_path}", "merge=true"])
    difference = float(capsys.readouterr().out.rsplit(" ", 1)[1])
    assert 0 <= difference < 1e-5
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert not any("lora" in name for name, _ in merged.named_parameters())


@pytest.mark.parametrize("program", [evaluate.main, export.main])
def test_programs_say_what_is_missing(
    program: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, expected in (
        ([], "run=DIR"),
        ([f"run={tmp_path}"], "no finished run"),
    ):
        with pytest.raises(SystemExit) as stop:
            program(words)
        assert stop.value.code == 2
        assert expected in capsys.readouterr().err


def test_lora_has_one_level(tmp_path: Path, quick: list[str]) -> None:
    r = run(tmp_path / "run", [*quick, "method=lora"])
    assert r["validation_loss"] is None
    assert r["hypergradient"] is None
    assert (r["engine"]["T1"], r["engine"]["T2"]) == (None, None)
    assert set(r["ranks"].values()) == {4}
    assert r["adapter_parameters"] == 4 * 4 * 64
    assert r["data"] == {"train": 96, "test": 80}
    assert not (tmp_path / "run" / "figures" / "gates.png").exists()


@pytest.mark.parametrize(
    ("method", "modules"),
    [
        (["method.gate=sigmoid", "method.rank_rule=fixed"], 4),
        (["method.gate=real", "method.rank_rule=mean"], 4),
        (["hypergradient=none"], 4),
        (["hypergradient=unrolled", "method.unroll_steps=2"], 4),
        (["train.target_modules=all", "hypergradient=alignment"], 12),
        (["method.rank_rule=budget", "method.parameter_budget=512"], 4),
    ],
)
def test_variants(tmp_path: Path, quick: list[str], method: list[str], modules: int) -> None:
    words = [*quick, *method, "train.max_steps=3", "run.figures=false"]
    r = run(tmp_path / "run", words)
    assert len(r["ranks"]) == modules
    if "budget" in " ".join(method):
        assert r["adapter_parameters"] <= 512
    assert np.isfinite(r["test_loss"])


@pytest.mark.parametrize(
    ("several", "method", "seen"),
    [
        (100, "lora", {"lower": 96, "upper": 0}),
        (5, "lora", {"lower": 96, "upper": 0}),  # 12 batches: steps of 5, 5 and 2
        (100, "bilora", {"lower": 72, "upper": 16}),  # of 76 and 20 examples, batches of 8
    ],
)
def test_the_examples_seen_are_those_that_were_shown(
    tmp_path: Path, quick: list[str], several: int, method: str, seen: dict[str, int]
) -> None:
    """One epoch of 96 in batches of 8, whatever the batches of an optimiser step."""
    words = [*quick, f"method={method}", "train.epochs=1", "run.figures=false"]
    r = run(tmp_path / "run", [*words, f"train.gradient_accumulation={several}"])
    assert r["examples_seen"] == seen


def test_same_seed_same_result(tmp_path: Path, quick: list[str], finished: Path) -> None:
    again = run(tmp_path / "run", [*quick, "run.figures=false"])
    before = result_of(finished)
    for key in ("metrics", "train_loss", "test_loss", "validation_loss", "ranks"):
        assert again[key] == before[key]


def test_hypergradient_check_leaves_the_run_as_it_is(
    tmp_path: Path, quick: list[str], finished: Path
) -> None:
    words = [*quick, "engine.check_hypergradient_every=5", "run.figures=false"]
    again, before = run(tmp_path / "run", words), result_of(finished)
    assert again["test_loss"] == before["test_loss"]
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    found = [x for x in lines if x["kind"] == "hypergradient"]
    assert [x["step"] for x in found] == [5, 10]
    assert all(-1 <= x["cosine"] <= 1 for x in found)
    # and the losses written are the run's own
    without = [json.loads(x) for x in (finished / "metrics.jsonl").read_text().splitlines()]
    for a, b in zip([x for x in lines if x["kind"] != "hypergradient"], without, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}


def test_hypergradient_check_keeps_to_steps_that_are_differentiated(
    tmp_path: Path, quick: list[str]
) -> None:
    words = [*quick, "train.max_steps=10", "run.figures=false", "hypergradient=unrolled"]
    words += ["engine.check_hypergradient_every=1"]
    steps = {}
    for method in ("salora", "salora_bilevel"):
        run(tmp_path / method, [*words, f"method={method}", "method.start=0.3", "method.end=0.7"])
        text = (tmp_path / method / "metrics.jsonl").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        steps[method] = [x["step"] for x in lines if x["kind"] == "hypergradient"]
    # the gates learn in the steps 4 to 7: what comes after step 3, ..., 6 is differentiated
    assert steps == {"salora": [], "salora_bilevel": [3, 4, 5, 6]}


def test_check_hypergradient_program(quick: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = [*quick, "steps=4", "batches=2", "method.unroll_steps=2"]
    found = []
    for _ in range(2):
        check_hypergradient.main(words)
        *shown, last = capsys.readouterr().out.splitlines()
        found.append({x.split("  ")[0]: x.split() for x in shown})
    lines, again = found
    # it starts from the seed, as a run does; the last column is a time
    assert {name: x[:-1] for name, x in lines.items()} == {n: x[:-1] for n, x in again.items()}
    # the default is one that it recommends
    trusted, own = last.split("; the run's own, ")
    assert "unrolled (error 0" in trusted
    assert own.startswith("unrolled, is among them")
    assert float(lines["unrolled(product=central_difference)"][1]) > 0.99
    assert {"sama", "neumann", "cg", "alignment"} <= lines.keys()
    with pytest.raises(SystemExit):
        check_hypergradient.main([*quick, "method=lora"])
    assert "one level only" in capsys.readouterr().err


def test_a_folder_takes_one_run(
    finished: Path, quick: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*quick, f"hydra.run.dir={finished}"])
    assert "holds a run already" in capsys.readouterr().err


def table_of_differences(folder: Path) -> set[tuple[str, tuple[int, ...]]]:
    """The methods and seeds that were compared with the baseline in the test score."""
    (found,) = json.loads((folder / "comparison.json").read_text())["comparisons"]
    return {(d["name"], tuple(d["seeds"])) for d in found["families"][0]["differences"]}


def test_multirun_ends_with_a_table(
    tmp_path: Path, quick: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-m", *quick, "method=lora,autolora", "seed=0,1", "train.max_steps=2"]
    main([*words, "run.figures=false", f"hydra.sweep.dir={tmp_path}"])
    shown = capsys.readouterr().out
    assert re.search(r"^method +seeds ", shown, re.MULTILINE)
    assert re.search(r"In accuracy, against lora: .*autolora", shown)
    assert table_of_differences(tmp_path) == {("autolora", (0, 1))}
    with open(tmp_path / "summary.csv") as file:
        table = list(csv.DictReader(file))
    assert [(row["method"], row["seeds"]) for row in table] == [("autolora", "2"), ("lora", "2")]
    losses = [
        result_of(p.parent)["test_loss"]
        for p in tmp_path.rglob("result.json")
        if result_of(p.parent)["method"] == "lora"
    ]
    lora = table[1]
    assert float(lora["test_loss_mean"]) == pytest.approx(np.mean(losses))
    assert float(lora["test_loss_std"]) == pytest.approx(np.std(losses, ddof=1))
    assert (tmp_path / "comparison.png").stat().st_size > 10_000
    assert "±" in (tmp_path / "summary.md").read_text()


MINE = """
from dataclasses import dataclass
from problems.lora import LoRA

@dataclass(frozen=True)
class Mine(LoRA):
    flavour: str = "plain"
"""


def test_a_method_of_the_users_own(
    tmp_path: Path, quick: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "my_method_of_tests.py").write_text(MINE)
    text = "_target_: my_method_of_tests.Mine\nrank: 4\nflavour: plain\n"
    (tmp_path / "conf" / "method" / "mine.yaml").write_text(text)
    words = ["--config-dir", str(tmp_path / "conf"), *quick, "method=mine", "train.max_steps=2"]
    main([*words, "run.figures=false", f"hydra.run.dir={tmp_path / 'run'}"])
    assert result_of(tmp_path / "run")["method"] == "mine"
    with pytest.raises(SystemExit):
        main([*words, "method.flavour=3"])
    assert "method.flavour=3: this must be a text" in capsys.readouterr().err

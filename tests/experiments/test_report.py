"""The table over runs."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from bilevel.errors import UserError
from experiments import figures as report_figures
from experiments import report
from experiments.pages import one_run, several
from tests.experiments.refusals import refused


@pytest.fixture(autouse=True)
def no_figures_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the time, and tests/experiments/pages looks at them."""
    for module in (one_run, several):
        monkeypatch.setattr(module, "drawn", lambda drawings, title: [])


def result(method: str, seed: int, accuracy: float, **other: Any) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "method": method,
        "task": "sst2",
        "model": "minilm",
        "seed": seed,
        "metrics": {"accuracy": accuracy},
        "primary_metric": "accuracy",
        "train_loss": 0.1,
        "validation_loss": None,
        "test_loss": 0.1 + seed / 10,
        "ranks": {"a": 1, "b": 4},
        "trainable_parameters": 6000,
        "adapter_parameters": 5000,
        "head_parameters": 500,
        "examples_seen": {"lower": 100, "upper": 50},
        "seconds": {"search": 1.0, "retrain": 2.0},
        "processor_seconds": {"search": 0.5, "retrain": 1.0},
        "peak_memory_mib": 900.0,
        **other,
    }


def save(folder: Path, values: dict[str, Any] | None, overrides: list[str]) -> None:
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(overrides), folder / ".hydra" / "overrides.yaml")
    OmegaConf.save(OmegaConf.create({}), folder / ".hydra" / "config.yaml")
    if values is not None:
        (folder / "result.json").write_text(json.dumps(values))


def test_mean_and_sample_deviation() -> None:
    (row,) = report.rows([result("lora", seed, 0.9 + seed / 100) for seed in (0, 1, 2)])
    assert row["seeds"] == 3
    assert row["accuracy_mean"] == pytest.approx(0.91)
    assert row["accuracy_std"] == pytest.approx(0.01)
    assert row["gap_mean"] == pytest.approx(0.1)
    assert row["mean_rank_mean"] == 2.5
    assert row["seconds_mean"] == 3.0
    assert row["validation_loss_mean"] is None


def test_one_seed_has_no_deviation() -> None:
    (row,) = report.rows([result("lora", 0, 0.9)])
    assert row["accuracy_std"] is None
    assert "±" not in report.markdown([row])


def test_methods_tasks_and_variants_are_apart(tmp_path: Path) -> None:
    common = ["task.max_train=100", "task.data_dir=here"]
    for seed in (0, 1):
        for estimator in ("none", "unrolled"):
            words = [*common, f"seed={seed}", f"hydra.job.name=x{seed}"]
            words.append(f"hypergradient={estimator}")
            save(tmp_path / f"{estimator}{seed}", result("autolora", seed, 0.9), words)
        save(tmp_path / f"lora{seed}", result("lora", seed, 0.8), [*common, f"seed={seed}"])
    text = report.report([tmp_path], tmp_path)
    with open(tmp_path / "summary.csv") as file:
        table = list(csv.DictReader(file))
    assert [(r["method"], r["variant"], r["seeds"]) for r in table] == [
        ("autolora", "hypergradient=none", "2"),
        ("autolora", "hypergradient=unrolled", "2"),
        ("lora", "", "2"),
    ]
    assert "max_train" not in text
    written = (tmp_path / "summary.md").read_text()
    assert "max_train" not in written
    assert "| autolora hypergradient=unrolled |" in written


def test_tasks_with_different_metrics_share_a_table(tmp_path: Path) -> None:
    other = result("lora", 0, 0.0, task="cola", metrics={"matthews": 0.6})
    text = report.markdown(report.rows([result("lora", 0, 0.9), other]))
    head, _, first, second = text.splitlines()
    assert "accuracy" in head
    assert "matthews" in head
    assert "0.6000" in first
    assert "0.9000" in second
    assert len({len(line) for line in text.splitlines()}) == 1


def test_unfinished_runs_are_told_apart(tmp_path: Path) -> None:
    save(tmp_path / "good", result("lora", 0, 0.9), [])
    save(tmp_path / "bad", None, [])
    found = report._collect([tmp_path])
    finished, failed = found.finished, found.failed
    assert [r["method"] for r in finished] == ["lora"]
    assert failed == [tmp_path / "bad"]


def test_nothing_to_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        report.main([str(tmp_path)])
    assert stop.value.code == 2
    assert "no finished run" in capsys.readouterr().err


def test_a_grid_is_chosen_by_validation_loss_and_costs_all_its_runs(tmp_path):
    losses = {0: {1: 0.5, 2: 0.3, 4: 0.4}, 1: {1: 0.2, 2: 0.3, 4: 0.4}}
    for seed, by_rank in losses.items():
        for rank, loss in by_rank.items():
            # the best on the test set is never the best on the validation set
            values = result("lora_grid", seed, 0.9 if rank == 4 else 0.8, validation_loss=loss)
            values["ranks"] = {"a": rank}
            save(tmp_path / f"{seed}_{rank}", values, [f"method.rank={rank}", f"seed={seed}"])
    text = report.report([tmp_path], tmp_path / "out")
    with open(tmp_path / "out" / "summary.csv", newline="") as file:
        table = {row["variant"]: row for row in csv.DictReader(file)}
    assert set(table) == {
        *("method.rank=1", "method.rank=2", "method.rank=4"),
        "best of 3 by validation loss",
    }
    best = table["best of 3 by validation loss"]
    assert float(best["accuracy_mean"]) == pytest.approx(0.8)
    assert float(best["mean_rank_mean"]) == pytest.approx(1.5)
    assert float(best["seconds_mean"]) == pytest.approx(9.0)
    assert float(best["examples_mean"]) == pytest.approx(450)
    assert "best of 3" in text


def test_a_grid_without_validation_loss_costs_no_table(tmp_path, capsys):
    for rank in (1, 2):
        save(tmp_path / str(rank), result("lora_grid", 0, 0.8), [f"method.rank={rank}"])
    save(tmp_path / "lora", result("lora", 0, 0.7), [])
    report.report([tmp_path], tmp_path / "out")
    with open(tmp_path / "out" / "summary.csv", newline="") as file:
        assert [row["method"] for row in csv.DictReader(file)] == ["lora", *["lora_grid"] * 2]
    assert "method.hold_out" in capsys.readouterr().err


def of_folder(folder: str, seed: int, train: str, test: str) -> dict[str, Any]:
    digests = {"train": train, "test": test}
    options = {"task": {"data_dir": folder, "max_train": None}}
    own: dict[str, Any] = {"kind": "classes", "labels": ["no", "yes"], "task": "classification"}
    return result("lora", seed, 0.9, data_digests=digests, configuration=options, **own)


FILMS = ["classification (no, yes, films)", "classification (no, yes, tickets)"]
PLAIN = ["classification"]
NAMED = ["task.data_dir=films", "task.data_dir=tickets"]


@pytest.mark.parametrize(
    ("runs", "tasks", "variants", "seeds"),
    [
        ([("films", 0, "a", "t"), ("tickets", 0, "b", "u")], FILMS, [""], ["1", "1"]),
        ([("films", 0, "a", "t"), ("tickets", 0, "b", "t")], PLAIN, NAMED, ["1", "1"]),
        ([("films", 0, "a", "t"), ("copy", 1, "a", "t")], PLAIN, [""], ["2"]),
        ([("fold0", 0, "a", "t"), ("fold1", 1, "b", "u")], PLAIN, [""], ["2"]),
        (
            [("films", 0, "a", "t"), ("films", 0, "b", "t"), ("films", 1, "b", "t")],
            PLAIN,
            ["task.data_dir=films", "task.data_dir=films, 2"],
            ["1", "2"],
        ),
    ],
    ids=["other tests", "other training", "a copy", "folds", "changed in place"],
)
def test_runs_of_one_seed_on_other_data_are_no_seeds_of_one_method(
    tmp_path, runs, tasks, variants, seeds
):
    for i, (folder, seed, *own) in enumerate(runs):
        save(tmp_path / str(i), of_folder(folder, seed, *own), [f"task.data_dir={folder}"])
    report.report([tmp_path], tmp_path / "out")
    with open(tmp_path / "out" / "summary.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert {row["task"] for row in table} == set(tasks)
    assert [row["seeds"] for row in table] == seeds
    assert {row["variant"] for row in table} == set(variants)


def test_of_two_runs_of_one_seed_all_figures_and_pages_count_the_first(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        report_figures.comparison, "draw", lambda results, path, compared: seen.update(n=results)
    )
    for name, accuracy in (("a", 0.9), ("b", 0.5)):
        save(tmp_path / name, result("lora", 0, accuracy), [])
    report.report([tmp_path], tmp_path / "out")
    assert [r["metrics"]["accuracy"] for r in seen["n"]] == [0.9]


def test_runs_that_began_with_a_run_of_their_own_seed_are_compared(tmp_path):
    for method in ("lora", "autolora"):
        for seed in (0, 1):
            start = {"method": "lora", "task": "mnli", "seed": seed, "metrics": {}}
            options = {"model": {"warm_start": f"mnli{seed}"}}
            values = result(method, seed, 0.9, warm_start=start, configuration=options)
            save(tmp_path / f"{method}{seed}", values, [f"model.warm_start=mnli{seed}"])
    report.report([tmp_path], tmp_path / "out")
    with open(tmp_path / "out" / "summary.csv", newline="") as file:
        table = [(row["method"], row["variant"], row["seeds"]) for row in csv.DictReader(file)]
    assert table == [("autolora", "", "2"), ("lora", "", "2")]
    start = {"method": "lora", "task": "mnli", "seed": 9, "metrics": {}}
    options = {"model": {"warm_start": "mnli9"}}
    save(tmp_path / "c", result("lora", 0, 0.9, warm_start=start, configuration=options), [])
    report.report([tmp_path], tmp_path / "out")
    with open(tmp_path / "out" / "summary.csv", newline="") as file:
        names = {row["variant"] for row in csv.DictReader(file) if row["method"] == "lora"}
    assert names == {f"model.warm_start=mnli{i}" for i in (0, 1, 9)}  # one seed has two starts


@pytest.mark.parametrize("turned", [False, True])
def test_a_metric_that_one_run_lacks_is_compared_where_it_is(tmp_path, turned):
    for name, method in zip("ab", ("lora", "autolora"), strict=True):
        values = result(method, 0, 0.9)
        if (name == "a") != turned:
            values["metrics"]["f1"] = 0.5
        save(tmp_path / name, values, [])
    report.report([tmp_path], tmp_path / "out", metric="f1")
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())["comparisons"]
    assert [c["metric"] for c in found] == ["f1"]


def test_a_long_baseline_is_a_word_and_no_folder(tmp_path, capsys):
    save(tmp_path / "a", result("lora", 0, 0.9), [])
    said = refused(report.main, [str(tmp_path), "against=lora " + "a" * 300], capsys)
    assert "against" in said


@pytest.mark.parametrize(
    "text", ["=1+1", "+train.x=1", "-cmd|'/c calc'!A1", "@SUM(A1)", "\t=1", " =1"]
)
def test_a_text_is_no_formula_of_a_spreadsheet(tmp_path: Path, text: str) -> None:
    save(tmp_path / "a", result("lora", 0, 0.9, task=text), ["x=1", text])
    save(tmp_path / "b", result(text, 0, 0.9), ["x=2"])
    values = result("lora", 1, 0.9)
    values["metrics"] = {text: -0.5, **values["metrics"]}
    save(tmp_path / "c", values, ["x=3"])
    report.report([tmp_path], tmp_path)
    with open(tmp_path / "summary.csv", newline="") as file:
        table = list(csv.reader(file))
    for cell in (cell for line in table for cell in line):
        if cell.strip()[:1] in ("=", "+", "-", "@"):
            float(cell)  # a number
    assert "-0.5" in [cell for line in table for cell in line]


def test_names_do_not_break_the_table(tmp_path: Path) -> None:
    odd = "a|b\\|c\n<img src=x onerror=alert(1)> [x](javascript:y) \x1b[2J"
    save(tmp_path / "a", result("lora", 0, 0.9, model=odd), ["train.x=a|b"])
    save(tmp_path / "b", result("lora", 1, 0.9, model=odd), ["train.x=c"])
    text = report.report([tmp_path], tmp_path)
    written = (tmp_path / "summary.md").read_text()
    tables = re.findall(r"(?:^\|.*\n)+", written, re.MULTILINE)
    assert len(tables) == 3  # methods, runs, all measures
    for table in tables:
        lines = table.splitlines()
        assert len(lines) == 4
        bars = [len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines]
        assert len(set(bars)) == 1
    assert "<" not in (tmp_path / "summary.md").read_text()
    assert "](" not in (tmp_path / "summary.md").read_text()
    assert "\x1b" not in text


def test_a_table_is_not_written_through_a_link(tmp_path: Path) -> None:
    save(tmp_path / "runs" / "a", result("lora", 0, 0.9), [])
    (tmp_path / "precious").write_text("mine")
    for name in ("summary.csv", "summary.md", "comparison.png"):
        (tmp_path / "runs" / name).symlink_to(tmp_path / "precious")
    report.report([tmp_path / "runs"], tmp_path / "runs")
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_run_that_cannot_be_read_costs_no_other_its_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1):
        save(tmp_path / f"good{seed}", result("lora", seed, 0.9), [])
    save(tmp_path / "bad", result("lora", 2, 0.9), [])
    (tmp_path / "bad" / "result.json").write_text('{"schema_version": 1, "method": ')
    save(tmp_path / "worse", result("lora", 3, 0.9), [])
    (tmp_path / "worse" / ".hydra" / "overrides.yaml").write_text("a: [")
    assert re.search(r"^lora +2 ", report.report([tmp_path], tmp_path), re.MULTILINE)
    with open(tmp_path / "summary.csv") as file:
        assert [row["seeds"] for row in csv.DictReader(file)] == ["2"]
    said = capsys.readouterr().err
    assert f"passed over: {tmp_path / 'bad' / 'result.json'}" in said
    assert f"passed over: {tmp_path / 'worse' / '.hydra' / 'overrides.yaml'}" in said


def ranked(seed: int, query: list[int], value: list[int], **other: Any) -> dict[str, Any]:
    parts = (("query", query), ("value", value))
    ranks = {f"layer.{i}.{part}": rank for part, row in parts for i, rank in enumerate(row)}
    return result(other.pop("method", "autolora"), seed, 0.9, ranks=ranks, **other)


def cells_of(folder: Path) -> list[dict[str, str]]:
    """The rows of the last table in a summary."""
    written = (folder / "summary.md").read_text()
    lines = [line for line in written.splitlines() if line.startswith("|")]
    *_, head = (i for i, line in enumerate(lines) if line.startswith("| method"))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[head:]]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def test_seeds_agree_or_not_on_the_ranks(tmp_path: Path) -> None:
    save(tmp_path / "0", ranked(0, [1, 2, 3], [7, 8, 9]), ["seed=0"])
    save(tmp_path / "1", ranked(1, [3, 2, 1], [7, 8, 9], adapter_parameters=8000), ["seed=1"])
    save(tmp_path / "again", ranked(1, [1, 2, 3], [9, 8, 7]), ["seed=1"])  # seed 1 is there
    text = report.report([tmp_path], tmp_path)
    every, query, value = cells_of(tmp_path)
    assert (every["ranks of"], every["modules"], every["seeds"]) == ("all modules", "6", "2")
    assert (every["mean_rank"], every["parameters"]) == ("5.00", "5,000 to 8,000")
    # positions 1 to 6 against 3 2 1 4 5 6: 1 - 6 * 8 / (6 * 35); 3 of 15 pairs are the wrong way
    assert (every["Spearman"], every["Kendall"]) == ("0.77", "0.60")
    assert (query["ranks of"], query["Spearman"], query["mean_rank"]) == ("query", "-1.00", "2.00")
    assert (value["ranks of"], value["Kendall"], value["parameters"]) == ("value", "1.00", "")
    said = " ".join(text.split())
    assert "autolora on sst2, minilm agree between the seeds 0, 1 by 0.77 (Spearman" in said
    assert "differ in size, 5,000 to 8,000 parameters" in said


def test_equal_ranks_are_compared_by_what_is_left_of_them_at_one_size(tmp_path: Path) -> None:
    """LoRA's, cut to half by its singular values; queries agree in order, values do not."""
    worth = ([3.0, 2.0, 1.0, 9.0, 8.0, 7.0], [3.0, 2.0, 1.0, 7.0, 8.0, 9.0])
    for seed, sizes in enumerate(worth):
        values = ranked(seed, [8, 8, 8], [8, 8, 8], method="lora")
        save(
            tmp_path / str(seed),
            {**values, "engine": {"T1": None, "T2": None, "steps": {}}},
            [f"seed={seed}"],
        )
        names = list(values["ranks"])
        sigma = {n: [s - 0.8 * j for j in range(8)] for n, s in zip(names, sizes, strict=True)}
        costs = dict.fromkeys(names, 100)
        line = {"stage": "train", "step": 5, "kind": "singular", "singular": sigma, "costs": costs}
        (tmp_path / str(seed) / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    said = " ".join(report.report([tmp_path], tmp_path / "out").split())
    assert "ranks of lora cut to 2,400 parameters on sst2, minilm agree between the seeds" in said
    assert "lora on sst2, minilm agree between seeds is undefined" in said
    table = cells_of(tmp_path / "out")
    shown = {row["ranks of"]: row["Spearman"] for row in table if row["variant"].startswith("cut")}
    assert shown["value"] == "-1.00"
    assert float(shown["all modules"]) > 0


def test_agreement_of_equal_ranks_is_undefined(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        values = ranked(seed, [4, 4, 4], [4, 4, 4], method="lora")
        save(tmp_path / f"lora{seed}", values, [f"seed={seed}"])
    alone = report.report([tmp_path], tmp_path / "out")
    assert "lora on sst2, minilm agree between seeds is undefined" in " ".join(alone.split())
    assert (tmp_path / "out" / "summary.md").read_text().count("ranks of |") == 0
    for seed in (0, 1, 2):
        values = ranked(seed, [1, 2, 3 + seed], [4, 4, 4 + (seed == 2)])
        save(tmp_path / f"autolora{seed}", values, [f"seed={seed}"])
    text = report.report([tmp_path], tmp_path / "out")
    table = cells_of(tmp_path / "out")
    shown = {(row["method"], row["ranks of"]): row["Spearman"] for row in table}
    assert shown["lora", "all modules"] == shown["autolora", "value"] == "undefined"
    assert shown["autolora", "query"] == "1.00"
    assert len(table) == 4
    assert "nan" not in text.lower()


def test_agreement_says_of_how_many_pairs_it_is(tmp_path: Path) -> None:
    for seed, query in enumerate(([1, 2, 3], [2, 2, 2], [1, 2, 3])):
        save(tmp_path / str(seed), ranked(seed, query, [2, 2, 2]), [f"seed={seed}"])
    report.report([tmp_path], tmp_path)
    assert cells_of(tmp_path)[0]["Kendall"] == "1.00 (1 of 3 pairs)"


def test_one_seed_or_no_ranks_say_nothing_of_agreement(tmp_path: Path) -> None:
    save(tmp_path / "a", ranked(0, [1, 2], [3, 4]), ["x=1"])
    save(tmp_path / "b", ranked(1, [1, 2], [3, 4]), ["x=2"])  # another variant
    for seed in (0, 1):  # of a method, or a version, without ranks
        save(tmp_path / f"full{seed}", result("full", seed, 0.9, ranks=None), [])
    text = report.report([tmp_path], tmp_path)
    assert "agree" not in text
    assert "agree" not in (tmp_path / "summary.md").read_text()


def scored(folder: Path, method: str, seed: int, right: int, **other: Any) -> None:
    """A finished run of 40 examples, of which the first so many are answered rightly."""
    labels = ["no", "yes"]
    values = result(method, seed, right / 40, kind="classes", labels=labels, **other)
    save(folder, values, [f"seed={seed}"])
    lines = []
    for i in range(40):
        true = labels[i % 2]
        said = true if i < right else labels[1 - i % 2]
        shares = [0.8, 0.2] if said == "no" else [0.2, 0.8]
        row = {"test": "test", "index": i, "label": true, "prediction": said}
        lines.append(json.dumps({**row, "probabilities": shares}))
    (folder / "predictions.jsonl").write_text("\n".join(lines) + "\n")


def test_methods_are_compared_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1, 2):
        scored(tmp_path / f"a{seed}", "lora", seed, 20 + seed)
        scored(tmp_path / f"b{seed}", "autolora", seed, 38, adapter_parameters=100)
    report.main([str(tmp_path)])
    said = capsys.readouterr().out
    assert max(map(len, said.partition(str(tmp_path))[0].splitlines())) <= 100
    assert re.search(r"In accuracy, against lora:\s+autolora\s+is better", said)
    assert (tmp_path / "pareto.png").is_file()
    with open(tmp_path / "summary.csv") as file:
        table = {row["method"]: row for row in csv.DictReader(file)}
    assert table["autolora"]["difference_shown"] == "True"
    assert table["autolora"]["on_front"] == "True"
    assert table["lora"]["difference"] == ""
    with open(tmp_path / "runs.csv") as file:
        assert len(list(csv.DictReader(file))) == 6
    found = json.loads((tmp_path / "comparison.json").read_text())["comparisons"][0]
    assert found["baseline"] == "lora"
    mean = found["families"][0]["differences"][0]["mean"]
    assert float(table["autolora"]["difference"]) == pytest.approx(mean)
    report.main([str(tmp_path), "against=autolora", "--out", str(tmp_path / "out")])
    assert re.search(r"lora\s+is worse", capsys.readouterr().out)


@pytest.mark.parametrize("word", ["against=salora", "metric=bleu"])
def test_a_baseline_or_score_that_is_not_there_is_refused(
    tmp_path: Path, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    scored(tmp_path / "a", "lora", 0, 20)
    with pytest.raises(SystemExit):
        report.main([str(tmp_path), word])
    assert word in capsys.readouterr().err
    assert not (tmp_path / "summary.csv").exists()


@pytest.mark.parametrize("file", ["adapter_config.json", "model.safetensors"])
def test_a_saved_model_s_folder_is_not_written_into(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "run", result("lora", 0, 0.8), [])
    adapter = tmp_path / "run" / "adapter"
    adapter.mkdir()
    (adapter / file).touch()
    with pytest.raises(SystemExit):
        report.main([str(tmp_path / "run"), "--out", str(adapter)])
    assert "--out" in capsys.readouterr().err
    assert [path.name for path in adapter.iterdir()] == [file]


def test_what_is_finished_is_told_while_others_run(tmp_path: Path) -> None:
    save(tmp_path / "0", None, [])
    with pytest.raises(UserError, match="1 have begun"):
        report.report([tmp_path], tmp_path)
    save(tmp_path / "1", result("lora", 0, 0.9), [])
    text = report.report([tmp_path], tmp_path)
    assert "1 of 2 runs that have begun are not finished: 0" in text
    assert (tmp_path / "summary.csv").is_file()
    assert "not finished" in (tmp_path / "report.html").read_text(encoding="utf-8")
    journal = tmp_path / "2" / "checkpoints" / "stages.json"  # all that a run of finetune has
    journal.parent.mkdir(parents=True)
    journal.write_text("{}", encoding="utf-8")
    text = report.report([tmp_path], tmp_path)
    assert "2 of 3 runs that have begun are not finished: 0, 2" in text


def test_a_report_of_a_folder_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(report.main, [str(tmp_path), str(tmp_path / "typo")], capsys)
    assert "no folder" in said
    assert "typo" in said

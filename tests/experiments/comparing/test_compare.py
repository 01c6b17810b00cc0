"""Methods compared over seeds and test examples, from the files of their runs."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from bilevel.errors import UserError
from experiments.comparing import predictions, wording
from experiments.comparing.compare import compare
from experiments.comparing.comparison import LOSS, as_json
from experiments.comparing.scored_run import ScoredRun, draw
from experiments.comparing.variants import told_apart
from experiments.metrics import labels
from experiments.metrics.resampled import Resampled
from experiments.metrics.tags import TAG_METRICS
from experiments.results import predictions_file
from tests.experiments.scored import NAMES, classes_run, result, write

METHODS = ("lora", "autolora")


def some_runs(tmp_path, better=0.0, seeds=3, size=300, score="accuracy", **other):
    rng = np.random.default_rng(0)
    hard = rng.random(size)
    return [
        classes_run(
            *(tmp_path / f"{method}{seed}", hard + rng.normal(0, 0.15, size) > level),
            *(method, seed, score),
            **other,
        )
        for method, level in (("lora", 0.4), ("autolora", 0.4 - better))
        for seed in range(seeds)
    ]


def test_a_difference_is_shown_in_its_direction(tmp_path):
    (found,) = compare(some_runs(tmp_path, better=0.3))
    assert found.baseline == "lora"
    scores, losses = found.families
    (d,) = scores.differences
    assert (d.name, d.seeds, d.examples, d.shown) == ("autolora", [0, 1, 2], 300, True)
    assert d.low > 0
    assert d.p_holm == d.p < 0.05
    assert losses.measure == LOSS
    assert losses.differences[0].high < 0
    said = wording.conclusion(found)
    assert "autolora is better" in said
    assert "3 seeds" in said
    assert "no difference" not in said


def test_no_difference_is_said_in_words(tmp_path):
    (found,) = compare(some_runs(tmp_path))
    assert not found.families[0].differences[0].shown
    assert "no difference shown for autolora" in wording.conclusion(found)
    table = wording.in_terminal(found)
    assert "no difference shown" in table
    assert "unadjusted" in table


def test_with_one_seed_only_examples_are_covered(tmp_path):
    runs = some_runs(tmp_path, seeds=1)
    (found,) = compare(runs)
    (d,) = found.families[0].differences
    assert "one seed" in wording.conclusion(found)
    assert "examples only" in wording.in_terminal(found)
    right = [
        [float(row["label"] == row["prediction"]) for row in map(json.loads, text.splitlines())]
        for text in (
            (tmp_path / f"{name}0" / predictions_file.FILE).read_text() for name in METHODS
        )
    ]
    paired = stats.ttest_rel(right[1], right[0])
    ends = paired.confidence_interval(0.95)
    assert (d.low, d.high) == pytest.approx((ends.low, ends.high), rel=1e-9)
    assert d.p == pytest.approx(paired.pvalue, rel=1e-6)


def test_f1_is_compared_by_a_bootstrap(tmp_path):
    (found,) = compare(some_runs(tmp_path, better=0.3, score="f1"))
    (d,) = found.families[0].differences
    assert (found.metric, d.shown) == ("f1", True)
    (same,) = compare(some_runs(tmp_path, better=0.3), metric="f1")
    assert same.families[0].differences == found.families[0].differences
    values = {m.name: m.score for m in found.methods}
    assert d.mean == pytest.approx(values["autolora"] - values["lora"], abs=1e-12)


@pytest.mark.parametrize("change", ["label", "key", "size"])
def test_other_test_examples_are_not_compared(tmp_path, change):
    runs = some_runs(tmp_path)
    keyed = {run["folder"]: f"{run['method']}" for run in runs}
    for run in runs:
        path = tmp_path / run["folder"] / predictions_file.FILE
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        if change == "key":
            lines = [{**line, "key": f"{keyed[run['folder']]}{i}"} for i, line in enumerate(lines)]
        elif run["method"] == "autolora" and change == "label":
            for line in lines[:2]:  # both stay as right or wrong as they were
                for part in ("label", "prediction"):
                    line[part] = NAMES[1 - NAMES.index(line[part])]
        elif run["method"] == "autolora":
            lines = lines[:250]
            share = np.mean([line["label"] == line["prediction"] for line in lines])
            run["metrics"] = {"accuracy": float(share)}
        write(path.parent, lines)
        run["metrics"].pop("f1", None)
    (found,) = compare(runs)
    assert not found.families
    (said,) = [note for note in found.notes if "not compared" in note]
    assert "test examples" in said
    assert "autolora" in said
    assert all(m.low is not None for m in found.methods)


def test_no_seed_in_common_is_said(tmp_path):
    runs = some_runs(tmp_path)
    for run in runs:
        run["seed"] += 10 * (run["method"] == "autolora")
    (found,) = compare(runs)
    assert not found.families
    assert any("no seed in common" in note for note in found.notes)


def test_predictions_of_another_run_are_refused(tmp_path):
    runs = some_runs(tmp_path)
    runs[0]["metrics"] = {"accuracy": 0.123}
    (found,) = compare(runs)
    assert any("not of the same run" in note for note in found.notes)
    # the seeds that are left are compared no further than they go
    assert found.methods[0].low is None or found.methods[1].low is None


def test_a_run_without_predictions_has_a_score_and_no_interval(tmp_path):
    runs = some_runs(tmp_path)
    (tmp_path / "autolora1" / predictions_file.FILE).unlink()
    (found,) = compare(runs)
    by_name = {m.name: m for m in found.methods}
    assert by_name["autolora"].score is not None
    assert by_name["autolora"].low is None
    assert by_name["lora"].low is not None
    assert any("missing" in note for note in found.notes)


def test_the_best_is_chosen_by_validation_and_never_by_test(tmp_path):
    runs = some_runs(tmp_path, better=0.3)  # autolora has the better test scores
    for run in runs:
        score = 0.9 if run["method"] == "lora" else 0.7
        run["validation"] = {"loss": 0.3, "metrics": {"accuracy": score}, "trained_on": False}
    (found,) = compare(runs)
    assert [m.name for m in found.methods] == ["lora", "autolora"]
    assert [m.best for m in found.methods] == [True, False]
    for run in runs:
        run["validation"]["trained_on"] = run["method"] == "lora"
    (found,) = compare(runs)
    assert [(m.name, m.best) for m in found.methods] == [("lora", False), ("autolora", True)]
    assert any("trains on" in note for note in found.notes)


def test_without_validation_the_losses_of_the_test_choose_nothing(tmp_path):
    (found,) = compare(some_runs(tmp_path, better=0.3))
    assert [m.name for m in found.methods] == ["autolora", "lora"]  # by name
    assert not any(m.best for m in found.methods)


def test_the_baseline_is_plain_lora_or_what_is_named(tmp_path):
    runs = some_runs(tmp_path, seeds=2)
    assert compare(runs)[0].baseline == "lora"
    assert compare(runs, against="autolora")[0].baseline == "autolora"
    with pytest.raises(UserError, match=r"against.*autolora"):
        compare(runs, against="autolaro")
    for run in runs:
        run["method"], run["variant"] = "lora", f"method.rank={4 + 4 * (run['method'] == 'lora')}"
        run["validation_loss"] = 0.3 if run["variant"].endswith("4") else 0.5
    assert compare(runs)[0].baseline == "lora method.rank=4"
    assert compare(runs, against="lora method.rank=8")[0].baseline == "lora method.rank=8"
    with pytest.raises(UserError, match=r"against.*several"):
        compare(runs, against="lora")
    with pytest.raises(UserError, match="metric"):
        compare(runs, metric="bleu")


def test_holm_is_over_the_differences_to_the_baseline(tmp_path):
    runs = some_runs(tmp_path, better=0.02)
    runs += [{**run, "method": "other"} for run in runs if run["method"] == "autolora"]
    (found,) = compare(runs)
    first, second = found.families[0].differences
    assert first.p == second.p
    assert first.p_holm == second.p_holm == pytest.approx(min(1, 2 * first.p))


def test_the_front_has_what_nothing_beats(tmp_path):
    rng = np.random.default_rng(1)
    sizes = {"a": (0.9, 100), "b": (0.8, 200), "c": (0.7, 50), "d": (0.95, 400)}
    runs = [
        classes_run(tmp_path / n, rng.random(400) < share, n, adapter_parameters=size)
        for n, (share, size) in sizes.items()
    ]
    (found,) = compare(runs)
    assert {m.name for m in found.methods if m.on_front} == {"a", "c", "d"}


def test_runs_with_other_options_are_no_seeds_of_one_another(tmp_path):
    runs = [
        result(tmp_path, seed=seed, configuration={"seed": seed, "method": {"rank": rank}})
        for rank in (4, 8)
        for seed in (0, 1)
    ]
    found = told_apart(runs)
    assert [r["variant"] for r in found] == ["method.rank=4"] * 2 + ["method.rank=8"] * 2
    assert {len(m.runs) for m in compare(found)[0].methods} == {2}
    alike = [{**r, "configuration": {"seed": r["seed"], "run": {"x": r["seed"]}}} for r in runs]
    assert {r["variant"] for r in told_apart(alike)} == {""}


def test_several_runs_of_one_seed_count_once(tmp_path):
    runs = some_runs(tmp_path)
    (found,) = compare([*runs, runs[0]])
    assert found.methods[1].seeds == [0, 1, 2]
    assert any("several runs" in note for note in found.notes)


def test_a_table_fits_a_terminal(tmp_path):
    runs = some_runs(tmp_path, better=0.3)
    long = "method.hold_out=0.2 train.target_modules=all model.dtype=bfloat16 " * 2
    for run in runs:
        run["variant"] = long if run["method"] == "autolora" else ""
        run["validation"] = {"loss": 0.3, "metrics": {"accuracy": 0.9}, "trained_on": True}
        run["adapter_parameters"] = 22_713_986
    (found,) = compare(runs)
    lines = wording.in_terminal(found).splitlines()
    assert max(map(len, lines)) <= wording.COLUMNS


def test_all_numbers_are_in_the_json(tmp_path):
    found = compare(some_runs(tmp_path))
    values = json.loads(json.dumps(as_json(found), allow_nan=False))
    (one,) = values["comparisons"]
    method = one["methods"][0]
    assert method["runs"][0]["low"] < method["runs"][0]["score"] < method["runs"][0]["high"]
    difference = one["families"][0]["differences"][0]
    assert difference["shown"] is False
    assert sum(difference["shares"]) == pytest.approx(1)


def of_number(rng, seed):
    true = rng.normal(0, 1, 60)
    said = true + np.random.default_rng(seed).normal(0, 1, 60)
    lines = [
        {"index": i, "label": t, "prediction": s}
        for i, (s, t) in enumerate(zip(said, true, strict=True))
    ]
    return "number", lines, {"spearman": labels.spearman(said, true)}, ((said - true) ** 2).mean()


def of_labels(rng, seed):
    true = rng.random((60, 2)) < 0.5
    shares = np.clip(
        np.where(true, 0.6, 0.4) + np.random.default_rng(seed).normal(0, 0.2, true.shape),
        0.01,
        0.99,
    )
    said = shares > 0.5
    lines = [
        {
            "index": i,
            "label": [n for n, on in zip(NAMES, t, strict=True) if on],
            "prediction": [n for n, on in zip(NAMES, s, strict=True) if on],
            "probabilities": p.tolist(),
        }
        for i, (t, s, p) in enumerate(zip(true, said, shares, strict=True))
    ]
    loss = -np.log(np.where(true, shares, 1 - shares)).mean()
    return "labels", lines, {"micro_f1": labels.LABEL_SET_METRICS["micro_f1"](said, true)}, loss


def of_tags(rng, seed):
    true = [rng.choice(["O", "B-a", "I-a"], 6).tolist() for _ in range(60)]
    own = np.random.default_rng(seed)
    said = [[t if own.random() < 0.8 else "O" for t in row] for row in true]
    lines = [
        {"prediction": s, "words": ["w"] * 6, "tags": t, "loss": float(i % 3), "terms": 1 + i % 2}
        for i, (s, t) in enumerate(zip(said, true, strict=True))
    ]
    loss = sum((i % 3) * (1 + i % 2) for i in range(60)) / 90
    return "tags", lines, {"f1": TAG_METRICS["f1"](true, said)}, loss


def of_text(rng, seed):
    words = ["a", "the", "cat", "sat", "on", "mats"]
    true = [" ".join(rng.choice(words, 8)) for _ in range(60)]
    own = np.random.default_rng(seed)
    said = [" ".join(w for w in t.split() if own.random() < 0.8) for t in true]
    from experiments.metrics.text import score_text

    lines = [
        {"prediction": s, "source": f"{i}", "target": t, "references": [t]}
        for i, (s, t) in enumerate(zip(said, true, strict=True))
    ]
    return "text", lines, score_text(["bleu"], said, [[t] for t in true])[0], None


@pytest.mark.parametrize("make", [of_number, of_labels, of_tags, of_text])
def test_every_kind_of_task_is_compared(tmp_path, make):
    runs = []
    for method in ("lora", "autolora"):
        for seed in (0, 1, 2):
            drawn = np.random.default_rng([seed, method == "lora"])
            kind, lines, metrics, loss = make(np.random.default_rng(9), drawn.integers(2**30))
            folder = tmp_path / f"{method}{seed}"
            folder.mkdir()
            write(folder, [{"test": "test", **line} for line in lines])
            (name,) = metrics
            values = {"kind": kind, "metrics": metrics, "primary_metric": name}
            runs.append(result(folder, method, seed, **values))
            read = predictions.read(folder, runs[-1])
            if loss is None:
                assert read.loss is None
            else:
                assert read.loss.value == pytest.approx(loss, rel=1e-9)
    (found,) = compare(runs)
    (d,) = found.families[0].differences
    assert d.low < 0 < d.high
    assert not d.shown
    assert math.isclose((d.low + d.high) / 2, d.mean, abs_tol=1e-9)
    assert all(m.low < m.score < m.high for m in found.methods)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("{", "JSON"),
        ('{"test": "test", "index": 0, "label": "yes"}', "prediction"),
        ('{"test": 1, "label": "yes", "prediction": "no", "probabilities": []}', "test"),
    ],
)
def test_damaged_predictions_cost_the_interval_alone(tmp_path, line, word):
    runs = some_runs(tmp_path)
    path = tmp_path / "lora0" / predictions_file.FILE
    path.write_text(line + "\n" + path.read_text())
    (found,) = compare(runs)
    assert any(word in note and "line 1" in note for note in found.notes)
    assert {m.name for m in found.methods} == {"lora", "autolora"}


def test_a_text_without_references_has_its_target(tmp_path):
    kind, lines, metrics, _ = of_text(np.random.default_rng(0), 0)
    lines[0]["references"] = []
    (tmp_path / "run").mkdir()
    write(tmp_path / "run", [{"test": "test", **line} for line in lines])
    made = result(tmp_path / "run", kind=kind, metrics=metrics, primary_metric="bleu")
    read = predictions.read(tmp_path / "run", made)
    assert read.scores["bleu"].value == pytest.approx(metrics["bleu"])


def test_a_mean_of_losses_beside_a_ratio_is_drawn_too():
    """Of tags or texts that are all cut to one length, beside others."""

    def mean(counts):
        return counts.mean(1)

    plain, ratio = Resampled(mean, 4, each=np.ones(4)), Resampled(mean, 4)
    runs = [ScoredRun({}, SimpleNamespace(loss=loss, scores={})) for loss in (plain, ratio)]
    draw(runs, "f1")
    assert all(LOSS in run.drawn for run in runs)
    draw(runs[:1], "f1")  # alone, a mean needs none

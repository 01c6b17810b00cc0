"""What is said of runs that learned nothing, over-fitted or decided nothing, and of good ones."""

import numpy as np
import pytest

from bilevel.errors import UserError
from experiments.results import record
from experiments.run import main
from experiments.verdicts import verdict
from experiments.verdicts.verdict import of_run, of_runs
from tests.experiments.training.own_files import run, sentences, words, write

VALUES = {
    **{"kind": "classes", "primary_metric": "accuracy", "metrics": {"accuracy": 0.8}},
    **{"trainable_parameters": 9, "train_loss": 0.3, "labels": ["a", "b"], "seed": 0},
    **{"method": "lora", "task": "t", "model": "m", "validation": None},
}


def answers(right, of=200, share=0.5):
    """So many right ones, the labels alternating or of one large class."""
    labels = ["a" if i < share * of else "b" for i in range(of)]
    wrong = set(np.random.default_rng(0).permutation(of)[right:].tolist())
    said = ["ab"[(y == "a") ^ (i not in wrong)] for i, y in enumerate(labels)]
    rows = []
    for y, p in zip(labels, said, strict=True):
        shares = [0.7, 0.3] if p == "a" else [0.3, 0.7]
        rows.append({"label": y, "prediction": p, "probabilities": shares})
    return rows


def training(losses, key="lower_loss"):
    return [{"kind": "train", "stage": "s", "step": i, key: x} for i, x in enumerate(losses)]


def falling(start, end, noise=0.01, steps=40):
    drawn = np.random.default_rng(0).normal(0, noise, steps)
    return training((np.linspace(start, end, steps) + drawn).tolist())


def evaluations(pairs, stage="s"):
    return [
        {
            "kind": "validation",
            "stage": stage,
            "step": 10 * i,
            "train_loss": a,
            "validation_loss": b,
        }
        for i, (a, b) in enumerate(pairs, 1)
    ]


def abouts(found):
    return [one.about for one in found]


def test_nothing_is_said_of_a_good_run():
    assert of_run(VALUES, falling(0.7, 0.3), answers(160)) == []


def test_a_score_within_noise_of_the_larger_class():
    (found,) = of_run(VALUES, falling(0.7, 0.3), answers(108))
    assert found.about == "learned"
    assert "0.540 is not shown to be better than always answering 'a', 0.500" in found.words
    assert "the training loss fell, from" in found.words
    assert "train.lr" in found.advice
    (found,) = of_run(VALUES, falling(0.7, 0.695, 0.05), answers(108))
    assert "hardly fell" in found.words
    assert "train.epochs" in found.advice
    (found,) = of_run(VALUES, falling(0.7, 0.9), answers(108))
    assert "did not fall" in found.words
    assert "hardly" not in found.words
    assert of_run(VALUES, falling(0.7, 0.3), answers(130)) == []  # 0.65: noise does not reach it
    found = of_run(VALUES, falling(0.7, 0.3), answers(60))[0]
    assert "worse than" in found.words


def test_a_large_class_hides_what_was_learned():
    values = {**VALUES, "train_loss": 1.0}
    (found,) = of_run(values, falling(0.7, 0.3), answers(180, share=0.9))
    assert "macro_f1" in found.words
    f1 = {**values, "primary_metric": "macro_f1", "metrics": {"macro_f1": 0.7}}
    assert of_run(f1, falling(0.7, 0.3), answers(180, share=0.9)) == []


def test_a_training_loss_that_rose_though_the_score_is_good():
    (found,) = of_run(VALUES, falling(0.3, 0.4), answers(160))
    assert (found.about, "did not fall" in found.words) == ("learned", True)
    started = {**VALUES, "warm_start": {"task": "t"}}  # from where it had learned already
    assert of_run(started, falling(0.3, 0.4), answers(160)) == []


def test_numbers():
    drawn = np.random.default_rng(0)
    labels = drawn.normal(size=100)
    values = {**VALUES, "kind": "number", "primary_metric": "pearson", "metrics": {"pearson": 0.1}}

    def said(predictions):
        rows = [{"label": y, "prediction": p} for y, p in zip(labels, predictions, strict=True)]
        return of_run(values, falling(2, 1), rows)

    assert said(labels + drawn.normal(size=100) * 0.3) == []
    (found,) = said(drawn.normal(size=100) * 0.1)
    assert "no more than by chance (pearson 0.100)" in found.words
    (found,) = said(labels + 5)
    assert "worse than that of always answering the mean" in found.words


def test_text_is_judged_by_its_losses_alone():
    values = {**VALUES, "kind": "text", "primary_metric": "bleu", "metrics": {"bleu": 1.0}}
    rows = [{"source": "x", "prediction": "y"}] * 9
    assert of_run(values, falling(3, 1), rows) == []
    assert abouts(of_run(values, falling(3, 3.2), rows)) == ["learned"]


RISING = [(0.6, 0.6), (0.4, 0.45), (0.2, 0.6), (0.1, 0.9)]
HELD = {"trained_on": False, "examples": 400}


def test_over_fitting_over_the_records():
    lines = [*falling(0.7, 0.1), *evaluations(RISING)]
    values = {**VALUES, "validation": HELD}
    (found,) = of_run(values, lines, answers(160))
    assert found.about == "over-fitting"
    assert "from step 20 of 40 on" in found.words
    assert "engine.keep=best" in found.advice
    best = {**values, "kept": {"s": {"weights": "best", "step": 20}}}
    (found,) = of_run(best, lines, answers(160))
    assert "were kept" in found.words
    assert "early_stopping" in found.advice
    few = {**VALUES, "validation": {**HELD, "examples": 3}}  # the rise is within their noise
    assert of_run(few, lines, answers(160)) == []
    some = {"engine": {"evaluate_examples": 3}}  # of which so many are looked at
    assert of_run({**values, "configuration": some}, lines, answers(160)) == []
    late = [(0.6, 0.6), (0.4, 0.45), (0.2, 0.41), (0.1, 0.42)]
    assert of_run(values, evaluations(late), answers(160)) == []
    trained = {**VALUES, "validation": {**HELD, "trained_on": True}}
    assert of_run(trained, lines, answers(160)) == []


def test_probabilities_that_cost_more_than_shares():
    rows = [
        {**r, "probabilities": [0.999, 0.001] if r["prediction"] == "a" else [0.001, 0.999]}
        for r in answers(160)
    ]
    (found,) = of_run({**VALUES, "train_loss": 0.01}, falling(0.7, 0.01), rows)
    assert "higher than that of always giving the classes' shares, 0.693" in found.words
    assert "engine.keep=best" in found.advice
    kept = {**VALUES, "train_loss": 0.01, "kept": {"train": {"weights": "best", "step": 3}}}
    (found,) = of_run(kept, falling(0.7, 0.01), rows)
    assert "engine.keep" not in found.advice  # it is done already
    assert of_run({**VALUES, "train_loss": 0.9}, falling(0.7, 0.3), rows) == []  # not fitted at all


def test_upper_steps_and_ranks():
    values = {
        **VALUES,
        "engine": {"upper_steps": {"search": 49, "more": 50}},
        "decided": {"decided": False, "words": "these ranks are not decided: 3 of 9"},
    }
    upper, ranks = of_run(values, [], answers(160))
    assert (upper.about, ranks.about) == ("upper_steps", "ranks")
    assert "stage search took 49" in upper.words
    assert "train.batch_size" in upper.advice
    assert ranks.words == values["decided"]["words"]
    decided = {**VALUES, "decided": {"decided": None, "words": "not known"}}
    assert of_run(decided, [], answers(160)) == []


@pytest.mark.parametrize(
    ("kind", "score", "other", "words"),
    [
        ("classes", 0.80, 0.75, None),
        ("classes", 0.76, 0.75, "not shown to be better"),
        ("classes", 0.60, 0.75, "worse"),
        ("number", 1.0, 1.2, None),
        ("number", 1.2, 1.0, "worse"),
    ],
)
def test_beside_a_linear_probe(kind, score, other, words):
    beside = {"score": score, "other": other, "error": 0.02, "seconds": 3.0}
    values = {**VALUES, "kind": kind, "beside_probe": beside}
    found = of_run(values, [], [])
    assert len(found) == (words is not None)
    assert all(words in one.words and "method=linear_probe" in one.advice for one in found)


def test_several_runs_in_one_list():
    one = {"about": "learned", "words": "no better", "advice": "train longer"}
    runs = [{**VALUES, "seed": s, "verdict": [one] if s < 2 else []} for s in range(3)]
    said = of_runs([*runs, {**VALUES, "method": "full"}])
    assert said == ["lora on t, m, 2 of 3 seeds: seed 0: no better; train longer"]
    assert of_runs(runs[2:]) == []


def test_a_run_says_it_at_its_end_and_in_its_result(tiny, tmp_path, capsys):
    """Labels that have nothing to do with the texts."""
    rows = [{**row, "label": "np"[i % 2]} for i, row in enumerate(sentences(120))]
    data = write(tmp_path / "data", train=rows[:64], test=rows[64:])
    options = words(
        tiny, data, "method=lora", "method.rank=2", "run.probe=true", "train.max_steps=8"
    )
    main([*options, f"hydra.run.dir={tmp_path / 'run'}"])
    found = record.read(tmp_path / "run")
    assert {one["about"] for one in found["verdict"]} >= {"learned", "probe"}
    said = capsys.readouterr().out
    assert all(f"verdict   {one['words']}; {one['advice']}" in said for one in found["verdict"])
    assert found["beside_probe"]["metrics"].keys() == found["metrics"].keys()
    assert "by a linear map on the frozen model" in said


def test_a_probe_beside_a_run_is_that_of_the_method(tiny, tmp_path):
    data = write(tmp_path / "data", train=sentences(96), test=sentences(40, 1))
    options = words(tiny, data, "method=lora", "train.max_steps=1", "method.hold_out=0.25")
    beside = run(tmp_path / "run", [*options, "run.probe=true"])["beside_probe"]
    alone = ["method=linear_probe", "method.hold_out=0.25", "method.refit=false"]
    probe = run(tmp_path / "probe", words(tiny, data, *alone))
    assert beside["metrics"] == probe["metrics"]
    assert beside["penalty"] == probe["probe"]["penalty"]
    assert beside["loss"] == pytest.approx(probe["test_loss"], abs=1e-6)
    none = run(tmp_path / "twice", [*words(tiny, data, *alone), "run.probe=true"])
    assert none["beside_probe"] is None


def test_a_probe_chooses_its_own_threshold(tiny, tmp_path):
    """A rare label: above 0.5 is best for none, and a barely trained run's best is another's."""

    def part(count, seed):
        rows = sentences(count, seed)
        return [{**row, "label": row["label"] if i % 4 == 0 else ""} for i, row in enumerate(rows)]

    data = write(tmp_path / "data", train=part(96, 0), validation=part(40, 1), test=part(60, 2))
    more = ["task.multi_label=true", "task.threshold=validation", "task.label_separator=/"]
    options = words(tiny, data, *more, "method=lora", "train.max_steps=1", "run.probe=true")
    found = run(tmp_path / "run", options)
    probe = run(tmp_path / "probe", words(tiny, data, *more, "method=linear_probe"))
    assert probe["threshold"] != found["threshold"]
    assert found["beside_probe"]["metrics"] == probe["metrics"]


def test_no_probe_of_text(tmp_path):
    with pytest.raises(UserError, match=r"run\.probe=true.*no text"):
        run(tmp_path, ["task=demo_generation", "model=demo_causal", "run.probe=true"])


def test_a_test_of_one_class_shows_nothing() -> None:
    lines = [{"label": "a", "prediction": "a", "probabilities": [1.0, 0.0]} for _ in range(9)]
    values = {"kind": "classes", "primary_metric": "accuracy", "metrics": {"accuracy": 1.0}}
    assert verdict._no_better(values, lines) is None

"""``experiments.suspects`` on runs of every kind of task, and on wrong input."""

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from bilevel.errors import UserError
from experiments import evaluate, suspects
from experiments.cli.command_line import CommandLine
from experiments.comparing.variants import told_apart
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.results.finished_run import SavedRun
from experiments.suspecting.again import _targets, left_out, plan_of, trusting_task
from experiments.suspecting.apply import applied
from experiments.suspecting.find import Found, _ahead, find
from experiments.suspecting.models import look, slopes, trainable, trained_lora
from experiments.suspecting.scores import Scores
from experiments.tasks.demo_noisy import DemoNoisy
from experiments.tasks.reading.iob import to_iob2
from experiments.training.fine_tuning_job import FineTuningJob
from experiments.training.job import execute

FEW = ["folds=2", "epochs=1", "trusted_epochs=2"]


def made(quick: list[str], folder: Path, *words: str) -> Path:
    short = ["run.figures=false", "train.max_steps=4", "engine.evaluate_every=0"]
    execute(Plan.of(compose_config([*quick, *short, *words])), folder)
    return folder


@pytest.fixture(scope="module")
def trained(quick: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    return made(quick, folder, "task=demo_noisy", "task.trusted=20", "method=example_weights")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def lines(path: Path) -> list[dict[str, str]]:
    with open(path / "suspects.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        suspects.main(words)
    said = capsys.readouterr()
    assert stop.value.code == 2
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    return said.err


def test_every_training_example_has_a_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suspects.main([f"run={run}", *FEW])
    said = capsys.readouterr().out
    rows = lines(run)
    data = DemoNoisy(max_train=96, trusted=20).load()
    names = data.label_names or []
    assert len(rows) == len(data.train) == 76
    assert [int(row["rank"]) for row in rows] == list(range(1, 77))
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    by_row = {int(row["row"]): row for row in rows}
    for example in data.train:
        row = by_row[example.origin.number]
        assert row["given"] == names[example.label]
        assert row["true"] == names[example.origin.truth]
        assert row["score"] == row["pooled"]
    assert "AUC, of 30 wrong labels among 76" in said
    expected = sum(float(row["pooled"]) for row in rows)
    assert f"likelier wrong than right, and about {expected:.0f} are wrong in all" in said
    assert (run / "suspects.png").stat().st_size > 10_000
    weights = json.loads((run / "example_weights.json").read_text())["weights"]
    for example, weight in zip(data.train, weights, strict=True):
        found = float(by_row[example.origin.number]["weight"])
        assert found == pytest.approx(1 - weight, rel=1e-4)


def test_it_says_what_goes_on_while_models_train(trained: Path, tmp_path: Path) -> None:
    words = [f"run={trained}", *FEW, f"out={tmp_path / 'out'}"]
    command = [sys.executable, "-m", "experiments.suspects", *words]
    said = subprocess.run(command, check=True, capture_output=True, text=True)
    for line in ("fold 1 of 2", "fold 2 of 2: then on the trusted", "LoRA on the 20 trusted"):
        assert line in said.stderr
        assert line not in said.stdout


def test_what_is_left_and_the_trusted_ones_are_trained_on(run: Path) -> None:
    suspects.main([f"run={run}", *FEW, "apply=drop", "count=16"])
    result = json.loads((run / "suspects_drop" / "result.json").read_text())
    assert result["data"]["train"] == 80
    assert result["data"]["test"] == 80
    told = result["configuration"]["suspects"]
    assert (told["apply"], told["score"], told["count"]) == ("drop", "pooled", 16)
    assert told["trusted"] == 20
    assert any("used twice" in words for words in result["warnings"])
    assert result["method"] == "suspects_drop"
    assert list(result["processor_seconds"]) == list(result["seconds"]) == ["scores", "train"]
    evaluate.main([f"run={run / 'suspects_drop'}"])


def test_all_are_trained_on_under_the_likeliest_labels(run: Path) -> None:
    suspects.main([f"run={run}", *FEW, "apply=pooled"])
    result = json.loads((run / "suspects_pooled" / "result.json").read_text())
    assert result["data"]["train"] == 96
    for row in lines(run):  # of two classes
        assert float(row["sure"]) == pytest.approx(abs(1 - 2 * float(row["pooled"])), abs=1e-4)
        assert (row["proposed"] == row["given"]) == (float(row["pooled"]) <= 0.5)


def test_the_trusted_ones_are_trained_on_from_the_runs_weights(run: Path) -> None:
    suspects.main([f"run={run}", *FEW, "apply=then_trusted"])
    assert not (run / "suspects.csv").exists()  # no score has a say
    folder = run / "suspects_then_trusted"
    result = json.loads((folder / "result.json").read_text())
    assert result["data"]["train"] == 20
    assert result["warm_start"]["run"] == str(run.resolve())
    assert result["warm_start"]["method"] == "example_weights"
    evaluate.main([f"run={folder}"])


def test_what_is_not_taken_over_is_told_and_what_is_written_was_used(
    quick: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("task=demo_noisy", "task.max_train=96", "task.trusted=20", "task.max_test=80")
    own = ("train.label_smoothing=0.1", "train.warmup_steps=1", "method.optimizer.lr=2e-3")
    run = made(quick, tmp_path / "run", "method=lora", *words, *own)
    plan = plan_of(SavedRun.open(str(run), CommandLine.parse([]), []), 96)
    method: Any = plan.method
    assert method.optimizer.lr == 2e-3
    suspects.main([f"run={run}", *FEW, "apply=trusted"])
    said = capsys.readouterr().out
    assert "without train.label_smoothing=0.1, train.warmup_steps=1 of the run" in said
    folder = run / "suspects_trusted"
    result = json.loads((folder / "result.json").read_text())
    train = result["configuration"]["train"]
    assert (train["label_smoothing"], train["warmup_steps"]) == (0.0, None)
    assert train["epochs"] == 2.0
    assert result["configuration"]["method"]["optimizer"]["lr"] == 2e-3
    values = json.loads((run / "result.json").read_text())
    own = values["configuration"]["method"]
    own |= {"_target_": "problems.lora.LoRA", "ranks": "some.json", "peft": {"use_rslora": True}}
    own |= {"settings": {"decay": {"a": 0.1}, "dropout": {}, "found_with": {"rank": 8}}}
    (run / "result.json").write_text(json.dumps(values))
    again = SavedRun.open(str(run), CommandLine.parse([]), [])
    assert left_out(again)[2:] == [
        "method.ranks",
        "method.peft.use_rslora",
        "method.settings.decay",
    ]
    full: Any = compose_config(["method=full", "task=demo"]).method
    values["configuration"]["method"] = OmegaConf.to_container(full)
    (run / "result.json").write_text(json.dumps(values))
    other: Any = plan_of(SavedRun.open(str(run), CommandLine.parse([]), []), 96).method
    assert other.optimizer.lr is None, "2e-5 is for all weights"
    card = (folder / "adapter" / "README.md").read_text()
    assert "| suspects.apply | trusted |" in card
    two = [
        {**result, "seed": seed, "configuration": {**result["configuration"], "suspects": how}}
        for seed, how in enumerate(
            {"run": name, "apply": "drop", "score": "pooled", "count": None, "suspects": found}
            for name, found in (("a", 3), ("b", 4))
        )
    ]
    assert {r["variant"] for r in told_apart(two)} == {""}


def test_weights_of_a_tasks_own_stay_with_their_examples() -> None:
    data = DemoNoisy(max_train=14, trusted=4, label_noise=0.0).load()
    weights = tuple(float(i + 1) for i in range(len(data.train)))
    data = replace(data, weights=weights)
    score = np.arange(len(data.train), dtype=float)
    found = Found(Scores({"pooled": score}, 2), list(range(len(data.train))), score / 10)
    assert applied(data, found, "drop", "pooled", 2).weights == (*weights[:-2], 1, 1, 1, 1)
    pooled = applied(data, found, "pooled", "pooled", 0).weights
    assert pooled == pytest.approx((*(score / 10 * weights), 1, 1, 1, 1))
    assert applied(data, found, "trusted", "pooled", 0).weights is None


def test_weights_that_cannot_be_started_from_are_told_before_the_scores(
    quick: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("task=demo_tagging", "task.trusted=20", "task.label_noise=0.5")
    run = made(quick, tmp_path / "run", *words)
    said = refused([f"run={run}", *FEW, "apply=then_trusted"], capsys)
    assert "apply=then_trusted" in said
    assert "allowed are drop, relabel, pooled, trusted" in said
    assert not (run / "suspects.csv").exists()


def test_how_much_likelier_the_first_label_is_than_the_next() -> None:
    shares = np.array([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]])
    np.testing.assert_allclose(_ahead(shares), [0.2, 1.0])
    np.testing.assert_allclose(_ahead(np.ones((2, 1))), [1.0, 1.0])


MINE = """
from dataclasses import dataclass
from problems.lora import LoRA

@dataclass(frozen=True)
class Mine(LoRA):
    targets: str | None = "all"
"""


def test_where_the_methods_of_older_and_other_peoples_runs_put_their_adapters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class of the user's own is asked only in a folder that was named."""
    assert _targets({"_target_": "problems.salora_bilevel.SaLoRABilevel"}, []) == "all"
    mine = {"_target_": "method_of_suspects.Mine"}
    assert _targets({**mine, "targets": "all"}, []) == "all"
    (tmp_path / "method_of_suspects.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"method_of_suspects.*--config-dir"):
        _targets(mine, [])
    assert _targets(mine, ["method_of_suspects"]) == "all"


def test_what_becomes_of_the_suspects() -> None:
    data = DemoNoisy(max_train=14, trusted=4, label_noise=0.0).load()
    score = np.array([0.9, 0.1, 0.8, *[0.0] * 7])
    weight = np.linspace(0.1, 0.9, 10)
    sure = np.linspace(0.2, 1, 10)
    found = Found(Scores({"trusted": score, "weight": 1 - weight}, None), [1] * 10, sure)
    first, second, third, *others = data.train
    trusted = list(data.validation or ())

    def left(apply: Any) -> Any:
        return applied(data, found, apply, "trusted", 2)

    assert left("drop").train == [second, *others, *trusted]
    both = [first._replace(label=1), second, third._replace(label=1)]
    assert left("relabel").train == [*both, *others, *trusted]
    assert left("relabel").weights is None
    assert left("pooled").train == [*(e._replace(label=1) for e in data.train), *trusted]
    assert left("pooled").weights == pytest.approx([*sure, *[1.0] * 4])
    assert left("weight").train == [*data.train, *trusted]
    assert left("weight").weights == pytest.approx([*weight, *[1.0] * 4])
    assert left("trusted").train == left("then_trusted").train == trusted
    assert all(left(apply).validation is None for apply in ("drop", "relabel", "pooled", "weight"))


def test_a_users_own_file_with_a_column_of_right_labels(
    quick: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [f"the room was {word}" for word in ("cosy", "dull")] * 20
    rows = [
        "text,label,gold",
        *(f'"{t}\n",{"ab"[i % 3 == 0]},{"ab"[i % 2]}' for i, t in enumerate(texts)),
    ]
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.csv").write_text("\n".join(rows) + "\n")
    task = ["task=classification", f"task.data_dir={tmp_path}", "task.text_columns=[text]"]
    words = [word for word in quick if not word.startswith("task")]
    folder = made(words, tmp_path / "run", *task, "method=lora")
    suspects.main([f"run={folder}", *FEW, "task.true_label_column=gold", f"out={tmp_path / 'out'}"])
    found = lines(tmp_path / "out")
    written = (tmp_path / "train.csv").read_text().split("\n")
    for row in found:
        assert row["unit"] == "line"
        assert written[int(row["row"]) - 1].startswith('"the room')
        assert written[int(row["row"])] == f'",{row["given"]},{row["true"]}'
    assert "weight" not in found[0]
    assert (tmp_path / "out" / "suspects.png").is_file()
    suspects.main([f"run={folder}", *FEW, f"out={tmp_path / 'out'}"])  # nothing is known now
    assert "true" not in lines(tmp_path / "out")[0]
    assert not (tmp_path / "out" / "suspects.png").exists(), "of the table that was replaced"
    capsys.readouterr()
    assert refused([f"run={folder}", "score=weight"], capsys).count("example_weights")
    assert "apply=weight" in refused([f"run={folder}", "apply=weight"], capsys)
    # a label that the run's model has no output for: its rows are not left out in silence
    with open(tmp_path / "train.csv", "a") as file:
        file.write("a new room,c,a\n")
    said = refused([f"run={folder}"], capsys)
    assert "not trained for c" in said


def test_tags(quick: list[str], tmp_path: Path) -> None:
    options = ["task=demo_tagging", "task.trusted=20", "task.label_noise=0.4"]
    folder = made(quick, tmp_path / "run", *options, "method=example_weights")
    suspects.main([f"run={folder}", *FEW, "apply=pooled"])
    for row in lines(folder):
        assert 0 <= float(row["sure"]) <= 1
        assert len(row["given"].split()) == len(row["proposed"].split()) == len(row["true"].split())
        assert np.isfinite(float(row["confident"]))
        to_iob2(row["proposed"].split(), "iob2", str)  # or it says what is wrong


def test_numbers_have_no_confident_learning(
    quick: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"sentence1": "cosy", "sentence2": "dull", "label": i / 10} for i in range(40)]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = [word for word in quick if not word.startswith("task")]
    options = ["task=stsb", f"task.data_dir={tmp_path}", "task.trusted=12"]
    folder = made(words, tmp_path / "run", *options, "method=example_weights")
    suspects.main([f"run={folder}", *FEW, "apply=drop", "count=4"])
    first = lines(folder)[0]
    assert "confident" not in first
    assert not {"pooled", "sure"} & first.keys()
    assert first["score"] == first["combination"]
    assert float(first["proposed"])
    assert "combination    mean rank by the loss under models" in capsys.readouterr().out
    assert "score=pooled" in refused([f"run={folder}", "score=pooled"], capsys)
    for apply in ("apply=relabel", "apply=pooled"):
        assert apply in refused([f"run={folder}", apply], capsys)


def job_of(folder: Path) -> FineTuningJob:
    saved = SavedRun.open(str(folder), CommandLine.of_one([]), [])
    task = trusting_task(saved)
    return FineTuningJob.load(plan_of(saved, len(task.train)), replace(task, tests={}))


def test_slopes_are_the_products_of_gradients(trained: Path) -> None:
    """Against the gradient of one example at a time by autograd, without dropout, in float64."""
    job = job_of(trained)
    model = trained_lora(job, job.data, 1.0).double().eval()
    rows, trusted = list(job.data.examples[:6]), list(job.data.validation or ())
    weights = [p for p in model.parameters() if p.requires_grad]

    def gradient(some: list[dict[str, Any]]) -> list[torch.Tensor]:
        loss = model(**job.data.collate(some)).loss
        return list(torch.autograd.grad(loss, weights))

    along = gradient(trusted)
    length = sum(float(g.square().sum()) for g in along) ** 0.5
    expected = [
        sum(float((g * t).sum()) for g, t in zip(gradient([row]), along, strict=True)) / length
        for row in rows
    ]
    before = [w.detach().clone() for w in weights]
    found = slopes(model, job, rows, trusted)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6 * max(map(abs, expected)))
    assert all(torch.equal(a, w) for a, w in zip(before, weights, strict=True))


def test_a_model_goes_on_from_another(trained: Path) -> None:
    job = job_of(trained)
    rows = list(job.data.examples)
    first = trained_lora(job, job.data, 1.0)
    still = replace(job, settings=replace(job.settings, lr=1e-12))
    same = trained_lora(still, job.data, 1.0, trainable(first))
    new = trained_lora(still, job.data, 1.0)
    losses = look(first, job, rows).losses
    assert look(same, job, rows).losses == pytest.approx(losses, abs=1e-6)
    assert np.abs(look(new, job, rows).losses - losses).max() > 1e-3


def test_the_models_of_a_fold_have_seen_neither_it_nor_the_trusted_part_asked_of(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What each model was trained on, through the model that it went on from, too."""
    job = job_of(trained)
    seen: dict[int, set[tuple[int, ...]]] = {}
    asked: set[tuple[int, ...]] = set()
    kept: list[Any] = []  # or a number would come back as that of another model

    def key(row: dict[str, Any]) -> tuple[int, ...]:
        return tuple(row["input_ids"])

    def training(job: Any, data: Any, epochs: float, start: Any = None) -> Any:
        model = trained_lora(job, data, epochs, start)
        kept.append(model)
        before = set() if start is None else seen[starts[id(start)]]
        seen[id(model)] = before | {key(row) for row in data.examples}
        return model

    def looking(model: Any, job: Any, rows: Any) -> Any:
        mine = {key(row) for row in rows}
        unseen.append(not mine & seen[id(model)])
        asked.update(mine)
        return look(model, job, rows)

    def weights(model: Any) -> Any:
        kept.append(found := trainable(model))
        starts[id(found)] = id(model)
        return found

    unseen: list[bool] = []
    starts: dict[int, int] = {}
    monkeypatch.setattr("experiments.suspecting.find.trainable", weights)
    monkeypatch.setattr("experiments.suspecting.find.trained_lora", training)
    monkeypatch.setattr("experiments.suspecting.find.look", looking)
    found = find(job, trained, 2, 1.0, 2.0)
    # of each fold: itself by both models; the seen examples' losses; five parts by two models
    assert (sum(unseen), len(unseen)) == (2 * 2 + 5 * 2 + 1, 2 * 3 + 5 * 2 + 1)
    assert asked == {key(row) for row in [*job.data.examples, *(job.data.validation or ())]}
    assert np.isfinite(found.scores.columns["then_trusted"]).all()


WRONG = {
    "folds=1": "folds 2",
    "score=wieght": "score pooled",
    "apply=delete": "apply drop",
    "count=0": "count 1",
    "apply=trusted score=pooled": "score apply",
    "fold=3": "unknown folds",
    "method=lora": "unknown allowed",
}


@pytest.mark.parametrize("word", WRONG)
def test_wrong_words_are_told(word: str, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused([f"run={trained}", *word.split()], capsys)
    assert all(part in said for part in WRONG[word].split())


def test_a_run_without_trusted_examples_is_refused(
    quick: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = made(quick, tmp_path / "run", "method=lora")
    said = refused([f"run={folder}"], capsys)
    assert "file validation" in said
    assert "task.trusted" not in said  # which its task has not
    words = ("task=demo_noisy", "task.trusted=null", "method=lora")
    folder = made(quick, tmp_path / "noisy", *words)
    said = refused([f"run={folder}"], capsys)
    assert "task.trusted=N" in said
    assert "trusted_file" not in said


def test_other_training_data_and_damaged_weights_are_told(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "other training examples" in refused([f"run={run}", "task.noise_seed=1"], capsys)
    path = run / "example_weights.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "weights": ["a"]}))
    assert "damaged" in refused([f"run={run}"], capsys)
    (run / "suspects_drop").mkdir()
    assert "there already" in refused([f"run={run}", "apply=drop"], capsys)


def test_what_a_strangers_folder_says_of_its_method_is_not_called(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "result.json"
    values = json.loads(path.read_text())
    marker = run / "called"
    values["configuration"]["method"]["_target_"] = "os.mkdir"
    values["configuration"]["method"]["path"] = str(marker)
    (run / "checkpoints" / "evil.pt").write_bytes(
        b"cos\nmkdir\n(S'" + str(marker).encode() + b"'\ntR."
    )
    suspects.main([f"run={run}", *FEW])
    assert not marker.exists()
    path.write_text(json.dumps(values))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        suspects.main([f"run={run}", *FEW])
    assert "os.mkdir: only classes of" in capsys.readouterr().err
    assert not marker.exists()

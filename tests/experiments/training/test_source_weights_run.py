"""A run that learns the weights of sources, and one that is trained under them."""

import json

import pytest

from bilevel import UserError
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.run import main
from experiments.training.fine_tuning_job import load_task

FEW = ["task=demo_sources", "task.each=40", "task.max_test=40", "task.max_validation=24"]


@pytest.fixture
def run(quick, tmp_path, monkeypatch):
    """Runs with more words; returns the folder."""
    words = [w for w in quick if not w.startswith(("task", "train.epochs"))]

    def run(name, *more):
        folder = tmp_path / name
        monkeypatch.setattr("sys.argv", ["run"])
        main([*words, *FEW, "train.epochs=4", *more, f"hydra.run.dir={folder}"])
        return folder

    return run


def test_weights_are_learned_told_and_used(run, capsys):
    first = run("first", "method=source_weights", "method.unroll_steps=1", "method.sampling=draw")
    result = json.loads((first / "result.json").read_text())
    table = result["source_weights"]
    names = {"clean", "shuffled", "flipped", "visits"}
    assert {row["source"] for row in table["sources"]} == names
    assert sum(table["weights"].values()) == pytest.approx(1, abs=1e-5)
    assert {row["verdict"] for row in table["sources"]} <= {"helps", "neutral", "harms"}
    assert result["data"]["validation"] == 24
    assert (first / "figures" / "source_weights.png").is_file()
    assert not (first / "figures" / "watched.png").exists()
    said = capsys.readouterr()
    assert "clean 40, shuffled 40, flipped 40, visits 40" in said.out + said.err
    assert "sources   " in said.out + said.err

    path = first / "source_weights.json"
    assert json.loads(path.read_text())["weights"] == table["weights"]
    second = run("second", "method=lora", f"task.source_weights={path}", "run.figures=false")
    result = json.loads((second / "result.json").read_text())
    assert result["data"]["train"] == 160
    assert result["source_weights"] is None


@pytest.mark.parametrize("estimator", ["penalty", "unrolled"])
def test_weights_that_descend_the_loss_on_d_val_are_told(run, estimator):
    few = ["train.max_steps=2", "run.figures=false", f"hypergradient={estimator}"]
    result = json.loads((run("told", "method=source_weights", *few) / "result.json").read_text())
    told = [words for words in result["warnings"] if "D_train and D_val together" in words]
    assert len(told) == (estimator == "penalty")


def test_d_val_of_a_trusted_source_is_none_of_its_examples(run):
    words = ["method.trusted=clean", "method.split=0.5", "train.max_steps=4", "run.figures=false"]
    folder = run("trusted", "method=source_weights", *words)
    result = json.loads((folder / "result.json").read_text())
    sizes = {row["source"]: row["examples"] for row in result["source_weights"]["sources"]}
    assert sizes == {"clean": 20, "shuffled": 40, "flipped": 40, "visits": 40}
    assert sum(sizes.values()) == result["data"]["train"]


def refused(*words):
    plan = Plan.of(compose_config([*words, "model=demo"]))
    with pytest.raises(UserError) as error:
        load_task(plan)
    return str(error.value)


def test_files_of_sources_on_the_command_line(tmp_path):
    (tmp_path / "clean.csv").write_text("text,label\nx,a\ny,b\n")
    said = refused(
        "method=source_weights",
        "task=classification",
        f"task.data_dir={tmp_path}",
        "task.text_columns=[text]",
        "task.sources={clean: clean.csv, web: no/web.csv}",
    )
    assert "no/web.csv" in said
    assert "'web'" in said


def test_refusals_come_before_the_model():
    assert "task.source_column" in refused("method=source_weights", "task=demo")
    drawn = refused("method=source_weights", *FEW, "task.source_weights=uniform")
    assert "task.source_weights" in drawn
    trusted = ("method.trusted=cleam", "method.split=0.5")
    assert "did you mean 'clean'" in refused("method=source_weights", *FEW, *trusted)


def test_what_decides_is_told_where_it_counts_sources_alike(quick, caplog):
    """Held-out rows of sources that are drawn by weights; not a validation split of its own."""
    words = [w for w in quick if not w.startswith(("task", "train.epochs", "method.rank"))]

    def told(*more):
        caplog.clear()
        task = load_task(Plan.of(compose_config([*words, *FEW, *more])))
        return [warning for warning in task.warnings if "task.source_weights" in warning]

    weighted = "task.source_weights=uniform"
    assert len(told("method=lora", "method.hold_out=0.2", weighted)) == 1
    assert "method.hold_out=0.2" in caplog.text
    assert len(told("method=random_settings", weighted)) == 1
    for quiet in (
        ["method=lora", "method.hold_out=0.2"],
        ["method=lora", weighted],
        ["method=autolora", weighted],
        ["method=linear_probe", weighted],
    ):
        assert not told(*quiet), quiet


def test_a_random_share_of_all_sources_is_refused(quick, tmp_path):
    (tmp_path / "train.csv").write_text(
        "text,label,site\n"
        + "".join(f"word {i},{'ab'[i % 2]},{'xy'[i // 2 % 2]}\n" for i in range(80))
    )
    (tmp_path / "test.csv").write_text("text,label\nword 1,a\nword 2,b\n")
    words = [w for w in quick if not w.startswith("task")]
    words += ["task=classification", f"task.data_dir={tmp_path}", "task.text_columns=[text]"]
    words += ["task.source_column=site", "task.trusted=8", "method=source_weights"]
    with pytest.raises(UserError, match=r"task\.trusted draws them from all sources"):
        load_task(Plan.of(compose_config(words)))
    assert load_task(Plan.of(compose_config([*words, "method=lora"]))).validation

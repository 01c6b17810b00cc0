"""``experiments.ranks``: on whose examples it draws the frontier, and what it writes."""

import json
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForSequenceClassification

from bilevel.cutting import Cut, Ranking
from bilevel.errors import UserError
from bilevel.lowrank import lora_layers
from experiments import ranks
from experiments.ranks import describe
from experiments.training import trained_adapter
from experiments.training.untrained import why_none
from problems.common import FineTuning
from tests.experiments.training import own_files

Seen = list[tuple[tuple[int, ...], int]]


def row_of(row: dict[str, Any]) -> tuple[tuple[int, ...], int]:
    return tuple(int(i) for i in row["input_ids"]), int(row["labels"])


@pytest.fixture(scope="module")
def trained(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Seen]:
    """A run that kept 30 % apart, and all the examples that its one epoch trained on."""
    folder = tmp_path_factory.mktemp("ranks")
    data = own_files.write(
        folder / "data", train=own_files.sentences(80), test=own_files.sentences(24, 2)
    )
    seen: Seen = []
    with pytest.MonkeyPatch.context() as patch:
        step = FineTuning.training_step

        def recorded(self: Any, batch: dict[str, torch.Tensor]) -> Any:
            for i, mask in enumerate(batch["attention_mask"].bool()):
                row = {"input_ids": batch["input_ids"][i][mask], "labels": batch["labels"][i]}
                seen.append(row_of(row))
            return step(self, batch)

        patch.setattr(FineTuning, "training_step", recorded)
        words = own_files.words(tiny, data, "method=lora", "method.hold_out=0.3", "method.rank=4")
        own_files.run(folder / "run", [*words, "train.epochs=1", "train.batch_size=7"])
    return folder, seen


@pytest.fixture
def copied(trained: tuple[Path, Seen], tmp_path: Path) -> Path:
    """A copy of the run to write into."""
    shutil.copytree(trained[0] / "run", tmp_path / "run")
    return tmp_path


def found_by(folder: Path, *words: str) -> dict[str, Any]:
    ranks.main([f"run={folder / 'run'}", f"out={folder}", *words])
    found: dict[str, Any] = json.loads((folder / "ranks.json").read_text())
    return found


def refused(capsys: Any, *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        ranks.main(list(words))
    assert stop.value.code == 2
    said: str = capsys.readouterr().err
    return said


def test_the_frontier_is_drawn_on_what_was_kept_apart(
    trained: tuple[Path, Seen], copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: Seen = []
    measure = trained_adapter.example_losses

    def recorded(model: Any, task: Any, rows: Any, collate: Any) -> Any:
        drawn[:] = [row_of(row) for row in rows]
        return measure(model, task, rows, collate)

    monkeypatch.setattr(trained_adapter, "example_losses", recorded)
    found = found_by(copied)
    _, seen = trained
    assert len(seen) == 56
    assert len(drawn) == found["examples"] == 24
    tokenizer_rows = Counter(seen) + Counter(drawn)
    assert sum(tokenizer_rows.values()) == 80
    # each example of the file once, trained on or drawn by: none of the test set, none twice
    lines = (trained[0] / "data" / "train.csv").read_text().splitlines()[1:]
    sentences = Counter(lines)
    assert sorted(tokenizer_rows.values()) == sorted(sentences.values())
    assert "method.hold_out=0.3" in found["examples_from"]


def test_what_it_writes_loads_in_stock_peft(tiny: Path, copied: Path) -> None:
    found = found_by(copied, "budget=0.4")
    assert found["criterion"] == "singular"
    assert found["parameters"] <= 0.4 * found["whole_parameters"]
    assert found["frontier"][0]["components"] == 0
    base = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=2)
    model = PeftModel.from_pretrained(base, str(copied / "ranks" / "adapter_compact"))
    kept = {name: layer.r["default"] for name, layer in lora_layers(model).items()}
    assert kept == {name: rank for name, rank in found["ranks"].items() if rank}
    config = json.loads((copied / "ranks" / "lora_config.json").read_text())
    fields = {k: v for k, v in config.items() if k in LoraConfig.__dataclass_fields__}
    assert set(LoraConfig(**fields).target_modules) == set(kept)


def test_the_test_set_says_nothing(trained: tuple[Path, Seen], copied: Path) -> None:
    before = found_by(copied, "errors=2.5")
    assert before["errors"] == 2.5
    place = trained[0] / "data" / "test.csv"
    kept = place.read_text()
    try:
        own_files.write(place.parent, test=own_files.sentences(24, 2, wrong=True))
        assert place.read_text() != kept
        assert found_by(copied, "errors=2.5") == before
    finally:
        place.write_text(kept)


def test_training_data_that_changed_are_refused(
    trained: tuple[Path, Seen], copied: Path, capsys: Any
) -> None:
    place = trained[0] / "data" / "train.csv"
    kept = place.read_text()
    try:
        own_files.write(place.parent, train=own_files.sentences(80, 9))
        said = refused(capsys, f"run={copied / 'run'}", f"out={copied}")
        assert "not what they were" in said
        assert "budget" in said
        assert not (copied / "ranks.json").exists()
        told = found_by(copied, "parameters=600")  # which needs no examples
        assert told["frontier"] is None
        assert 0 < told["parameters"] <= 600
    finally:
        place.write_text(kept)


def test_its_own_data_in_another_place_are_known_again(
    trained: tuple[Path, Seen], copied: Path
) -> None:
    expected = found_by(copied)
    moved = shutil.copytree(trained[0] / "data", copied / "moved")
    assert found_by(copied, f"task.data_dir={moved}") == expected


def validation_of(folder: Path, trained: tuple[Path, Seen], lines: list[str]) -> str:
    """Words for data with this validation file, and another training file than the run's."""
    own_files.write(folder, train=own_files.sentences(40, 5), test=own_files.sentences(24, 2))
    (folder / "validation.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    return f"task.data_dir={folder}"


def test_what_was_trained_on_is_left_out_of_a_validation_file_given_now(
    trained: tuple[Path, Seen], copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of the run's training file, of which it kept 24 lines apart, some of them twice in it."""
    drawn: Seen = []
    measure = trained_adapter.example_losses

    def recorded(model: Any, task: Any, rows: Any, collate: Any) -> Any:
        drawn[:] = [row_of(row) for row in rows]
        return measure(model, task, rows, collate)

    monkeypatch.setattr(trained_adapter, "example_losses", recorded)
    found_by(copied)
    known = {tokens for tokens, _ in trained[1]}
    expected = [row for row in drawn if row[0] not in known]
    assert expected
    lines = (trained[0] / "data" / "train.csv").read_text().splitlines()[1:]
    found = found_by(copied, validation_of(copied / "other", trained, lines))
    assert sorted(drawn) == sorted(expected)
    assert found["examples"] == len(expected)
    assert f"but for {80 - len(expected)} that the run trained on" in found["examples_from"]


@pytest.mark.parametrize("name", ["activation", "greedy", "gates", "saliency"])
def test_criteria_with_data_leave_half_to_the_frontier(copied: Path, name: str) -> None:
    found = found_by(copied, f"criterion={name}", "rank=1")
    assert (found["criterion"], found["examples"]) == (name, 12)
    assert sum(found["ranks"].values()) == len(found["ranks"])


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("criterion=sigma", "allowed are"),
        ("budget=1.5", "budget"),
        ("budget=0.5 rank=1", "twice"),
        ("parameters=99999999", "parameters="),
        ("parameters=0", "1 or more"),
        ("rank=0", "1 or more"),
        ("examples=3 criterion=activation", "examples=3: criterion=activation needs 4"),
    ],
)
def test_wrong_words(trained: tuple[Path, Seen], capsys: Any, word: str, said: str) -> None:
    assert said in refused(capsys, f"run={trained[0] / 'run'}", *word.split())


def test_a_run_that_kept_nothing_apart_is_told_how(
    tiny: Path, trained: tuple[Path, Seen], tmp_path: Path, capsys: Any, caplog: Any
) -> None:
    words = own_files.words(tiny, trained[0] / "data", "method=lora", "train.max_steps=2")
    own_files.run(tmp_path / "run", words)
    run = f"run={tmp_path / 'run'}"
    assert "method.hold_out=0.2" in refused(capsys, run)
    lines = (trained[0] / "data" / "train.csv").read_text().splitlines()[1:]
    flipped = {"pos": "neg", "neg": "pos"}  # a text that was trained on with another label
    lines[:9] = [
        f"{text},{flipped[label]}" for text, _, label in (x.rpartition(",") for x in lines[:9])
    ]
    data = validation_of(tmp_path / "other", trained, lines)
    assert "token for token" in refused(capsys, run, data)
    record = tmp_path / "run" / "trained_on.txt"
    record.write_text("0123456789ab\nno checksum\n")
    assert "trained_on.txt is damaged" in refused(capsys, run, data)
    record.unlink()  # as of an older run
    assert found_by(tmp_path, data, "rank=1")["examples"] == 80
    assert "does not say which examples it trained on" in caplog.text


def test_a_validation_file_will_do(tiny: Path, tmp_path: Path) -> None:
    """Its weights are those of the first of two epochs; they learned nothing, told or not."""
    data = own_files.three_files(tmp_path / "data")
    words = own_files.words(tiny, data, "method=lora", "train.batch_size=4")
    result = own_files.run(tmp_path / "run", [*words, "engine.evaluate_every=1"])
    assert result["kept"]["train"] == {"weights": "best", "step": 16}
    found = found_by(tmp_path, "rank=1")
    assert found["examples_from"] == "the validation file"
    assert found["examples"] == 24
    assert found["learned"] is False
    assert found["decided"]["decided"] is None
    assert "nothing was learned" in found["decided"]["words"]


def test_a_validation_file_that_an_upper_level_learned_on_will_not(
    tiny: Path, tmp_path: Path, capsys: Any
) -> None:
    """Its last stage left the file alone, and its first chose the ranks by it."""
    data = own_files.three_files(tmp_path / "data")
    words = ["method=autolora", "method.split=null", "method.rank=4", "engine.keep=last"]
    result = own_files.run(tmp_path / "run", own_files.words(tiny, data, *words))
    assert result["validation"]["source"] == "validation"
    assert result["validation"]["trained_on"]
    assert "trained on" in refused(capsys, f"run={tmp_path / 'run'}")


def test_a_validation_file_that_was_the_test_will_not(
    tiny: Path, tmp_path: Path, capsys: Any
) -> None:
    """A test file that comes later makes the file that the run was tested on a validation file."""
    data = own_files.three_files(tmp_path / "data")
    test = (tmp_path / "data" / "test.csv").rename(tmp_path / "later.csv")
    result = own_files.run(tmp_path / "run", own_files.words(tiny, data, "method=lora"))
    assert result["test_source"] == "validation"
    test.rename(tmp_path / "data" / "test.csv")
    assert "was tested on" in refused(capsys, f"run={tmp_path / 'run'}")


def test_trusted_examples_are_no_such_file(tiny: Path, tmp_path: Path) -> None:
    data = own_files.three_files(tmp_path / "data")
    (tmp_path / "data" / "test.csv").unlink()
    words = own_files.words(tiny, data, "method=lora", "task.trusted=16", "train.max_steps=2")
    assert own_files.run(tmp_path / "run", words)["test_source"] == "validation"
    assert found_by(tmp_path, "rank=1")["examples"] == 16


def test_what_the_run_before_was_trained_on_is_left_out(
    tiny: Path, trained: tuple[Path, Seen], tmp_path: Path, capsys: Any
) -> None:
    """Whether the share is cut by in the run (its own words), or afterwards."""
    data = trained[0] / "data"
    before = tmp_path / "before"
    steps = ["train.max_steps=2", f"model.warm_start={before}"]
    own_files.run(before, own_files.words(tiny, data, "method=lora", steps[0]))
    words = own_files.words(tiny, data, "method=lora", "method.hold_out=0.3", *steps)
    own_files.run(tmp_path / "run", words)
    assert "trained on" in refused(capsys, f"run={tmp_path / 'run'}")
    words = own_files.words(tiny, data, "method=lora_cut", *steps)
    with pytest.raises(UserError, match=r"model\.warm_start's run was"):
        own_files.run(tmp_path / "cut", words)


def test_of_a_runs_adapter_the_run_says_what_it_was_trained_on(
    tiny: Path, copied: Path, trained: tuple[Path, Seen], capsys: Any
) -> None:
    lines = (trained[0] / "data" / "train.csv").read_text().splitlines()[1:]
    new = [f"never seen number {i},{'pos' if i % 2 else 'neg'}" for i in range(30)]
    data = validation_of(copied / "other", trained, [*lines, *new])
    words = [f"adapter={copied / 'run' / 'adapter_compact'}", f"model.pretrained={tiny}", "rank=1"]
    words += ["task=classification", "task.text_columns=[text]", data, f"out={copied / 'out'}"]
    ranks.main(words)
    found = json.loads((copied / "out" / "ranks.json").read_text())
    kept = json.loads((copied / "run" / "result.json").read_text())["validation"]["examples"]
    assert found["examples"] == 30 + kept
    assert "the run it lies in was trained on" in found["examples_from"]
    shutil.move(copied / "run" / "adapter_compact", copied / "alone")
    ranks.main([f"adapter={copied / 'alone'}", *words[1:-1], f"out={copied / 'out'}"])
    found = json.loads((copied / "out" / "ranks.json").read_text())
    assert found["examples"] == len(lines) + 30
    assert "is taken not to have been trained on" in found["examples_from"]


def test_anybodys_adapter(tiny: Path, copied: Path, capsys: Any) -> None:
    adapter = copied / "run" / "adapter_compact"
    words = [f"adapter={adapter}", f"out={copied}"]
    assert "model.pretrained" in refused(capsys, *words)
    words += [f"model.pretrained={tiny}"]
    assert "task=" in refused(capsys, *words)
    ranks.main([*words, "rank=1"])
    found = json.loads((copied / "ranks.json").read_text())
    assert sum(found["ranks"].values()) == len(found["ranks"])
    assert found["frontier"] is None
    ranks.main([*words, "budget=0.5"])  # a second call replaces the first one's
    again = json.loads((copied / "ranks.json").read_text())
    assert again["parameters"] > found["parameters"]


def test_too_few_examples_are_told_with_what_to_give(
    trained: tuple[Path, Seen], tmp_path: Path, tiny: Path, capsys: Any
) -> None:
    """One is left of a validation file of which the others were trained on."""
    lines = (trained[0] / "data" / "train.csv").read_text().splitlines()[1:]
    data = validation_of(tmp_path / "other", trained, [*lines, "a text of its own,pos"])
    words = own_files.words(tiny, trained[0] / "data", "method=lora", "train.max_steps=2")
    own_files.run(tmp_path / "run", words)
    run = f"run={tmp_path / 'run'}"
    said = refused(capsys, run, data)
    assert "needs 2 held-out examples" in said
    assert "not 1 (the validation file" in said
    assert "method.hold_out=0.2" in said
    assert "budget=0.25" in said
    assert "needs 4 held-out" in refused(capsys, run, data, "criterion=activation", "rank=1")
    assert found_by(tmp_path, data, "rank=1")["frontier"] is None


def test_a_sweeps_folder_names_its_runs(
    trained: tuple[Path, Seen], tmp_path: Path, capsys: Any
) -> None:
    shutil.copytree(trained[0] / "run", tmp_path / "sweep" / "0")
    said = refused(capsys, f"run={tmp_path / 'sweep'}")
    assert f"it holds 1 of them, as a sweep's folder does; give one, run={tmp_path}" in said


@pytest.mark.parametrize(
    ("method", "engine", "said"),
    [
        ({"finish_epochs": 1.0}, {"T1": None}, "finish_epochs=1"),
        ({"hold_out": 0.1}, {"T1": 4}, "in the end, with all"),  # autolora_singular
        ({}, {"T1": None}, "in the end, with all"),  # random_settings
        ({}, {"T1": 1}, "by its upper level"),
        ({}, None, "by its upper level"),  # of an older version
    ],
)
def test_how_d_val_came_to_be_trained_on_is_said(
    method: dict[str, Any], engine: dict[str, Any] | None, said: str
) -> None:
    found = {"source": "training", "trained_on": True}
    result = {"configuration": {"method": method}, "engine": engine, "validation": found}
    run: Any = SimpleNamespace(result=result)
    task: Any = SimpleNamespace(validation=None, train=[1])
    why = why_none(run, task, changed=False)
    assert why is not None
    assert said in why
    assert "method=lora method.hold_out=0.2" in why


@pytest.mark.parametrize("counted", [12, 24, None])
def test_zeros_of_fused_layers_are_told(counted: int | None) -> None:
    scores = {"c_attn": torch.tensor([2.0, 1.0], dtype=torch.float64)}
    whole = Ranking(scores, {"c_attn": 12})
    result = {} if counted is None else {"adapter_parameters": counted}
    trained: Any = SimpleNamespace(title="a run", result=result)
    said = describe(Cut("singular", whole, None, None), trained)
    assert ("without the zeros" in said) == (counted == 12)

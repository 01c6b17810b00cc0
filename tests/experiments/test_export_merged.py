"""``export merge=true``: what is left on the disk does what the adapter does, or nothing is."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from bilevel.errors import UserError
from bilevel.lowrank import merging
from bilevel.lowrank.merging import logits
from experiments import export
from experiments.answers import CHOICES, TEXT, Answers
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.models.spec import ModelSpec
from experiments.results.finished_run import SavedRun
from experiments.training.job import execute
from tests.experiments import writers
from tests.experiments.refusals import refused
from tests.experiments.training.own_files import run, sentences, words, write

PAIRS = [{**row, "other": row["text"]} for row in sentences(24)]


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose adapter is on the output layer of a model that shares it with the embeddings."""
    folder = tmp_path_factory.mktemp("tied")
    writers.folder(folder / "model", "gpt2")
    for split in ("train", "test"):
        rows = [{"source": f"w{i % 9} w1", "target": f"w{(i + 3) % 9}"} for i in range(8)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["task=text_to_text", f"task.data_dir={folder}", "model=hub", "method=lora"]
    words += ["task.source_column=source", "task.target_column=target", "task.metrics=[bleu]"]
    words += [f"model.pretrained={folder / 'model'}", "task.decoding.max_new_tokens=2"]
    words += ["train.target_modules=[lm_head]", "train.lr=0.5", "train.batch_size=4"]
    words += ["train.epochs=3", "engine.precision=fp32", "run.figures=false"]
    execute(Plan.of(compose_config(words)), folder / "run")
    return folder


def test_a_tied_output_layer(tied: Path, tmp_path: Path, capsys: Any) -> None:
    export.main([f"run={tied / 'run'}", f"out={tmp_path}", "merge=true"])
    assert float(capsys.readouterr().out.rsplit(" ", 1)[1]) < 1e-4
    ids = torch.tensor([[4, 5, 6, 7]])
    stock = AutoModelForCausalLM.from_pretrained(tied / "model")
    with torch.no_grad():
        plain = stock(ids).logits
        expected = PeftModel.from_pretrained(stock, str(tied / "run" / "adapter"))(ids).logits
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(ids).logits
    assert (expected - plain).abs().max() > 1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]
    with pytest.raises(SystemExit) as stop:
        export.main([f"run={tied / 'run'}", f"out={tmp_path}", "merge=true"])
    assert stop.value.code == 2
    assert "is there already: give another folder by out=" in capsys.readouterr().err


def test_a_full_disk_leaves_nothing_in_the_way(
    tied: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    with pytest.raises(SystemExit) as stop:
        export.main([f"run={tied / 'run'}", f"out={tmp_path / 'out'}", "merge=true"])
    assert stop.value.code == 2
    assert "free some space" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*"))


@pytest.mark.parametrize("call", [1, 2])
def test_a_model_that_differs_is_not_left_behind(
    call: int, tied: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither after merging nor after writing and reading back."""
    differences = iter([0.0] * (call - 1) + [9e9])
    monkeypatch.setattr(merging, "largest_difference", lambda *_: next(differences))
    with pytest.raises(SystemExit) as stop:
        export.main([f"run={tied / 'run'}", f"out={tmp_path / 'out'}", "merge=true"])
    assert stop.value.code == 2
    assert "more than the tolerance" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*"))


def test_adapters_that_are_there_are_not_replaced(tied: Path, tmp_path: Path, capsys: Any) -> None:
    """They may be another run's, whose result they would then belie."""
    kept = tmp_path / "adapter_compact"
    kept.mkdir()
    (kept / "adapter_model.safetensors").write_text("another's")
    assert "is there already" in refused(
        export.main, [f"run={tied / 'run'}", f"out={tmp_path}"], capsys
    )
    assert [path.name for path in tmp_path.iterdir()] == ["adapter_compact"]
    for _ in range(2):  # its own folder is written anew
        export.main([f"run={tied / 'run'}"])


@pytest.fixture(scope="module")
def moved(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on pairs of texts, whose files are no longer there."""
    folder = tmp_path_factory.mktemp("moved")
    data = write(folder / "data", train=PAIRS, test=PAIRS)
    options = words(tiny, data, "method=lora", "train.max_steps=1")
    run(folder / "run", [*options, "task.text_columns=[text,other]"])
    shutil.rmtree(data)
    return folder / "run"


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_without_the_data(form: str, moved: Path, tmp_path: Path, capsys: Any) -> None:
    export.main([f"run={moved}", f"out={tmp_path}", f"merge={form == 'merged'}"])
    said = capsys.readouterr().out
    assert ("not compared on test examples: the data are not here" in said) == (form == "merged")
    for place in (moved / "adapter", tmp_path / form):  # the card still asks for pairs
        assert "The second text." in (place / "README.md").read_text()


def test_data_that_are_named_must_be_there(moved: Path, tmp_path: Path, capsys: Any) -> None:
    for merge in ("true", "false"):
        given = [f"run={moved}", f"out={tmp_path}", f"merge={merge}"]
        said = refused(export.main, [*given, f"task.data_dir={tmp_path / 'none'}"], capsys)
        assert str(tmp_path / "none") in said


@pytest.mark.parametrize("kind", ["gpt2", "bart"])
def test_made_up_texts_suit_a_writer(kind: str, tmp_path: Path) -> None:
    answers = Answers(TEXT, 0)
    spec = ModelSpec(name="x", pretrained=str(writers.folder(tmp_path, kind)))
    loaded = spec.load(answers, 0)
    assert logits(loaded.model, export._made_up(loaded, answers)).isfinite().all()


def test_made_up_choices(tiny: Path) -> None:
    answers = Answers(CHOICES, 3, ("A", "B", "C"))
    loaded = ModelSpec(name="x", pretrained=str(tiny)).load(answers, 0)
    assert logits(loaded.model, export._made_up(loaded, answers)).shape == (export.BATCH, 3)


@pytest.mark.parametrize("probe", [None, {"pooling": "head"}])
def test_a_quantised_base_is_told_with_the_way_out(probe: Any, tmp_path: Path) -> None:
    config = OmegaConf.create({"model": {"quantization": "4bit"}})
    saved = SavedRun(tmp_path, config, {"probe": probe, "method": "lora"}, [])
    with pytest.raises(UserError, match=r"4bit.*model\.quantization=null"):
        export._refuse_other_forms(saved, merge=True)

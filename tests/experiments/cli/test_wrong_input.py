"""Mistakes on the command line: one sentence, exit status 2, and nothing left behind."""

import os
from pathlib import Path

import pytest

from experiments.run import main


def said(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """What the program says on stderr; it must be one line, and the exit status 2."""
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert len(text.splitlines()) == 1
    return text


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


CASES = {
    "unknown method": (
        ["method=autolara"],
        ["method 'autolara'", "adalora, autolora, autolora_hard", "mean 'auto"],
    ),
    "unknown task": (["task=sst3"], ["task 'sst3'", "demo", "'sst2'"]),
    "unknown model": (["model=robertabase"], ["model 'robertabase'", "roberta-base"]),
    "unknown estimator": (["hypergradient=darts"], ["'darts'", "finite_difference", "unrolled"]),
    "unknown engine": (["engine=fast"], ["engine 'fast'", "default"]),
    "misspelt group": (["metod=lora"], ["'metod'", "'method'"]),
    "misspelt option": (["method.rnk=3"], ["'rnk' in method", "'rank'"]),
    "misspelt nested": (["method.lower.weight_dekay=0"], ["in method.lower", "'weight_decay'"]),
    "misspelt train": (["train.epoch=3"], ["'epoch' in train", "'epochs'"]),
    "appended option": (["+method.foo=3"], ["'foo' in method", "rank"]),
    "not an integer": (["method.rank=abc"], ["method.rank=abc", "an integer"]),
    "not a number": (["train.lr=fast"], ["train.lr=fast", "number"]),
    "negative seed": (["seed=-1"], ["seed=-1", "integer", "0 or more"]),
    "endless": (["train.epochs=inf"], ["train.epochs=inf", "finite"]),
    "no number": (["train.gradient_clipping=nan"], ["train.gradient_clipping=nan", "0 or more"]),
    "no room for text": (["task.max_length=0"], ["task.max_length=0", "8 or more"]),
    "unknown optimiser": (
        ["method.lower.name=lion"],
        ["method.lower.name=lion", "adamw, adam, sgd"],
    ),
    "no lower step": (["method.unroll_steps=0"], ["unroll_steps", "1 or more"]),
    "no validation data": (["method.split=1.0"], ["method.split=1.0", "(0, 1)"]),
    "unknown product": (
        ["hypergradient=unrolled", "hypergradient.product=fast"],
        ["hypergradient.product=fast", "double_backward"],
    ),
    "half a seed": (["seed=1.5"], ["seed=1.5", "integer"]),
    "null": (["train.epochs=null"], ["train.epochs=null", "number"]),
    "null group": (["method=null"], ["method=null", "one name"]),
    "wrong list": (["method.lower.betas=[0.9]"], ["method.lower.betas", "2 values"]),
    "wrong choice": (["engine.precision=fp8"], ["engine.precision=fp8", "auto, fp32, bf16, fp16"]),
    "wrong gate": (["method.gate=soft"], ["method.gate=soft", "softmax, sigmoid, real"]),
    "wrong rule": (["method.rank_rule=best"], ["method.rank_rule=best", "threshold"]),
    "wrong estimator option": (
        ["hypergradient=finite_difference", "hypergradient.scale=one"],
        ["scale=one", "identity, inner_lr"],
    ),
    "no batch": (["train.batch_size=0"], ["train.batch_size=0", "1 or more"]),
    "negative warm-up": (["train.warmup_steps=-1"], ["train.warmup_steps=-1", "0 or more"]),
    "two warm-ups": (
        ["train.warmup_steps=9", "method.lower.warmup_ratio=0.1"],
        ["train.warmup_steps=9", "method.lower.warmup_ratio=0.1", "both"],
    ),
    "negative rate": (["train.lr=-1"], ["train.lr=-1", "more than 0"]),
    "no targets": (["train.target_modules=[]"], ["train.target_modules=[]", "a list"]),
    "a value for a group": (["train=fast"], ["train=fast", "group of options", "train.epochs"]),
    "no value": (["seed"], ["'seed'", "name=value"]),
    "interpolation": (["task.name=${nothing}"], ["task.name", "'nothing'"]),
    "flag": (["--methd=lora"], ["--methd", "name=value"]),
    "forbidden target": (["method._target_=os.system"], ["os.system", "only"]),
    "target of another kind": (
        ["method._target_=problems.common.optimizer_settings.OptimizerSettings"],
        ["OptimizerSettings", "no Method"],
    ),
    "no such class": (["method._target_=problems.lora.Lora"], ["class Lora"]),
    "no such module": (["method._target_=problems.loro.LoRA"], ["problems.loro"]),
    "deleted": (["~seed"], ["seed"]),
    "no folder to resume": (["run.resume=nowhere"], ["nowhere", "folder"]),
    "no run to resume": (["run.resume=."], ["run.resume", "folder"]),
    "no folder to resume, added": (["++run.resume=nowhere"], ["nowhere", "folder"]),
    "resume in multirun": (["-m", "run.resume=x"], ["one run", "auto"]),
    "hub without id": (["model=hub"], ["model.pretrained=ID_OR_FOLDER"]),
    "no model folder": (["model=hub", "model.pretrained=./nothing"], ["./nothing", "not exist"]),
    "no data": (["task=classification", "model=demo"], ["task.data_dir"]),
    "no gates to divide by": (
        ["method=salora_bilevel", "hypergradient=alignment"],
        ["alignment", "gate", "hypergradient=finite_difference"],
    ),
    "no gates at all": (["method=bidora", "hypergradient=alignment"], ["alignment", "gated"]),
    "places of its own": (
        ["method=ia3", "train.target_modules=[classifier]"],
        ["[classifier]", "ia3", "no names"],
    ),
    "one place of its own": (
        ["method=prompt", "train.target_modules=query"],
        ["train.target_modules=query", "prompt"],
    ),
    "all of the weights": (["method=full", "train.target_modules=[query]"], ["[query]", "full"]),
    "nothing to adapt": (
        ["method=pretrained", "train.target_modules=[classifier]"],
        ["pretrained", "no names"],
    ),
    "not its model": (["task=planted", "model=demo"], ["model=planted"]),
    "too few planted ranks": (
        ["task=planted", "task.planted.ranks=[1,2]"],
        ["task.planted.ranks=(1, 2)", "8 ranks", "task.planted.targets=qv"],
    ),
    "unknown planted targets": (
        ["task=planted", "task.planted.targets=x"],
        ["'x'", "qv"],
    ),
    "unknown in a multirun": (["-m", "method=lora,foo"], ["method 'foo'"]),
}


@pytest.mark.parametrize("case", CASES)
def test_one_sentence(case: str, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    words, expected = CASES[case]
    text = said(capsys, words)
    for part in expected:
        assert part in text
    assert [p.name for p in folder.iterdir() if p.name != "multirun"] == []


def test_traceback_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(Exception, match="method/foo"):
        main(["method=foo"])
    assert os.environ["HYDRA_FULL_ERROR"] == "1"

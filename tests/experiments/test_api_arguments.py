"""Wrong arguments of ``finetune`` and ``search_ranks``: one sentence before anything is trained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

from bilevel import Callback
from bilevel.errors import UserError
from bilevel.hypergradient import FiniteDifference
from experiments.api import finetune, search_ranks
from experiments.models.pretrained import LoadedModel
from experiments.training import job
from problems import AutoLoRA, LoRA
from tests.experiments import writers

ROWS = [{"input_ids": [2, 5, 3], "label": i % 2} for i in range(40)]
DATA = {"train": ROWS, "test": ROWS}


@pytest.fixture
def model(tiny: Path) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=2)


@pytest.fixture(autouse=True)
def nothing_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong is told before a model is copied, let alone trained."""
    monkeypatch.setattr(job, "run_stage", lambda *_: pytest.fail("it trained"))


def adapted(model: Any) -> Any:
    return get_peft_model(model, LoraConfig(target_modules=["query"]))


def longer(extra: str) -> Any:
    tokenizer = writers.tokenizer()
    tokenizer.add_tokens([f"{extra}{i}" for i in range(5000)])
    return tokenizer


def bare() -> Any:
    tokenizer = writers.tokenizer()
    tokenizer.pad_token = tokenizer.eos_token = None
    return tokenizer


WRONG: dict[str, tuple[Any, str]] = {
    "model is None": (lambda m: {"model": None}, "model= .*transformers.*not None"),
    "model is a name": (lambda m: {"model": "bert"}, "model= .*transformers.*'bert'"),
    "model is a class": (lambda m: {"model": type(m)}, "model= .*the class Bert"),
    "model is any module": (lambda m: {"model": torch.nn.Linear(2, 2)}, "model= .*Linear"),
    "model of PEFT": (lambda m: {"model": adapted(m)}, r"model= has an adapter.*merge_and_unload"),
    "model within PEFT": (lambda m: {"model": adapted(m).get_base_model()}, "model= has an adap"),
    "model is loaded": (lambda m: {"model": LoadedModel(m, None, [], None)}, "model= .*LoadedM"),  # type: ignore[arg-type]
    "tokenizer is None": (lambda m: {"tokenizer": None}, "tokenizer= .*not None"),
    "tokenizer is a name": (lambda m: {"tokenizer": "bert"}, "tokenizer= .*'bert'"),
    "tokenizer is a class": (lambda m: {"tokenizer": str}, "tokenizer= .*the class str"),
    "tokenizer of another model": (lambda m: {"tokenizer": longer("x")}, "beyond the model's.*res"),
    "tokenizer without padding": (lambda m: {"tokenizer": bare()}, "tokenizer= .*pad_token"),
    "data is None": (lambda m: {"data": None}, "data .*not None"),
    "data is a list": (lambda m: {"data": ROWS}, "data .*mapping.*list"),
    "data is one set": (lambda m: {"data": Dataset.from_list(ROWS)}, "data .*mapping.*Dataset"),
    "data is a path": (lambda m: {"data": "train.csv"}, "data .*mapping.*'train.csv'"),
    "data is empty": (lambda m: {"data": {}}, "data has no 'train'"),
    "data without test": (lambda m: {"data": {"train": ROWS}}, r"data\['test'\]"),
    "data without train": (lambda m: {"data": {"test": ROWS}}, "no 'train', only test"),
    "data of lists": (lambda m: {"data": {"train": [[2, 5]], "test": ROWS}}, "mapping"),
    "method is None": (lambda m: {"method": None}, "method= .*instance.*None"),
    "method is a name": (lambda m: {"method": "lora"}, "method= .*instance.*'lora'"),
    "method is a class": (lambda m: {"method": LoRA}, "method= .*instance.*class LoRA"),
    "callbacks is one": (lambda m: {"callbacks": Callback()}, "callbacks= .*list"),
    "callbacks are classes": (lambda m: {"callbacks": [Callback]}, "callbacks= .*instances"),
    "estimator is a class": (
        lambda m: {"method": AutoLoRA(), "hypergradient": FiniteDifference},
        "hypergradient= .*class FiniteDifference",
    ),
    "estimator is a name": (lambda m: {"hypergradient": "unrolled"}, "hypergradient= .*'unrolled'"),
    "no targets": (lambda m: {"target_modules": []}, r"target_modules=\[\].*not empty"),
    "empty target": (lambda m: {"target_modules": ""}, "target_modules=.*not empty"),
    "target is a number": (lambda m: {"target_modules": 3}, "target_modules=3.*list"),
    "targets are numbers": (lambda m: {"target_modules": [1]}, r"target_modules=\[1\].*list"),
    "targets are a set": (lambda m: {"target_modules": {"query"}}, "target_modules=.*list"),
    "unknown target": (lambda m: {"target_modules": ["quary"]}, "'quary'.*query"),
    "head is a text": (lambda m: {"head": "classifier"}, "head= .*list"),
    "head is a number": (lambda m: {"head": 3}, "head= .*list"),
    "unknown head": (lambda m: {"head": ["clasifier"]}, "head= .*'clasifier'.*'classifier'"),
    "metrics is a text": (lambda m: {"metrics": "accuracy"}, "metrics='accuracy'.*list"),
    "metrics are none": (lambda m: {"metrics": []}, "metrics is empty"),
    "metrics of a number": (lambda m: {"metrics": ["pearson"]}, "metrics.*pearson"),
    "metrics are numbers": (lambda m: {"metrics": [1]}, r"metrics=\[1\].*list"),
    "decoding is a mapping": (lambda m: {"decoding": {"beams": 4}}, "decoding= .*Decoding"),
    "seed is a text": (lambda m: {"seed": "0"}, "seed='0'.*integer"),
    "seed is too large": (lambda m: {"seed": 2**32}, "seed=4294967296.*4294967295"),
    "seed is negative": (lambda m: {"seed": -1}, "seed=-1.*integer"),
    "seed is None": (lambda m: {"seed": None}, "seed=null.*integer"),
    "seed is a number": (lambda m: {"seed": 1.5}, r"seed=1\.5.*integer"),
    "folder is a number": (lambda m: {"folder": 3}, "folder=3.*path"),
    "folder is empty": (lambda m: {"folder": ""}, "folder=''.*path"),
    "folder is a file": (lambda m: {"folder": __file__}, "folder=.*is a file"),
    "folder in a file": (lambda m: {"folder": f"{__file__}/x"}, "folder=.*is a file"),
    "resume nowhere": (lambda m: {"resume": True}, "resume=True.*folder="),
    "resume is a text": (lambda m: {"resume": "yes"}, "resume='yes'.*True or False"),
    "engine is a text": (lambda m: {"engine": "bf16"}, "engine=bf16.*group"),
    "engine is a list": (lambda m: {"engine": ["bf16"]}, "engine=.*group"),
    "engine's text": (lambda m: {"engine": {"keep_checkpoints": "2"}}, "keep_checkpoints='2'.*int"),
    "epochs is a text": (lambda m: {"epochs": "3"}, "epochs='3'.*number"),
    "epochs is None": (lambda m: {"epochs": None}, "epochs=null.*number"),
    "epochs without end": (lambda m: {"epochs": 1e300}, "epochs=1e.300.*1000000"),
    "lr is a text": (lambda m: {"lr": "1e-3"}, "lr='1e-3'.*number"),
    "lr is a list": (lambda m: {"lr": [1e-3]}, r"lr=\[0.001\].*number"),
    "lr is nan": (lambda m: {"lr": float("nan")}, "lr=nan.*finite"),
    "batch size is a number": (lambda m: {"batch_size": 8.5}, r"batch_size=8\.5.*integer"),
    "batch size is a tensor": (lambda m: {"batch_size": torch.tensor(8)}, "batch_size=.*integer"),
    "batch size above the data": (lambda m: {"batch_size": 41}, "batch_size=41.*40|40.*size=41"),
    "warm-up above the steps": (lambda m: {"warmup_steps": 999}, "warmup_steps=999.*steps"),
    "the Trainer's rate": (lambda m: {"learning_rate": 1e-3}, "'learning_rate'.*lr="),
    "the Trainer's epochs": (lambda m: {"num_train_epochs": 1}, "'num_train_epochs'.*epochs="),
    "PEFT's rank": (lambda m: {"r": 8}, "'r'.*rank"),
    "the Trainer's decay": (lambda m: {"weight_decay": 0.1}, "'weight_decay'.*method.*optimizer"),
    "the Trainer's precision": (lambda m: {"bf16": True}, "'bf16'.*engine.*precision"),
    "no such option": (lambda m: {"epoch": 3}, "'epoch'.*'epochs'"),
}

# search_ranks has no such argument, or calls it otherwise, or looks at fewer data.
OF_FINETUNE = (
    "data",
    "method",
    "callbacks",
    "metrics",
    "decoding",
    "folder",
    "resume",
    "warm",
    "batch",
)


@pytest.mark.parametrize("case", WRONG)
def test_one_sentence(case: str, model: Any) -> None:
    change, said = WRONG[case]
    given = {"model": model, "tokenizer": writers.tokenizer(), "data": DATA, "method": LoRA()}
    given |= change(model)
    with pytest.raises(UserError, match=said) as caught:
        finetune(**given)
    assert "\n" not in str(caught.value)
    if case.startswith(OF_FINETUNE):
        return
    given |= {"train": ROWS}
    del given["data"], given["method"]
    with pytest.raises(UserError, match=said):
        search_ranks(**given)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LoRA(rank="8"), r"LoRA\.rank='8'.*integer"),  # type: ignore[arg-type]
        (lambda: LoRA(rank=0), r"LoRA\.rank=0.*1 or more"),
        (lambda: LoRA(lora_alpha=-1), r"LoRA\.lora_alpha=-1.*more than 0"),
        (lambda: LoRA(optimizer={"lr": 1e-3}), r"LoRA\.optimizer.*group"),  # type: ignore[arg-type]
        (lambda: LoRA(optimizer=None), r"LoRA\.optimizer=None.*group"),  # type: ignore[arg-type]
        (lambda: AutoLoRA(split="half"), r"AutoLoRA\.split=half.*number"),  # type: ignore[arg-type]
        (lambda: AutoLoRA(unroll_steps=True), r"AutoLoRA\.unroll_steps=true.*integer"),
    ],
)
def test_settings_of_a_method(make: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make()

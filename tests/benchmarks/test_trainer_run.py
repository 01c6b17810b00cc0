"""The Trainer's program: it is not of this project, trains as method=lora does, and runs."""

import ast
import inspect
import json
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification

import experiments.demo
from benchmarks import trainer_run
from experiments.tasks.demo import Demo
from problems import LoRA
from tests.benchmarks.small import started

DEMO = Path(experiments.demo.__file__).parent / "model"


def test_it_imports_nothing_of_the_project() -> None:
    """Else its memory would not be that of a program without."""
    nodes = list(ast.walk(ast.parse(inspect.getsource(trainer_run))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
    assert "transformers" in names
    ours = {"bilevel", "problems", "experiments", "benchmarks"}
    assert not ours & {name.partition(".")[0] for name in names}


def test_it_trains_with_what_lora_has() -> None:
    method = LoRA()
    found = trainer_run.arguments("out", 200, 8, "fp32")
    assert (found.max_steps, found.per_device_train_batch_size) == (200, 8)
    assert found.weight_decay == method.optimizer.weight_decay
    assert found.warmup_steps == method.optimizer.warmup_ratio * 200
    assert found.lr_scheduler_type == method.optimizer.schedule
    assert (found.adam_beta1, found.adam_beta2) == method.optimizer.betas
    assert found.adam_epsilon == method.optimizer.eps
    assert found.max_grad_norm == 0
    model = AutoModelForSequenceClassification.from_pretrained(DEMO)
    config = trainer_run.with_lora(model, ["query"], ["classifier"]).peft_config["default"]
    assert (config.r, config.lora_alpha) == (method.rank, method.lora_alpha)
    assert config.lora_dropout == method.lora_dropout


def test_it_leaves_an_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"sentence": e.texts[0], "label": e.label} for e in Demo(max_train=8).load().train]
    for name in ("train", "validation"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    words = [str(tmp_path), str(DEMO), str(tmp_path / "out"), "--steps", "1", "--batch", "4"]
    assert "eval_loss" in started("trainer_run", words, monkeypatch, capsys)
    config = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    assert set(config["target_modules"]) == {"query", "value"}

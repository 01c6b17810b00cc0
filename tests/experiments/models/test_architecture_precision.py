"""AutoLoRA on every architecture with frozen weights in bfloat16, or packed in 4 bits."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bilevel.errors import UserError
from experiments.cli.command_line import CommandLine
from experiments.evaluate import evaluate
from experiments.results.finished_run import SavedRun
from experiments.training.job import execute
from tests.experiments.architectures import (
    CAUSAL,
    CONFIGS,
    SEQ2SEQ,
    auto_class,
    plan_of,
    save,
    words,
    write_data,
)

HELD = {
    "bfloat16": ["model.dtype=bfloat16", "engine.precision=bf16"],
    "4bit": ["model.quantization=4bit"],
}
FAST = {("bert", "bfloat16"), ("gpt2", "bfloat16"), ("t5", "bfloat16")}
CASES = [
    pytest.param(name, how, marks=[] if (name, how) in FAST else [pytest.mark.slow])
    for name in CONFIGS
    for how in HELD
    if (name, how) != ("deberta", "bfloat16")
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(("name", "how"), CASES)
def test_it_trains_and_what_is_saved_scores_the_same(
    name: str, how: str, data: Path, tmp_path: Path
) -> None:
    if how == "4bit" and find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    text = name in (*CAUSAL, *SEQ2SEQ)
    folder = save(name, tmp_path / "model", text)
    options = ["method=autolora", "method.rank=2", *HELD[how]]
    plan = plan_of([*words(folder, data, text), *options])
    result = execute(plan, tmp_path / "run")

    saved = load_file(tmp_path / "run" / "adapter_compact" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert any(tensor.abs().max() > 0 for key, tensor in saved.items() if "lora_B" in key)
    run = SavedRun.open(str(tmp_path / "run"), CommandLine.parse([]), [])
    again = evaluate(run, tmp_path / "run" / "adapter")
    # of the same weights, in the same order of operations
    assert again.pop("loss") == pytest.approx(result["test_loss"], rel=1e-5)
    assert again == result["metrics"]


def test_deberta_v1_trains_in_float32_alone(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers' attention of it fails under any autocast, which this test would notice."""
    monkeypatch.setattr("bilevel.precision._bf16_is_native", lambda device: True)
    folder = save("deberta", tmp_path / "model", False)
    options = [*words(folder, data, False), "method=lora"]
    result = execute(plan_of([*options, "engine.precision=auto"]), tmp_path / "run")
    assert result["engine"]["precision"] == "fp32"
    others = ("engine.precision=bf16", "model.dtype=bfloat16 engine.precision=auto")
    for number, other in enumerate(others):
        plan = plan_of([*options, *other.split()])
        with pytest.raises(UserError, match=r"deberta.*float32"):
            execute(plan, tmp_path / f"other{number}")
    model = auto_class("deberta", False).from_pretrained(folder)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError, match="overflow"):
        model(input_ids=torch.tensor([[4, 5]]))

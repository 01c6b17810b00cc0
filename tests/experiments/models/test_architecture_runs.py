"""A whole run of AutoLoRA on every architecture: what stock PEFT reads back is what was trained."""

import json

import pytest
import torch
from peft import PeftModel

from experiments.results import saved_model
from experiments.training.job import execute
from tests.experiments.architectures import (
    CAUSAL,
    CONFIGS,
    ENCODERS,
    SEQ2SEQ,
    auto_class,
    plan_of,
    save,
    words,
    write_data,
)

IDS = torch.tensor([[5, 6, 7, 8, 9, 2], [10, 11, 12, 13, 14, 2]])
FINITE, UNROLLED = "finite_difference", "unrolled"
# Every architecture for classes and, where it writes, for text, by the default hypergradient, whose
# double backward each of them must have; by differences a few.
CASES = [
    *((name, False, UNROLLED) for name in ENCODERS),
    *((name, True, UNROLLED) for name in (*CAUSAL, *SEQ2SEQ)),
    *((name, True, FINITE) for name in ("gpt2", "bart")),
    ("deberta_v3", False, FINITE),
    *(pytest.param(name, False, UNROLLED, marks=pytest.mark.slow) for name in (*CAUSAL, *SEQ2SEQ)),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@torch.no_grad()
def logits(model, text):
    model.eval()
    model.config.pad_token_id = 0
    decoded = {"decoder_input_ids": IDS[:, :3]} if text and model.config.is_encoder_decoder else {}
    return model(input_ids=IDS, **decoded).logits


@pytest.mark.parametrize(("name", "text", "hypergradient"), CASES)
def test_trained_saved_and_read_back(name, text, hypergradient, tmp_path, data, monkeypatch):
    folder = save(name, tmp_path / "model", text)
    trained = []

    def watched(outcome, out, real=saved_model.save):
        trained.append(logits(outcome.model, text))
        return real(outcome, out)

    monkeypatch.setattr(saved_model, "save", watched)
    options = ["method=autolora", "method.rank=2", f"hypergradient={hypergradient}"]
    plan = plan_of([*words(folder, data, text), *options])
    result = execute(plan, tmp_path / "run")
    labels = {} if text else {"num_labels": 2}
    untrained = logits(auto_class(name, text).from_pretrained(folder, **labels), text)
    for layout in ("adapter", "adapter_compact"):
        base = auto_class(name, text).from_pretrained(folder, **labels)
        tuned = PeftModel.from_pretrained(base, tmp_path / "run" / layout)
        torch.testing.assert_close(logits(tuned, text), trained[0], atol=1e-5, rtol=0)
    assert not torch.allclose(untrained, trained[0], atol=1e-4)
    assert set(result["update"]) <= {n for n, _ in base.named_modules()}
    if text:
        assert len((tmp_path / "run" / "predictions.jsonl").read_text().splitlines()) == 4
        written = base.generate(input_ids=IDS, max_new_tokens=3, do_sample=False)
        assert written.shape[0] == 2
        assert base.config.use_cache


def test_the_configuration_that_is_saved_is_the_models_own(tmp_path, data):
    """A decoder trains without a cache, and what it leaves generates with one."""
    folder = save("gpt2", tmp_path / "model", text=True)
    plan = plan_of([*words(folder, data, True), "method=full"])
    execute(plan, tmp_path / "run")
    saved, stock = (
        json.loads((path / "config.json").read_text()) for path in (tmp_path / "run/model", folder)
    )
    assert saved["use_cache"] is True
    assert saved.keys() - {"dtype"} == stock.keys() - {"dtype"}


def test_every_architecture_is_run():
    assert {case[0] for case in CASES if isinstance(case, tuple)} >= set(CONFIGS)

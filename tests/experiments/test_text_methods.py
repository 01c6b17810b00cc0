"""Every method on models that write text: it works all the way, or says why not before training."""

import pytest
import torch

from bilevel.errors import UserError
from experiments.results import saved_model
from experiments.training.job import execute
from tests.experiments.architectures import plan_of, save, words, write_data

NO_NORM = "have no separate feed forward norm"
TWO_STACKS = "2 stacks of numbered layers"
# Gates need a few steps.
WINDOW = "train.max_steps=8 train.epochs=4 method.start=0.1 method.end=0.6"
# method and options: what it says of GPT-2, of BART and of T5; None where it works
METHODS = {
    "lora method.rank=2": (None, None, None),
    "dora method.rank=2": (None, None, None),
    "autolora method.rank=2": (None, None, None),
    f"autolora_singular method.rank=2 method.unroll_steps=2 {WINDOW}": (None, None, None),
    "bilora method.rank=2": (None, None, None),
    "bidora method.rank=2": (None, None, None),
    f"salora method.rank=2 {WINDOW}": (None, None, None),
    f"salora_bilevel method.rank=2 {WINDOW}": (None, None, None),
    "delta_lora method.rank=2": (None, None, None),
    "delta_lora method.rank=2 method.mode=in_place": (None, None, None),
    "adalora method.rank=2": (None, None, None),
    "dylora method.rank=2": (None, None, None),
    "ia3": ("separate.*feed forward", None, None),
    "houlsby method.size=4": (None, None, None),
    "pfeiffer method.reduction=4": (NO_NORM, NO_NORM, NO_NORM),
    "prompt method.virtual_tokens=3": (None, None, None),
    "prefix method.virtual_tokens=3": (None, *["decoder.*attention"] * 2),
    "bitfit": (None, None, "biases"),
    "full": (None, None, None),
    "full_qv": (None, None, None),
    "full_frozen_embeddings": (None, None, None),
    "full_top method.top_layers=1": (None, TWO_STACKS, TWO_STACKS),
}
MODELS = ("gpt2", "bart", "t5")
# T5 has the parts of BART by other names: only what looks for these names is run on it each time.
ON_T5 = ("ia3", "houlsby method.size=4", "prompt method.virtual_tokens=3")
CASES = [
    pytest.param(
        model,
        method,
        says,
        marks=[pytest.mark.slow] if model == "t5" and method not in ON_T5 and not says else [],
    )
    for method, row in METHODS.items()
    for model, says in zip(MODELS, row, strict=True)
]
IDS = torch.tensor([[5, 6, 7, 8, 9, 2], [10, 11, 12, 13, 14, 2]])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The models, and the data under "data"."""
    place = tmp_path_factory.mktemp("models")
    found = {name: save(name, place / name, text=True) for name in MODELS}
    return {**found, "data": write_data(tmp_path_factory.mktemp("data"))}


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=IDS, labels=IDS[:, :3].repeat(1, 2)).logits


@pytest.mark.parametrize(("name", "method", "says"), CASES)
def test_works_or_is_refused(name, method, says, folders, tmp_path, monkeypatch):
    option, *more = method.split()
    options = [*words(folders[name], folders["data"], True), f"method={option}", *more]
    if says:
        with pytest.raises(UserError, match=says):
            execute(plan_of(options), tmp_path)
        assert not (tmp_path / "metrics.jsonl").exists()
        return
    trained = []

    def watched(outcome, out, real=saved_model.save):
        if outcome.keep is None:  # else a part of it is cut when it is saved
            trained.append(logits(outcome.model))
        return real(outcome, out)

    monkeypatch.setattr(saved_model, "save", watched)
    plan = plan_of(options)
    result = execute(plan, tmp_path)
    assert (tmp_path / "result.json").is_file()
    assert 0 <= result["metrics"]["rougeL"] <= 100
    assert len((tmp_path / "predictions.jsonl").read_text().splitlines()) == 4
    saved = tmp_path / ("model" if (tmp_path / "model").is_dir() else "adapter")
    base = plan.model.load(plan.task.load().answers, 0).model
    untrained = logits(base)
    again = logits(saved_model.load(saved, base))
    assert not torch.allclose(again[:, :3], untrained[:, :3], atol=1e-5)
    for before in trained:
        torch.testing.assert_close(again, before, atol=1e-5, rtol=0)


def test_virtual_tokens_that_leave_no_room_for_the_answer(folders, tmp_path):
    """GPT-2 has 32 positions, for source and answer too."""
    options = words(folders["gpt2"], folders["data"], True)
    options += ["task.decoding.max_new_tokens=20", "method=prompt", "method.virtual_tokens=8"]
    with pytest.raises(UserError, match=r"answer.*20.*32 positions"):
        execute(plan_of(options), tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()

"""Less memory: the same gradients with activations computed again, bfloat16 frozen weights."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, BertConfig, GPT2Config

import problems
from bilevel.errors import UserError
from bilevel.evaluation import matching_autocast
from experiments.answers import CLASSES, Answers
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.models.memory import recompute
from experiments.models.spec import ModelSpec
from experiments.training.job import execute

SHORT = ["task=demo", "task.max_train=32", "task.max_test=16", "train.max_steps=3"]
QUIET = ["engine.evaluate_every=0", "run.figures=false"]
SMALL = {"vocab_size": 30, "pad_token_id": 0}
CONFIGS = [
    BertConfig(
        **SMALL, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    ),
    GPT2Config(**SMALL, n_embd=16, n_layer=2, n_head=2),
]


def plan(*words):
    return Plan.of(compose_config([*SHORT, *QUIET, *words]))


def second_order(model, ids):
    """A gradient, and the gradient of its squared length: a double backward."""
    torch.manual_seed(5)  # dropout masks
    trained = [p for p in model.parameters() if p.requires_grad]
    loss = model(input_ids=ids, labels=ids[:, 0] % 2).loss
    first = torch.autograd.grad(loss, trained, create_graph=True)
    second = torch.autograd.grad(sum((g**2).sum() for g in first), trained, allow_unused=True)
    return [*first, *(g for g in second if g is not None)]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.model_type)
def test_the_same_gradients_of_both_orders_with_dropout(config):
    torch.manual_seed(0)
    base = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
    targets = ["query", "value"] if config.model_type == "bert" else ["c_attn"]
    lora = LoraConfig(target_modules=targets, lora_dropout=0.1, init_lora_weights=False)
    model = get_peft_model(base, lora).double().train()
    ids = torch.randint(1, 30, (4, 6))
    plain = second_order(model, ids)
    recompute(base)
    again = second_order(model, ids)
    assert len(plain) == len(again) >= 8
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_checkpointing_saves_memory_in_a_run_and_changes_no_result(tmp_path):
    words = ["method=autolora", "hypergradient=unrolled", "engine.precision=fp32"]
    plain = execute(plan(*words), tmp_path / "plain")
    again = execute(plan(*words, "model.gradient_checkpointing=true"), tmp_path / "again")
    assert again["ranks"] == plain["ranks"]
    assert again["test_loss"] == pytest.approx(plain["test_loss"], rel=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "auto"])
def test_frozen_weights_in_bfloat16(precision, tmp_path, monkeypatch):
    # where auto would be fp32, which does not go together with them
    monkeypatch.setattr("bilevel.precision._bf16_is_native", lambda device: False)
    words = ["method=autolora", "model.dtype=bfloat16", f"engine.precision={precision}"]
    values = execute(plan(*words), tmp_path)
    assert values["engine"]["precision"] == "bf16"
    spec = ModelSpec("demo", package="experiments.demo", dtype="bfloat16")
    base = spec.load(Answers(CLASSES, 2), seed=0).model
    assert base.classifier.weight.dtype == torch.float32
    assert {p.dtype for p in base.bert.encoder.parameters()} == {torch.bfloat16}
    tuned = PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert {p.dtype for n, p in tuned.named_parameters() if "lora_" in n} == {torch.float32}
    with matching_autocast(tuned):
        out = tuned(input_ids=torch.tensor([[5, 6, 7]])).logits
    assert torch.isfinite(out).all()
    assert 0 < values["test_loss"] < 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=full", "model.dtype=bfloat16"], "full.*own weights"),
        (
            ["model.dtype=bfloat16", "engine.precision=fp32"],
            "engine.precision=.*model.dtype=",
        ),
        (["model.dtype=float16"], r"dtype=float16.*float32, bfloat16"),
    ],
)
def test_what_does_not_go_together(words, message):
    with pytest.raises(UserError, match=message):
        plan(*words)


def test_an_architecture_without_checkpointing():
    model = AutoModelForSequenceClassification.from_config(CONFIGS[0])
    model.supports_gradient_checkpointing = False
    with pytest.raises(UserError, match="cannot do that"):
        recompute(model)


def test_methods_that_train_weights_say_so():
    assert problems.FullFineTuning.trains_weights

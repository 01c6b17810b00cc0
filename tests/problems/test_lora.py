"""LoRA as a one-problem graph: equal to a plain PyTorch loop over the same batches."""

from __future__ import annotations

import json
from typing import get_args, get_type_hints

import pytest
import torch
from transformers import get_scheduler

from bilevel import UserError, lowrank
from problems import LoRA, OptimizerSettings
from problems.common import add_lora, loader, optimizer_and_scheduler, trainable
from problems.lora_settings import ModuleSettings
from tests.problems.jobs import SmallJob, train


def test_the_engine_takes_the_steps_of_a_plain_loop():
    job = SmallJob(epochs=2)
    method = LoRA(rank=4, optimizer=OptimizerSettings(lr=1e-2, weight_decay=0.1))
    outcome = train(method, job)

    plain = SmallJob(epochs=2)
    torch.manual_seed(0)
    model = add_lora(plain, plain.build_model(), r=4, lora_alpha=16.0, lora_dropout=0.0)
    model.train()
    parameters = trainable(model)
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1)
    scheduler = get_scheduler("linear", optimizer, num_warmup_steps=0, num_training_steps=12)
    batches = loader(plain)
    for _ in range(2):
        for batch in batches:
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
    ours = dict(outcome.model.named_parameters())
    for name, p in model.named_parameters():
        torch.testing.assert_close(ours[name], p, rtol=0, atol=0)


def test_the_outcome_tells_ranks_and_parameters():
    outcome = train(LoRA(rank=3), SmallJob())
    assert set(outcome.ranks.values()) == {3}
    assert outcome.trainable_parameters == 4 * 3 * (16 + 16) + 16 * 2 + 2
    assert outcome.split == {"train": 48}


def test_a_rank_is_no_larger_than_a_layer():
    model = SmallJob().build_model()
    names = [n for n, _ in model.named_modules() if n.endswith((".query", ".value"))]
    with pytest.raises(UserError, match=r"rank 17 .* 16.*query"):
        LoRA(rank=17).check_model(model, names)
    LoRA(rank=16).check_model(model, names)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "lion"}, "name=lion.*one of"),
        ({"schedule": "reduce_lr_on_plateau"}, "schedule=.*one of"),
        ({"lr": 0.0}, "lr=.*more than 0"),
        ({"betas": (0.9, 1.0)}, r"betas=\[0.9, 1.0\].*list"),
        ({"weight_decay": -0.1}, "weight_decay=.*0 or more"),
        ({"warmup_ratio": 1.5}, r"warmup_ratio=.*in \[0, 1\]"),
    ],
)
def test_wrong_optimizer_settings_are_named(settings, words):
    with pytest.raises(UserError, match=words):
        OptimizerSettings(**settings)


SCHEDULES = get_args(get_type_hints(OptimizerSettings)["schedule"])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_can_be_built_and_stepped(schedule):
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    settings = OptimizerSettings(schedule=schedule, lr=1e-3, warmup_ratio=0.5)
    optimizer, scheduler = optimizer_and_scheduler(settings, parameters, 4, None)
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] <= 1e-3


def test_a_learning_rate_is_needed():
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    with pytest.raises(UserError, match="learning rate"):
        optimizer_and_scheduler(OptimizerSettings(), parameters, 10, None)


def test_layers_get_the_ranks_of_a_file(tmp_path):
    names = list(train(LoRA(rank=8), SmallJob()).ranks)
    wanted = dict(zip(names, [3, 0, 1, 5], strict=True))
    path = tmp_path / "ranks.json"
    path.write_text(json.dumps({"ranks": wanted, "title": "of a run"}))
    outcome = train(LoRA(rank=8, ranks=str(path)), SmallJob())
    assert outcome.ranks == wanted
    layers = lowrank.lora_layers(outcome.model)
    assert {n: layer.r["default"] for n, layer in layers.items()} == {
        n: r for n, r in wanted.items() if r
    }
    assert {layer.scaling["default"] for layer in layers.values()} == {16 / 8}
    assert outcome.trainable_parameters == 9 * (16 + 16) + 16 * 2 + 2


@pytest.mark.parametrize(("scale", "told"), [(2.0, False), (1.0, True), (None, False)])
def test_ranks_that_were_found_at_another_scale_are_told(tmp_path, caplog, scale, told):
    names = list(train(LoRA(rank=8), SmallJob()).ranks)
    values = {"ranks": dict.fromkeys(names, 2), "scales": dict.fromkeys(names, scale)}
    path = tmp_path / "ranks.json"
    path.write_text(json.dumps({k: v for k, v in values.items() if k == "ranks" or scale}))
    train(LoRA(rank=8, ranks=str(path)), SmallJob())
    said = "a scale (alpha / r) of 1, and this run trains at 2 (method.lora_alpha=16"
    assert (said in caplog.text) == told


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "ranks.json"),
        ('{"title": 1}', "ranks.json.*'ranks'"),
        ('{"ranks": null}', "method.ranks=.*none were found"),
        ('{"ranks": {"a": 0}}', "method.ranks=.*above 0"),
        ('{"ranks": {"a": 1.5}}', "method.ranks=.*whole"),
        ('{"ranks": {"a": true}}', "method.ranks=.*whole"),
        ('{"ranks": [3]}', "method.ranks=.*whole"),
        ('{"ranks": {"a": 1}, "scales": {"a": 0}}', "method.ranks=.*scales"),
        ('{"ranks": {"a": 1}, "scales": [2.0]}', "method.ranks=.*scales"),
    ],
)
def test_a_file_without_ranks_is_told_before_a_model_is_loaded(content, words, tmp_path):
    path = tmp_path / "ranks.json"
    path.write_text(content)
    with pytest.raises(UserError, match=words):
        LoRA(ranks=str(path)).check_size(48, 8)
    with pytest.raises(UserError, match=r"method\.ranks=.*missing"):
        LoRA(ranks=str(tmp_path / "none.json")).check_size(48, 8)


def test_ranks_are_of_layers_that_are_adapted(tmp_path):
    model = SmallJob().build_model()
    names = [n for n, _ in model.named_modules() if n.endswith((".query", ".value"))]
    path = tmp_path / "ranks.json"
    path.write_text(json.dumps({"ranks": {names[0]: 2, "decoder.key": 3}}))
    with pytest.raises(UserError, match=r"method.ranks=.*decoder.key.*target_modules"):
        LoRA(ranks=str(path)).check_model(model, names)
    path.write_text(json.dumps({"ranks": {**dict.fromkeys(names, 2), names[0]: 17}}))
    with pytest.raises(UserError, match=r"rank 17 .* 16.*query"):
        LoRA(ranks=str(path)).check_model(model, names)


def test_ranks_that_say_nothing_of_a_layer_are_of_another_model(tmp_path):
    """A smaller model of the same kind has layers of the same names, but not all of them."""
    names = list(train(LoRA(rank=8), SmallJob()).ranks)
    path = tmp_path / "ranks.json"
    path.write_text(json.dumps({"ranks": dict.fromkeys(names[:-1], 2)}))
    with pytest.raises(UserError, match=rf"method\.ranks=.*1 of the {len(names)}.*another model"):
        LoRA(ranks=str(path)).check_model(SmallJob().build_model(), names)


def test_the_rank_of_a_fused_layer_is_none_of_its_parts(tmp_path):
    """A cut of GPT-2's saved adapter has one rank for what is trained as query and value apart."""
    path = tmp_path / "ranks.json"
    path.write_text(json.dumps({"ranks": {"h.0.c_attn": 2}}))
    with pytest.raises(UserError, match=r"one rank.*h\.0\.c_attn\.q, h\.0\.c_attn\.v.*lora_config"):
        LoRA(ranks=str(path)).check_model(
            SmallJob().build_model(), ["h.0.c_attn.q", "h.0.c_attn.v"]
        )


def test_settings_that_leave_modules_out_are_told(caplog):
    """As those that were learned with a smaller model do."""
    names = list(train(LoRA(rank=4), SmallJob()).ranks)
    model = SmallJob().build_model()
    whole = ModuleSettings(dropout=dict.fromkeys(names, 0.1))
    LoRA(rank=4, settings=whole).check_model(model, names)
    LoRA(rank=4).check_model(model, names)
    assert not caplog.messages
    part = ModuleSettings(dropout={names[0]: 0.1}, learning_rate={"head": 2.0})
    LoRA(rank=4, settings=part).check_model(model, names)
    (said,) = caplog.messages
    assert f"names 1 of the {len(names)}" in said
    assert names[1] in said

"""Delta-LoRA: both modes are the published algorithm, and one plain LoRA adapter at the end."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import GPT2Config, GPT2ForSequenceClassification, get_scheduler

from bilevel import UserError
from bilevel.lowrank import export_adapter, split_fused
from bilevel.lowrank.layers import lora_factors, lora_layers
from problems.common import OptimizerSettings, add_lora, loader, trainable
from problems.delta_lora.method import DeltaLoRA
from problems.lora import LoRA
from tests.problems.jobs import SmallJob, logits_of, train
from tests.problems.resuming import assert_resumes_exactly

MODES = ("factored", "in_place")
TUNED = OptimizerSettings(lr=1e-2, weight_decay=0.1, warmup_ratio=0.25)


class Job(SmallJob):
    """Keeps the model as it was at the end of the training, before it is rebuilt."""

    exact = False

    def build_model(self):
        model = super().build_model()
        if self.exact:
            model.double()
            for module in model.modules():
                if isinstance(module, nn.Linear):
                    module.weight.data *= 5
        return model

    def run(self, training):
        stats = super().run(training)
        model = training.model
        layers = lora_layers(model)
        self.end = {
            "factors": {n: lora_factors(x) for n, x in layers.items()},
            "weights": {n: x.get_base_layer().weight.clone() for n, x in layers.items()},
            "head": getattr(model.get_base_model(), self.head_modules[0]).weight.detach().clone(),
            "logits": logits_of(model, self),
        }
        return stats


class ExactJob(Job):
    """In float64, with weights large enough that adapters matter, and with dropout."""

    exact = True


def published(job, method, K):
    """Algorithm 1 in a plain loop: W moves by the products' difference after each step t > K."""
    torch.manual_seed(0)
    model = add_lora(job, job.build_model(), r=4, lora_alpha=16.0, lora_dropout=method.lora_dropout)
    model.train()
    parameters = trainable(model)
    batches = loader(job)
    gas = job.settings.gradient_accumulation
    steps = round(job.settings.epochs * len(batches)) // gas
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1)
    scheduler = get_scheduler("linear", optimizer, steps // 4, steps)
    layers = lora_layers(model)
    product = lambda layer: torch.mul(layer.get_delta_weight("default"), 1.0).detach()  # noqa: E731
    t, micro, start = 0, 0, {}
    while t < steps:
        for batch in batches:
            (model(**batch).loss / gas).backward()
            micro += 1
            if micro % gas:
                continue
            before = {name: product(layer) for name, layer in layers.items()}
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            t += 1
            if t == K + 1:
                start = before
            for name, layer in layers.items():
                if t > K:
                    layer.get_base_layer().weight.data += method.ratio * (
                        product(layer) - before[name]
                    )
    return model, start


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({}, {}),
        ({"start_step": 0, "ratio": 2.0}, {}),
        ({"start_step": 5}, {}),
        ({"lora_dropout": 0.3}, {}),
        ({"start_step": 1}, {"gradient_accumulation": 2}),
    ],
)
def test_both_modes_are_the_published_algorithm(mode, options, settings):
    """Factors, head and output within 1e-9 of a plain loop, in float64, with AdamW and decay."""
    method = DeltaLoRA(mode=mode, rank=4, optimizer=TUNED, **options)
    job = ExactJob(epochs=2, **settings)
    train(method, job)
    K = 3 if method.start_step is None else method.start_step  # a quarter of 12 steps
    plain = ExactJob(epochs=2, **settings)
    model, start = published(plain, method, K)
    fresh = plain.build_model()
    for name, layer in lora_layers(model).items():
        for mine, theirs in zip(job.end["factors"][name], lora_factors(layer), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)
        W, W0 = layer.get_base_layer().weight, fresh.get_submodule(name).weight
        # W_T = W_0 + lambda s (A_T B_T - A_K B_K)
        telescoped = W0 + method.ratio * (layer.get_delta_weight("default") - start[name])
        torch.testing.assert_close(W, telescoped, rtol=0, atol=1e-12)
        assert (W - W0).abs().max() > 1e-2, "the weight moved"
        expected = W if mode == "in_place" else W0
        torch.testing.assert_close(job.end["weights"][name], expected, rtol=0, atol=1e-9)
    head = model.get_base_model().classifier.weight
    torch.testing.assert_close(job.end["head"], head, rtol=0, atol=1e-9)
    torch.testing.assert_close(job.end["logits"], logits_of(model, plain), rtol=0, atol=1e-8)


def test_gradients_flow_through_the_moved_weight_too():
    """To a layer's input as through all of W; to A and B with the scale of B A alone."""
    found = []
    for mode in MODES:
        job = ExactJob()
        seen = {}

        class Listening(ExactJob):
            def run(self, training, seen=seen):
                stats = super().run(training)
                model = training.model.eval()
                batch = self.data.collate(list(self.data.examples[:8]))
                embed = model.get_base_model().get_input_embeddings()
                inputs = embed(batch.pop("input_ids")).detach().requires_grad_()
                loss = model(inputs_embeds=inputs, **batch).loss
                seen["gradients"] = torch.autograd.grad(loss, [inputs, *trainable(model)])
                return stats

        job = Listening()
        train(DeltaLoRA(mode=mode, rank=4, ratio=2.0, start_step=1, optimizer=TUNED), job)
        found.append(seen["gradients"])
    assert len(found[0]) == len(found[1])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("mode", MODES)
def test_weights_that_never_move_are_lora_exactly(mode):
    for start in (12, 100):
        job, other = Job(epochs=2), Job(epochs=2)
        ours = train(DeltaLoRA(mode=mode, rank=4, start_step=start, lora_dropout=0.1), job)
        theirs = train(LoRA(rank=4, lora_dropout=0.1), other)
        assert ours.ranks == theirs.ranks
        assert ours.trainable_parameters == theirs.trainable_parameters
        assert torch.equal(logits_of(ours.model, job), logits_of(theirs.model, other))
        parameters = dict(ours.model.named_parameters())
        for name, value in theirs.model.named_parameters():
            if "original_module" not in name:  # the head before training, never used
                assert torch.equal(parameters[name], value), name


def test_the_last_step_alone_moves_the_weight():
    """K = T - 1: one step before the end of plain LoRA."""
    job, other = Job(epochs=2), Job(epochs=2)
    train(DeltaLoRA(rank=4, start_step=11), job)
    train(LoRA(rank=4), other)
    for name, factors in job.end["factors"].items():
        for mine, theirs in zip(factors, other.end["factors"][name], strict=True):
            # before it, the two halves of the second branch cancel to rounding
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
    assert not torch.allclose(job.end["logits"], other.end["logits"], atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("start", "rank"), [(3, 8), (0, 4), (12, 4)])
def test_the_adapter_is_plain_lora_on_the_untouched_base(mode, start, rank, tmp_path):
    job = Job(epochs=2, lr=5e-2)
    outcome = train(DeltaLoRA(mode=mode, rank=4, ratio=2.0, start_step=start), job)
    assert set(outcome.ranks.values()) == {rank}
    assert outcome.trainable_parameters == 4 * 4 * (16 + 16) + 16 * 2 + 2
    report = export_adapter(outcome.model, tmp_path)
    assert report.ranks == outcome.ranks
    fresh = job.build_model()
    for name, layer in lora_layers(outcome.model).items():
        assert torch.equal(layer.get_base_layer().weight, fresh.get_submodule(name).weight)
    for folder in (report.adapter, report.compact):
        loaded = PeftModel.from_pretrained(job.build_model(), str(folder))
        torch.testing.assert_close(logits_of(loaded, job), job.end["logits"], rtol=0, atol=1e-5)
    assert not torch.allclose(logits_of(fresh, job), job.end["logits"], atol=1e-3)


class GPT2Job(Job):
    """Conv1D layers, whose weights lie transposed, parts of one fused projection."""

    def __init__(self, **options):
        super().__init__(**options)
        self.target_modules = [f"transformer.h.{i}.attn.c_attn.{p}" for i in (0, 1) for p in "qv"]
        self.head_modules = ["score"]

    def stock(self):
        torch.manual_seed(self.seed)
        config = GPT2Config(
            **{"vocab_size": 32, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16},
            **{"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0},
        )
        return GPT2ForSequenceClassification(config)

    def build_model(self):
        return split_fused(self.stock())


def test_layers_that_keep_their_weight_transposed(tmp_path):
    saved = []
    for mode in MODES:
        job = GPT2Job(epochs=2, lr=5e-2)
        outcome = train(DeltaLoRA(mode=mode, rank=4, ratio=2.0, start_step=3), job)
        moved = logits_of(outcome.model, job)
        torch.testing.assert_close(moved, job.end["logits"], rtol=0, atol=1e-5)
        folder = export_adapter(outcome.model, tmp_path / mode).adapter
        loaded = PeftModel.from_pretrained(job.stock(), str(folder))
        torch.testing.assert_close(logits_of(loaded, job), moved, rtol=0, atol=1e-5)
        saved.append(moved)
    # in fp32, and Adam magnifies rounding
    torch.testing.assert_close(*saved, rtol=0, atol=1e-3)
    assert not torch.allclose(logits_of(job.stock(), job), moved, atol=1e-2)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("start", "stop"), [(3, 2), (3, 3), (3, 7), (0, 4)])
def test_resuming_is_exact(mode, start, stop, tmp_path):
    method = DeltaLoRA(mode=mode, rank=4, start_step=start, lora_dropout=0.1)
    assert_resumes_exactly(method, tmp_path / "state.safetensors", stop, epochs=2)


def test_half_precision_weights_move_on_an_fp32_master():
    class Half(Job):
        def build_model(self):
            return super().build_model().bfloat16()

        def run(self, training):
            stats = super().run(training)
            self.masters = {n: m.clone() for n, m in training.problems[0].masters.items()}
            self.start = training.problems[0].start
            return stats

    # so small that no single step changes a bfloat16 number
    method = DeltaLoRA(mode="in_place", rank=4, ratio=1e-3, start_step=2)
    job = Half(epochs=2)
    train(method, job)
    base = job.build_model()
    for name, (A, B) in job.end["factors"].items():
        A_K, B_K = job.start[name]
        W0 = base.get_submodule(name).weight.float()
        expected = W0 + 1e-3 * 4 * (B @ A - B_K @ A_K)
        master = job.masters[name]
        assert master.dtype == torch.float32
        torch.testing.assert_close(master, expected, rtol=0, atol=1e-8)
        assert not torch.equal(master, W0)
        assert torch.equal(job.end["weights"][name], master.bfloat16())


def test_a_quantised_weight_cannot_move_in_place():
    class Quantised(Job):
        def build_model(self):
            model = super().build_model()
            for name, module in model.named_modules():
                if name.endswith("query"):
                    whole = torch.zeros_like(module.weight, dtype=torch.int8)
                    module.weight = nn.Parameter(whole, requires_grad=False)
            return model

    with pytest.raises(UserError, match=r"query.*method.mode=factored"):
        train(DeltaLoRA(mode="in_place", rank=4), Quantised())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "inplace"}, "mode=.*one of"),
        ({"ratio": -0.5}, "ratio=.*0 or more"),
        ({"start_step": -1}, "start_step=.*0 or more"),
        ({"rank": 0}, "rank=.*1 or more"),
        ({"lora_dropout": 1.0}, r"lora_dropout=.*in \[0, 1\)"),
    ],
)
def test_wrong_settings_are_named(options, words):
    with pytest.raises(UserError, match=words):
        DeltaLoRA(**options)


def test_without_a_warm_up_the_weight_moves_from_the_start(caplog):
    """transformers' constant schedule has none, whatever its share says."""
    constant = OptimizerSettings(lr=1e-2, schedule="constant", warmup_ratio=0.5)
    job = Job()
    train(DeltaLoRA(rank=4, optimizer=constant), job)
    (problem,) = job.runs[0]["problems"]
    assert problem.start_step == 0
    assert not caplog.text
    train(DeltaLoRA(rank=4, optimizer=constant, start_step=99), Job())
    assert "method.start_step=99" in caplog.text

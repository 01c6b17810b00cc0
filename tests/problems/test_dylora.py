"""DyLoRA: the steps of plain LoRA cut to the rank drawn, and one adapter that can be cut."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch
from peft import PeftModel

from bilevel import UserError
from bilevel.lowrank import export_adapter, gated_layers
from bilevel.lowrank.layers import down_and_up, lora_layers
from problems.common import OptimizerSettings, add_lora, loader
from problems.dylora import DyLoRA, Prefix
from problems.lora import LoRA
from tests.problems.jobs import ExactJob, logits_of, train
from tests.problems.resuming import assert_resumes_exactly

CONSTANT = OptimizerSettings(lr=1e-2, schedule="constant", weight_decay=0.1)


class Job(ExactJob):
    """Keeps the ranks drawn, a step each."""

    def run(self, training):
        (problem,) = training.problems
        self.drawn, self.gradients = [], []
        optimizer_step = problem.optimizer_step

        def recorded():
            self.drawn.append(problem.prefix.drawn)
            layers = gated_layers(problem.module).values()
            self.gradients.append([(x.A.grad.clone(), x.B.grad.clone()) for x in layers])
            optimizer_step()

        problem.optimizer_step = recorded
        return super().run(training)


def small_lora(job, layers, b):
    """A plain LoRA model of rank b with the first b components, scaled by alpha / b."""
    torch.manual_seed(0)
    model = add_lora(job, job.build_model(), r=b, lora_alpha=16.0)
    with torch.no_grad():
        for name, module in model.get_base_model().named_modules():
            if name in layers:
                A, B = layers[name]
                module.lora_A["default"].weight.copy_(A[:b])
                module.lora_B["default"].weight.copy_(B[:, :b])
    return model


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("gas", [1, 2])
def test_a_step_has_the_gradients_of_lora_cut_to_its_rank(frozen, gas):
    """Zero past b; frozen: before it too. Against plain LoRA models of rank b, to 1e-10."""
    job = Job(epochs=2, gradient_accumulation=gas)
    train(DyLoRA(rank=4, frozen=frozen, optimizer=CONSTANT), job)
    assert set(job.drawn) <= {1, 2, 3, 4}
    assert len(set(job.drawn)) > 1
    model = job.runs[0]["model"]
    factors = {n: (x.A.detach(), x.B.detach()) for n, x in gated_layers(model).items()}
    for gradients, b in zip(job.gradients, job.drawn, strict=True):
        first = b - 1 if frozen else 0
        for A, B in gradients:
            for rows in (A, B.T):
                assert not rows[:first].any()
                assert not rows[b:].any()
        assert any(B.T[first:b].any() for _, B in gradients)
    # the values too, at the weights the training has ended with
    prefix = job.runs[0]["problems"][0].prefix
    batch = next(iter(loader(job)))
    for b in (1, 2, 4):
        prefix.drawn = b
        model.train()
        mine = [p for x in gated_layers(model).values() for p in (x.A, x.B)]
        other = small_lora(job, factors, b)
        head = head_of(model).state_dict()
        head_of(other).load_state_dict(head)
        other.train()
        theirs = [p.weight for x in lora_layers(other).values() for p in down_and_up(x)]
        mine, theirs = (
            torch.autograd.grad(m(**batch).loss, of) for m, of in ((model, mine), (other, theirs))
        )
        for i, (ours, plain) in enumerate(zip(mine, theirs, strict=True)):
            kept, cut = (ours[:b], ours[b:]) if i % 2 == 0 else (ours[:, :b], ours[:, b:])
            torch.testing.assert_close(kept, plain, rtol=0, atol=1e-10)
            assert not cut.any()


def head_of(model):
    return model.get_base_model().classifier.modules_to_save["default"]


def test_all_ranks_are_drawn_equally_often():
    torch.manual_seed(0)
    prefix = Prefix(["a"], 5, 5)
    drawn = []
    for _ in range(5000):
        prefix.draw()
        drawn.append(prefix.drawn)
    counts = torch.bincount(torch.tensor(drawn), minlength=6)[1:]
    assert counts.sum() == 5000
    assert (counts - 1000).abs().max() < 4 * (1000 * 0.8) ** 0.5  # four standard deviations


def test_rank_one_is_lora():
    """Nothing to draw: only the random numbers that drawing takes differ, and nothing uses them."""
    job, other = Job(epochs=2), ExactJob(epochs=2)
    ours = train(DyLoRA(rank=1), job)
    theirs = train(LoRA(rank=1), other)
    torch.testing.assert_close(
        logits_of(ours.model, job), logits_of(theirs.model, other), rtol=0, atol=0
    )


@pytest.mark.parametrize("b", [1, 3, 4, None])
def test_the_saved_adapter_is_the_model_at_its_rank(b, tmp_path):
    job = Job(epochs=3, lr=5e-2)
    outcome = train(DyLoRA(rank=4, export_rank=b), job)
    b = b or 4
    assert set(outcome.ranks.values()) == {b}
    assert outcome.trainable_parameters == 4 * 4 * (16 + 16) + 16 * 2 + 2
    trained = logits_of(outcome.model, job)
    report = export_adapter(outcome.model, tmp_path)
    assert report.ranks == outcome.ranks
    for folder in (report.adapter, report.compact):
        loaded = PeftModel.from_pretrained(job.build_model(), str(folder))
        torch.testing.assert_close(logits_of(loaded, job), trained, rtol=0, atol=1e-5)
    assert not torch.allclose(logits_of(job.build_model(), job), trained, atol=1e-3)


def test_a_full_adapter_may_be_cut_later(tmp_path):
    """Its first b components at alpha / b are the adapter that export_rank=b saves."""
    job = Job(epochs=3, lr=5e-2)
    full = train(DyLoRA(rank=4), job)
    report = export_adapter(full.model, tmp_path / "full")
    other = Job(epochs=3, lr=5e-2)
    small = train(DyLoRA(rank=4, export_rank=2), other)
    tensors = safetensors.torch.load_file(report.compact / "adapter_model.safetensors")
    for name, tensor in tensors.items():
        if "lora_A" in name:
            tensors[name] = tensor[:2].contiguous()
        elif "lora_B" in name:
            tensors[name] = tensor[:, :2].contiguous()
    safetensors.torch.save_file(tensors, report.compact / "adapter_model.safetensors")
    config = json.loads((report.compact / "adapter_config.json").read_text())
    assert config["lora_alpha"] == 16
    config["r"] = 2  # the scale becomes 16 / 2
    (report.compact / "adapter_config.json").write_text(json.dumps(config))
    cut = PeftModel.from_pretrained(job.build_model(), str(report.compact))
    expected = logits_of(small.model, other)
    torch.testing.assert_close(logits_of(cut, job), expected, rtol=0, atol=1e-5)
    assert not torch.allclose(logits_of(full.model, job), expected, atol=1e-3)


@pytest.mark.parametrize("frozen", [False, True])
def test_resuming_is_exact(frozen, tmp_path):
    method = DyLoRA(rank=4, frozen=frozen, lora_dropout=0.1)
    assert_resumes_exactly(method, tmp_path / "state.safetensors", 5, epochs=2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"export_rank": 9}, "export_rank=9.*or less"),
        ({"export_rank": 0}, "export_rank=0.*1 or more"),
        ({"rank": 0}, "rank=.*1 or more"),
        ({"lora_dropout": 1.0}, r"lora_dropout=.*in \[0, 1\)"),
    ],
)
def test_wrong_settings_are_named(options, words):
    with pytest.raises(UserError, match=words):
        DyLoRA(**options)

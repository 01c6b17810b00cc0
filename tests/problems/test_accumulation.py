"""Batches of 8, or 2 of 4, or 4 of 2 an optimiser step: one training, whatever a loss averages."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BartConfig,
    BertConfig,
    GPT2Config,
)

from bilevel import BilevelEngine, BilevelEngineConfig, LowerProblem, ProblemConfig, UpperProblem
from bilevel.data import ResumableLoader
from bilevel.errors import UserError
from bilevel.hypergradient import Alignment, FiniteDifference, Unrolled
from bilevel.micro_batches import loss_terms
from experiments.answers import CLASSES, TAGS, TEXT
from experiments.training.label_smoothing import smooth_labels
from problems import (
    AutoLoRA,
    BiLoRA,
    LoRA,
    OptimizerSettings,
    PromptTuning,
    TrainData,
    TrainSettings,
)
from tests.problems.jobs import engine_of

PADDING = -100
SGD = OptimizerSettings(name="sgd", schedule="constant")


def bert(**options):
    return BertConfig(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=24,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **options,
    )


GPT2 = GPT2Config(
    vocab_size=32,
    n_positions=24,
    n_embd=16,
    n_layer=1,
    n_head=2,
    resid_pdrop=0.0,
    embd_pdrop=0.0,
    attn_pdrop=0.0,
    attn_implementation="eager",
)
BART = BartConfig(
    vocab_size=32,
    d_model=16,
    encoder_layers=1,
    decoder_layers=1,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=16,
    decoder_ffn_dim=16,
    max_position_embeddings=24,
    dropout=0.0,
    attn_implementation="eager",
)
KINDS = {
    "classes": (AutoModelForSequenceClassification, bert(num_labels=3), "SEQ_CLS", CLASSES),
    "tags": (AutoModelForTokenClassification, bert(num_labels=3), "TOKEN_CLS", TAGS),
    "text": (AutoModelForCausalLM, GPT2, "CAUSAL_LM", TEXT),
    "seq2seq": (AutoModelForSeq2SeqLM, BART, "SEQ_2_SEQ_LM", TEXT),
}
TARGETS = {"text": ["transformer.h.0.attn.c_attn"]}
HEADS = {"classes": ["classifier"], "tags": ["classifier"]}


def examples(kind, n=32):
    """Texts of 4 to 12 tokens, of which 1 to 10 are asked for; the first one too, now and then."""
    generator = random.Random(0)
    rows = []
    for _ in range(n):
        ids = [generator.randrange(3, 32) for _ in range(generator.randrange(4, 13))]
        skipped = generator.randrange(0, len(ids) - 1)
        labels = {
            "classes": ids[0] % 3,
            "tags": [PADDING] * skipped + [i % 3 for i in ids[skipped:]],
            "text": [PADDING] * skipped + ids[skipped:],
            "seq2seq": ids[skipped:],
        }
        rows.append({"input_ids": ids, "labels": labels[kind]})
    return rows


def collate(rows):
    def padded(key, fill):
        width = max(len(row[key]) for row in rows)
        return torch.tensor([row[key] + [fill] * (width - len(row[key])) for row in rows])

    ids = padded("input_ids", 0)
    single = isinstance(rows[0]["labels"], int)
    labels = torch.tensor([r["labels"] for r in rows]) if single else padded("labels", PADDING)
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}


class Job(SimpleNamespace):
    """The Job protocol over one kind of task."""

    def __init__(self, kind, batch_size, accumulation, hypergradient=None, smoothing=0.0):
        cls, config, task_type, answers = KINDS[kind]
        rows = examples(kind)
        super().__init__(
            seed=0,
            data=TrainData(rows, collate, None, [len(r["input_ids"]) for r in rows]),
            settings=TrainSettings(
                epochs=1,
                batch_size=batch_size,
                gradient_accumulation=accumulation,
                group_by_length=False,
                precision="fp32",
                lr=0.5,
            ),
            hypergradient=hypergradient,
            target_modules=TARGETS.get(
                kind,
                ["query"] if kind != "seq2seq" else ["model.encoder.layers.0.self_attn.q_proj"],
            ),
            head_modules=HEADS.get(kind, []),
            task_type=task_type,
        )
        self._make = lambda: cls.from_config(config)
        self._answers, self._smoothing = SimpleNamespace(kind=answers), smoothing

    def build_model(self):
        torch.manual_seed(0)
        model = self._make().double()
        smooth_labels(model, self._smoothing, self._answers)
        return model


def trained(method, job, steps=2):
    """Every level's parameters, and the last upper gradient, after some steps."""
    torch.manual_seed(0)
    training = method.stages()[0].prepare(job, None)
    torch.manual_seed(1)
    engine = engine_of(training, steps=steps)
    with torch.no_grad():  # B = 0 hides the lower level from the upper one
        for name, p in training.problems[0].module.named_parameters():
            if "lora_B" in name:
                p.copy_(0.3 * torch.randn_like(p))
    gradients = []
    training.problems[-1].gradient_hooks.append(
        lambda problem, loss: gradients.append([p.grad.clone() for p in owned(problem)])
    )
    engine.run()
    values = [p for problem in training.problems for p in owned(problem)] + gradients[-1]
    return torch.cat([p.detach().reshape(-1) for p in values])


def owned(problem):
    return problem.trainable_parameters()


def assert_equal_however_split(method, kind, **options):
    whole = trained(method, Job(kind, 8, 1, **options))
    for batch_size, accumulation in ((4, 2), (2, 4)):
        parts = trained(method, Job(kind, batch_size, accumulation, **options))
        assert (parts - whole).abs().max() < 1e-6 * whole.abs().max()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("kind", KINDS)
def test_one_level(kind, smoothing):
    assert_equal_however_split(LoRA(optimizer=SGD), kind, smoothing=smoothing)


@pytest.mark.parametrize("estimator", [FiniteDifference(), Unrolled()], ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_two_levels(kind, estimator):
    method = AutoLoRA(lower=SGD, upper=SGD, unroll_steps=2, split=0.5)
    assert_equal_however_split(method, kind, hypergradient=estimator, smoothing=0.1)


def test_the_closed_form():
    method = AutoLoRA(lower=SGD, upper=SGD, split=0.5)
    assert_equal_however_split(method, "text", hypergradient=Alignment(calibrate_every=2))


def test_virtual_tokens_ask_for_the_first_one_too():
    assert_equal_however_split(PromptTuning(virtual_tokens=3, optimizer=SGD), "text")
    training = PromptTuning(virtual_tokens=3).stages()[0].prepare(Job("text", 8, 1), None)
    batch = {"labels": torch.tensor([[5, 6, 7]])}
    prompted = training.problems[0].module
    assert [loss_terms([m], batch) for m in (prompted, prompted.get_base_model())] == [3, 2]


@pytest.mark.parametrize("wrapped", [False, True], ids=["model", "model of a module"])
def test_a_causal_model_in_an_engine_of_ones_own(wrapped):
    """Every token is a label, the first too, which transformers' loss leaves out."""

    class Wrapper(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, **batch):
            return self.model(**batch)

    class Lower(LowerProblem):
        def training_step(self, batch):
            return self.upper.module.weight.exp() * self.module(**batch).loss

    class Upper(UpperProblem):
        def training_step(self, batch):
            return self.lower.module(**batch).loss

    class Weight(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros((), dtype=torch.float64))

    found = []
    rows = [{**row, "labels": row["input_ids"]} for row in examples("text")]
    for batch_size, gas in ((8, 1), (4, 2), (2, 4)):
        model = Job("text", 8, 1).build_model()
        for name, p in model.named_parameters():
            p.requires_grad_("ln_f" in name)
        module = Wrapper(model) if wrapped else model
        weight = Weight()
        levels = [
            kind(
                name,
                ProblemConfig(gradient_accumulation=gas),
                module=part,
                optimizer=torch.optim.SGD([p for p in part.parameters() if p.requires_grad], 0.5),
                train_data_loader=ResumableLoader(rows, batch_size, collate, seed=seed),
            )
            for kind, name, part, seed in ((Lower, "lower", module, 0), (Upper, "upper", weight, 1))
        ]
        dependencies = {"u2l": {levels[1]: [levels[0]]}, "l2u": {levels[0]: [levels[1]]}}
        BilevelEngine(levels, BilevelEngineConfig(train_iters=2), dependencies).run()
        values = [p for level in levels for p in owned(level)]
        found.append(torch.cat([p.detach().reshape(-1) for p in values]))
    assert found[0][-1] != 0
    assert (found[1] - found[0]).abs().max() < 1e-9
    assert (found[2] - found[0]).abs().max() < 1e-9


@pytest.mark.parametrize(("several", "unroll_steps"), [(4, 8), (100, 4), (1, 20)])
def test_lower_steps_that_a_training_has_are_not_refused(several, unroll_steps):
    """5 batches a pass, 4 passes: every pass ends with a step of what is left."""
    settings = TrainSettings(epochs=4, batch_size=16, gradient_accumulation=several)
    BiLoRA(unroll_steps=unroll_steps).check_steps(80, settings)
    with pytest.raises(UserError, match="unroll_steps"):
        BiLoRA(unroll_steps=unroll_steps + 1).check_steps(80, settings)

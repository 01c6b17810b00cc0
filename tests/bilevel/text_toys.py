"""The same on a tiny BERT: LoRA factors below, gates above."""

from __future__ import annotations

import peft
import torch
import transformers
from torch import nn

from bilevel import BilevelEngine, BilevelEngineConfig, LowerProblem, ProblemConfig, UpperProblem
from bilevel.data import ResumableLoader
from bilevel.lowrank import Gates, attach_gates
from bilevel.lowrank.layers import lora_layers


def gated_bert(dropout=0.1, attention="eager", dtype=torch.float32, kind="softmax", r=4):
    """A tiny random BERT with LoRA on q and v, B not zero, and gates on every component."""
    config = transformers.BertConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=32,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        num_labels=2,
        initializer_range=0.2,
        attn_implementation=attention,
    )
    model = peft.get_peft_model(
        transformers.AutoModelForSequenceClassification.from_config(config),
        peft.LoraConfig(
            r=r,
            lora_alpha=8,
            target_modules=["query", "value"],
            modules_to_save=["classifier"],
            task_type="SEQ_CLS",
        ),
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    model.to(dtype)
    gates = Gates(list(lora_layers(model)), r, kind).to(dtype)
    with torch.no_grad():
        gates.logits += 0.5 * torch.randn_like(gates.logits)
    attach_gates(model, gates)
    return model, gates


def sentences(n, seed, length=12):
    """Random token sequences, labelled by whether a low token comes first."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, 60, (n, length), generator=generator)
    return [{"input_ids": row, "labels": (row[0] < 30).long()} for row in tokens]


def stack_dicts(examples):
    batch = {key: torch.stack([e[key] for e in examples]) for key in examples[0]}
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    return transformers.BatchEncoding(batch)


class LowerText(LowerProblem):
    """Remembers the generator's state at each of its losses."""

    def training_step(self, batch):
        self.state_at_loss = torch.get_rng_state()
        return self.module(**batch).loss


class UpperText(UpperProblem):
    def training_step(self, batch):
        return self.lower.module(**batch).loss


def two_text_levels(
    hypergradient,
    dropout=0.1,
    attention="eager",
    dtype=torch.float32,
    optimizer=lambda p: torch.optim.AdamW(p, lr=3e-3),
    upper_optimizer=lambda p: torch.optim.Adam(p, lr=1e-2),
    unroll_steps=1,
    upper_steps=1,
    batch_size=16,
    steps=1,
    seed=0,
    kind="softmax",
    prepare=lambda model: None,
    classes=(LowerText, UpperText),
    lower_options=None,
    upper_options=None,
    strategy="cpu",
):
    """Factors and head of :func:`gated_bert` below, gates above."""
    torch.manual_seed(seed)
    model, gates = gated_bert(dropout, attention, dtype, kind)
    prepare(model)
    lower = classes[0](
        "lower",
        ProblemConfig(
            hypergradient=hypergradient, unroll_steps=unroll_steps, **(lower_options or {})
        ),
        module=model,
        optimizer=optimizer([p for p in model.parameters() if p.requires_grad]),
        train_data_loader=ResumableLoader(sentences(256, 1), batch_size, stack_dicts, seed=seed),
    )
    upper = classes[1](
        "upper",
        ProblemConfig(steps=upper_steps, **(upper_options or {})),
        module=gates,
        optimizer=upper_optimizer(list(gates.parameters())),
        train_data_loader=ResumableLoader(sentences(256, 2), batch_size, stack_dicts, seed=seed),
    )
    engine = BilevelEngine(
        [lower, upper],
        BilevelEngineConfig(train_iters=steps, strategy=strategy),
        {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}},
    )
    return engine, lower, upper


def mixed_product(lower, upper, weights, vector):
    """- d2L1/dEdV v at V = ``weights``, E as it is, by torch alone: double backward, with the
    dropout masks of the lower problem's latest step (:class:`LowerText` remembers them)."""
    parameters = lower.trainable_parameters()
    kept = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for p, w in zip(parameters, weights, strict=True):
            p.copy_(w)
    with torch.random.fork_rng():
        torch.set_rng_state(lower.state_at_loss)
        loss = lower.module(**lower.cur_batch).loss
    grads = torch.autograd.grad(loss, parameters, create_graph=True)
    inner = sum((g * v).sum() for g, v in zip(grads, vector, strict=True))
    products = torch.autograd.grad(inner, upper.trainable_parameters())
    with torch.no_grad():
        for p, w in zip(parameters, kept, strict=True):
            p.copy_(w)
    return [-p for p in products]

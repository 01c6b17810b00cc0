"""Small two-level problems in float64, and a brute-force hypergradient to compare with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import peft
import pytest
import torch
import transformers
from betty.hypergradient import jvp_fn_mapping
from torch import nn

from bilevel import BilevelEngine, BilevelEngineConfig, LowerProblem, ProblemConfig, UpperProblem
from bilevel.data import ResumableLoader
from bilevel.hypergradient import Hypergradient
from bilevel.lowrank import Gates, attach_gates
from bilevel.lowrank.layers import lora_layers

# Warnings are errors, but for names that the oldest transformers we allow does not have yet.
STRICT = [
    pytest.mark.filterwarnings("error"),
    pytest.mark.filterwarnings(r"ignore:`\w*gradient_checkpointing\w*` is deprecated"),
]


class Net(nn.Module):
    """Two gated layers with dropout: the lower weights enter multiplied by the gates."""

    def __init__(self, dropout: float = 0.0, width: int = 5) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.randn(width, 4, dtype=torch.float64) * 0.5)
        self.B = nn.Parameter(torch.randn(3, width, dtype=torch.float64) * 0.5)
        self.frozen = nn.Parameter(torch.randn(3, 4, dtype=torch.float64), requires_grad=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, gate):
        hidden = torch.tanh(x @ (gate[:, None] * self.A).T)
        return self.dropout(hidden) @ self.B.T + 0.1 * x @ self.frozen.T


class Gate(nn.Module):
    """Softmax weights of Net's hidden units."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.logits = nn.Parameter(0.3 * torch.randn(width, dtype=torch.float64))

    def forward(self):
        return torch.softmax(self.logits, 0)


class Lower(LowerProblem):
    def training_step(self, batch):
        x, y = batch
        return nn.functional.cross_entropy(self.module(x, self.upper()), y)


class Upper(UpperProblem):
    def training_step(self, batch):
        x, y = batch
        return nn.functional.cross_entropy(self.lower(x, self.module()), y)


def dataset(n: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, dtype=torch.float64, generator=generator)
    y = torch.randint(0, 3, (n,), generator=generator)
    return [(x[i], y[i]) for i in range(n)]


def stack(examples):
    return (torch.stack([x for x, _ in examples]), torch.stack([y for _, y in examples]))


def two_levels(
    hypergradient,
    optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
    upper_optimizer=lambda p: torch.optim.SGD(p, lr=0.0),
    unroll_steps=1,
    upper_steps=1,
    dropout=0.0,
    gas=1,
    clipping=0.0,
    steps=1,
    seed=0,
    scheduler=None,
    engine_options=None,
    lower_options=None,
    upper_options=None,
    classes=(Lower, Upper),
    callbacks=(),
    dtype=torch.float64,
    **engine_kwargs,
):
    """An engine over Net and Gate; the upper learning rate is 0 unless given."""
    torch.manual_seed(seed)
    net, gate = Net(dropout).to(dtype), Gate().to(dtype)

    def collate(examples):
        x, y = stack(examples)
        return x.to(dtype), y

    optim = optimizer([p for p in net.parameters() if p.requires_grad])
    lower = classes[0](
        "lower",
        ProblemConfig(
            hypergradient=hypergradient,
            unroll_steps=unroll_steps,
            gradient_accumulation=gas,
            gradient_clipping=clipping,
            **(lower_options or {}),
        ),
        module=net,
        optimizer=optim,
        scheduler=None if scheduler is None else scheduler(optim),
        train_data_loader=ResumableLoader(dataset(64, 1), 8, collate, seed=seed),
    )
    upper = classes[1](
        "upper",
        ProblemConfig(steps=upper_steps, **(upper_options or {})),
        module=gate,
        optimizer=upper_optimizer(list(gate.parameters())),
        train_data_loader=ResumableLoader(dataset(64, 2), 8, collate, seed=seed + 1),
    )
    engine = BilevelEngine(
        [lower, upper],
        BilevelEngineConfig(train_iters=steps, **(engine_options or {})),
        {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}},
        callbacks=callbacks,
        **engine_kwargs,
    )
    return engine, lower, upper


class Recorder:
    """Wraps an estimator's gradient: keeps the last total upper gradient."""

    def __init__(self, upper) -> None:
        self.grads = []
        upper.gradient_hooks.append(
            lambda problem, loss: self.grads.append(
                [p.grad.clone() for p in problem.trainable_parameters()]
            )
        )


def upper_gradient(engine, upper):
    """Run the engine to its end; the last total upper gradient, as one vector."""
    recorder = Recorder(upper)
    engine.run()
    return torch.cat([g.reshape(-1) for g in recorder.grads[-1]])


def brute_force(build, before=0, h=1e-5):
    """d (upper loss after the last global step) / d (upper parameter), by central differences.

    ``build()`` makes the same engine each time. It takes ``before`` global steps; then the upper
    parameter is moved by +-h and the rest of the run is done again, dropout masks and all, by
    torch's own optimisers. Nothing of the estimators is used: the engine must have
    ``hypergradient=NoHypergradient()`` and an upper learning rate of 0.
    """

    def loss(index, shift):
        engine, _, upper = build()
        total = engine.train_iters
        engine.train_iters = before
        if before:
            engine.run()
        (parameter,) = upper.trainable_parameters()
        with torch.no_grad():
            parameter.view(-1)[index] += shift
        engine.train_iters = total
        engine.run()
        return upper.last_loss

    (parameter,) = build()[2].trainable_parameters()
    return torch.stack(
        [(loss(i, h) - loss(i, -h)) / (2 * h) for i in range(parameter.numel())]
    ).reshape(-1)


def relative_error(found, expected):
    return float(torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected))


def cosine(a, b):
    return float(torch.dot(a, b) / (torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b)))


def flat(tensors):
    return torch.cat([t.detach().reshape(-1) for t in tensors])


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


@dataclasses.dataclass(frozen=True)
class Spy(Hypergradient):
    """Answers as ``inner`` does, and hands everything to ``look`` first."""

    inner: Hypergradient = None
    look: Callable = None
    name = "spy"

    def needs(self, lower):
        return self.inner.needs(lower)

    def prepare(self, lower):
        self.inner.prepare(lower)

    def implicit_term(self, vector, lower, upper):
        answer = self.inner.implicit_term(vector, lower, upper)
        self.look(vector, lower, upper, answer)
        return answer


# Registered by hand, so that only tests know the name.
jvp_fn_mapping["spy"] = lambda vector, curr, prev, sync=False: curr.config.hypergradient(
    vector, curr, prev, sync
)

"""Small two-level problems in float64, and a brute-force hypergradient to compare with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from betty.hypergradient import jvp_fn_mapping
from torch import nn

from bilevel import BilevelEngine, BilevelEngineConfig, LowerProblem, ProblemConfig, UpperProblem
from bilevel.data import ResumableLoader
from bilevel.hypergradient import Hypergradient

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

"""What the benchmarks share: a MiniLM-shaped gated LoRA model, batches, problems to time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from betty.configs import Config, EngineConfig
from betty.engine import Engine
from betty.problems import ImplicitProblem
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForSequenceClassification, BertConfig

from bilevel import BilevelEngine, BilevelEngineConfig, LowerProblem, ProblemConfig, UpperProblem
from bilevel.hypergradient import Hypergradient
from bilevel.lowrank.attach import attach_gates
from bilevel.lowrank.gates import Gates
from bilevel.lowrank.layers import lora_layers

BATCH, LENGTH = 32, 64


def base_model(attention: str = "sdpa", dropout: float = 0.1) -> Any:
    """MiniLM-L6's architecture with random weights: time and memory do not depend on values."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        num_labels=2,
    )
    return AutoModelForSequenceClassification.from_config(config, attn_implementation=attention)


def lora_model(gated: bool, **options: Any) -> tuple[PeftModel, Gates | None]:
    """Rank-8 LoRA on query and value, with softmax gates or without."""
    model = get_peft_model(
        base_model(**options),
        LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"], task_type="SEQ_CLS"),
    )
    if not gated:
        return model, None
    with torch.no_grad():  # away from B = 0, where half of all derivatives vanish
        for layer in lora_layers(model).values():
            layer.lora_B["default"].weight.normal_(std=0.02)
    gates = Gates(list(lora_layers(model)), 8)
    attach_gates(model, gates)
    return model, gates


class Batches:
    """An endless loader of one fixed batch."""

    def __init__(
        self, seed: int, device: str = "cpu", length: int = LENGTH, batch: int = BATCH
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.batch = {
            "input_ids": torch.randint(1000, 30000, (batch, length), generator=generator).to(
                device
            ),
            "attention_mask": torch.ones(batch, length, dtype=torch.long, device=device),
            "labels": torch.randint(0, 2, (batch,), generator=generator).to(device),
        }

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while True:
            yield dict(self.batch)


class Lower(LowerProblem):
    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        return self.module(**batch).loss


class Upper(UpperProblem):
    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        return self.lower.module(**batch).loss


def trainable(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def our_engine(
    estimator: Hypergradient,
    precision: str,
    unroll_steps: int = 1,
    device: str = "cpu",
    batch: int = BATCH,
    length: int = LENGTH,
    **options: Any,
) -> BilevelEngine:
    """AutoLoRA's search as this engine runs it."""
    model, gates = lora_model(gated=True, **options)
    lower = Lower(
        "lower",
        ProblemConfig(hypergradient=estimator, precision=precision, unroll_steps=unroll_steps),
        module=model,
        optimizer=torch.optim.AdamW(trainable(model), lr=1e-3),
        train_data_loader=Batches(1, device, length, batch),
    )
    assert gates is not None
    upper = Upper(
        "upper",
        ProblemConfig(precision=precision),
        module=gates,
        optimizer=torch.optim.Adam(gates.parameters(), lr=1e-3),
        train_data_loader=Batches(2, device, length, batch),
    )
    return BilevelEngine(
        [lower, upper],
        BilevelEngineConfig(train_iters=1, strategy="cpu" if device == "cpu" else "gpu"),
        {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}},
    )


class StockProblem(ImplicitProblem):
    """Stock Betty with the two overrides without which it cannot train a PEFT model at all."""

    def trainable_parameters(self) -> list[torch.nn.Parameter]:
        return trainable(self.module)

    def patch_optimizer(self) -> None:
        pass


class StockLower(StockProblem):
    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        return self.module(**batch).loss


class StockUpper(StockProblem):
    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        return self.lower.module(**batch).loss


def stock_engine(batch: int = BATCH, length: int = LENGTH, **options: Any) -> Engine:
    """The same search by stock Betty's darts, fp32."""
    model, gates = lora_model(gated=True, **options)
    assert gates is not None
    lower = StockLower(
        "lower",
        Config(type="darts", unroll_steps=1),
        module=model,
        optimizer=torch.optim.AdamW(trainable(model), lr=1e-3),
        train_data_loader=Batches(1, length=length, batch=batch),
    )
    upper = StockUpper(
        "upper",
        Config(retain_graph=True),
        module=gates,
        optimizer=torch.optim.Adam(gates.parameters(), lr=1e-3),
        train_data_loader=Batches(2, length=length, batch=batch),
    )
    return Engine(
        [lower, upper],
        EngineConfig(train_iters=1, valid_step=10**9),
        {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}},
    )


def lora_step(
    precision: str,
    device: str = "cpu",
    batch: int = BATCH,
    length: int = LENGTH,
    **options: Any,
) -> Callable[[], None]:
    """A plain PEFT LoRA training step in a plain PyTorch loop."""
    model, _ = lora_model(gated=False, **options)
    model.to(device).train()
    optimizer = torch.optim.AdamW(trainable(model), lr=1e-3)
    data = Batches(1, device, length, batch).batch

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            loss = model(**data).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def timed(step: Callable[[], None], device: str = "cpu", clock: str = "wall") -> float:
    """Seconds of one call, by the wall clock or by this process's processor time."""
    now = time.process_time if clock == "cpu" else time.perf_counter
    if device == "cuda":
        torch.cuda.synchronize()
    start = now()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return now() - start

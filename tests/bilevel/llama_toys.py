"""Two levels on a tiny Llama with gated LoRA, whose frozen base can be shared out."""

from __future__ import annotations

import peft
import torch
import transformers
from torch import nn

from bilevel import BilevelEngine, BilevelEngineConfig, LowerProblem, ProblemConfig, UpperProblem
from bilevel.data import ResumableLoader
from bilevel.lowrank import Gates, attach_gates
from bilevel.lowrank.layers import lora_layers


def tiny_llama(layers=3, hidden=16, inner=32, tied=False, dtype=torch.float64):
    """A random Llama that puts out text."""
    config = transformers.LlamaConfig(
        vocab_size=48,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        tie_word_embeddings=tied,
        initializer_range=0.2,
        attn_implementation="eager",
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return transformers.LlamaForCausalLM(config).to(dtype)


def gated_llama(dtype=torch.float64, r=3, head=(), **options):
    """The same with LoRA on q and v, B not zero, and gates on every component."""
    config = peft.LoraConfig(
        r=r,
        lora_alpha=6,
        target_modules=["q_proj", "v_proj"],
        modules_to_save=list(head) or None,
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(tiny_llama(dtype=dtype, **options), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    model.to(dtype)
    gates = Gates(list(lora_layers(model)), r, "softmax").to(dtype)
    attach_gates(model, gates)
    return model, gates


def texts(n, seed, length=10):
    """Random token sequences; of some, a part has no label, of a few, none."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, 48, (n, length), generator=generator)
    labels = tokens.clone()
    known = torch.randint(0, length, (n, 1), generator=generator)
    labels[torch.arange(length) > known] = -100  # known = 0: the first label is never asked for
    return [
        {"input_ids": row, "labels": known_part}
        for row, known_part in zip(tokens, labels, strict=True)
    ]


def collate(rows):
    return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


class LowerText(LowerProblem):
    def training_step(self, batch):
        return self.module(**batch).loss


class UpperText(UpperProblem):
    def training_step(self, batch):
        return self.lower.module(**batch).loss


def two_llama_levels(
    hypergradient,
    unroll_steps=2,
    steps=2,
    batch_size=4,
    gas=1,
    upper_steps=1,
    prepare=lambda model: None,
    engine_options=None,
    lower_type="unrolled",
    **options,
):
    """Factors (and head) of :func:`gated_llama` below, gates above."""
    torch.manual_seed(0)
    model, gates = gated_llama(**options)
    prepare(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    split = {"gradient_accumulation": gas}
    lower = LowerText(
        "lower",
        ProblemConfig(
            type=lower_type, hypergradient=hypergradient, unroll_steps=unroll_steps, **split
        ),
        module=model,
        optimizer=torch.optim.AdamW(trained, lr=1e-2),
        train_data_loader=ResumableLoader(texts(64, 1), batch_size, collate),
    )
    upper = UpperText(
        "upper",
        ProblemConfig(steps=upper_steps, **split),
        module=gates,
        optimizer=torch.optim.Adam(gates.parameters(), lr=0.1),
        train_data_loader=ResumableLoader(texts(64, 2), batch_size, collate, seed=1),
    )
    engine = BilevelEngine(
        [lower, upper],
        BilevelEngineConfig(**{"train_iters": steps, **(engine_options or {})}),
        {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}},
    )
    return engine, lower, upper

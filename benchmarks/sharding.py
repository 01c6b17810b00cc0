"""What a base that is shared out costs on paper: memory of each GPU, bytes it receives in a step.

    python -m benchmarks.sharding [--gpus 8] [--rank 16] [--batch 4] [--length 512] [--rate 200]

Nothing runs: models of these shapes are made on the meta device, and
:func:`bilevel.sharding_cost.sharding_cost` adds up their tensors (its sums are counted in
tests/bilevel/test_sharding.py). The base is in bf16, LoRA on all query and value projections in
fp32 with AdamW's two moments, activations are computed again (model.gradient_checkpointing): kept
are each layer's input and, in bf16 and fp32, the logits. ``--rate`` is the GB/s at which a GPU
receives, of the link that you have.
"""

from __future__ import annotations

import argparse

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

from bilevel.sharding_cost import ShardingCost, sharding_cost

GIB, GB = 2**30, 1e9
# Published shapes of Llama 2.
SHAPES = {
    "7B": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32},
    "70B": {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
}
# Forward and backward passes of a global step with T1 = T2 = 1 (docs/distributed.md).
PASSES = {"lora": 1, "none": 2, "finite_difference": 3, "unrolled, central difference": 4}


def cost_of(name: str, gpus: int, rank: int) -> tuple[ShardingCost, LlamaConfig]:
    """Of one of the shapes, shared out over ``gpus`` processes."""
    config = LlamaConfig(vocab_size=32000, **SHAPES[name])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        options = LoraConfig(r=rank, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        adapted = get_peft_model(model, options)
    return sharding_cost(adapted, gpus), config


def rows(gpus: int, rank: int, batch: int, length: int, rate: float) -> list[dict[str, str]]:
    """A row of the table for each shape; arguments as on the command line, ``batch`` a GPU."""
    found = []
    for name in SHAPES:
        cost, config = cost_of(name, gpus, rank)
        tokens = batch * length
        layers = config.num_hidden_layers * tokens * config.hidden_size * 2
        activations = layers + tokens * config.vocab_size * (2 + 4)
        states = 3 * cost.trained  # gradient and two moments
        row = {
            "model": name,
            "whole base, GiB": f"{cost.whole / GIB:.1f}",
            "its part": f"{cost.part / GIB:.2f}",
            "LoRA, gradient, moments": f"{(cost.others + states) / GIB:.2f}",
            "gathered at most": f"{(cost.most - cost.held) / GIB:.2f}",
            "activations": f"{activations / GIB:.2f}",
            "a GPU in all": f"{(cost.most + states + activations) / GIB:.1f}",
            "a pass receives, GB": f"{cost.forward_backward / GB:.1f}",
        }
        for method, passes in PASSES.items():
            received = passes * cost.forward_backward + cost.averaging
            row[f"{method}: GB a step (s)"] = f"{received / GB:.0f} ({received / GB / rate:.2f})"
        found.append(row)
    return found


def main() -> None:
    """Print the table in Markdown, a column a model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rate", type=float, default=200.0)
    table = rows(**vars(parser.parse_args()))
    head, *keys = table[0]
    print(f"| {head} | {' | '.join(row[head] for row in table)} |")
    print("|---" * (len(table) + 1) + "|")
    for key in keys:
        print(f"| {key} | {' | '.join(row[key] for row in table)} |")


if __name__ == "__main__":
    main()

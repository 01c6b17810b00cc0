"""Fine-tune LoRA as people do without this project: datasets, PEFT and the transformers Trainer.

    python -m benchmarks.trainer_run DATA MODEL OUT [--steps 100] [--batch 16] [--precision fp32]

DATA holds ``train`` and ``validation`` (parquet or jsonl) with the columns sentence and label. It
imports nothing of the project, so that its memory (benchmarks/peers.py) is its own.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

__all__ = ["arguments", "with_lora"]


def with_lora(model: Any, targets: list[str], head: list[str]) -> Any:
    """Rank 8 and alpha 16, as ``method=lora`` has them; the head is trained too."""
    return get_peft_model(
        model, LoraConfig(r=8, lora_alpha=16, target_modules=targets, modules_to_save=head)
    )


def arguments(out: str | Path, steps: int, batch: int, precision: str) -> TrainingArguments:
    """What ``method=lora`` trains with: AdamW, weight decay 0.1, linear schedule, 6 % warm-up.

    No gradient is clipped, as there; the rest is the Trainer's own, its fused AdamW too.
    """
    return TrainingArguments(
        output_dir=str(out),
        max_steps=steps,
        per_device_train_batch_size=batch,
        learning_rate=1e-3,
        weight_decay=0.1,
        warmup_steps=int(0.06 * steps),
        max_grad_norm=0.0,
        bf16=precision == "bf16",
        logging_steps=10,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    options = parser.parse_args()
    files = {name: str(next(options.data.glob(f"{name}.*"))) for name in ("train", "validation")}
    reader = "parquet" if files["train"].endswith(".parquet") else "json"
    data = load_dataset(reader, data_files=files, cache_dir=str(options.out / "cache"))
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    data = data.map(
        lambda rows: tokenizer(rows["sentence"], truncation=True, max_length=128), batched=True
    )
    model = AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=2)
    trainer = Trainer(
        with_lora(model, ["query", "value"], ["classifier"]),
        arguments(options.out, options.steps, options.batch, options.precision),
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    trainer.train()
    print(trainer.evaluate())
    trainer.save_model(str(options.out / "adapter"))


if __name__ == "__main__":
    main()

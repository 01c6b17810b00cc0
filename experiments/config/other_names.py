"""List names that other tools have for an option, so that a message can name ours."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["OTHER_NAMES", "in_python", "ours"]

ONE_LEVEL, TWO_LEVELS = "method.optimizer.", "method.lower."

# Hugging Face's Trainer and its examples, PEFT, axolotl, LLaMA-Factory -> here; several where it
# depends on the method or the kind of task.
OTHER_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "adam_beta1": "method.optimizer.betas",
        "adam_beta2": "method.optimizer.betas",
        "adam_epsilon": "method.optimizer.eps",
        "base_model": "model.pretrained",
        "batch_size": "train.batch_size",
        "bf16": "engine.precision",
        "bs": "train.batch_size",
        "checkpoint_every": "engine.checkpoint_every",
        "class_weight": "train.class_weights",
        "class_weights": "train.class_weights",
        "cutoff_len": "task.max_length",
        "data_dir": "task.data_dir",
        "data_path": "task.data_dir",
        "dataset": "task.data_dir",
        "dataset_name": "task.data_dir",
        "device": "engine.strategy",
        "dropout": "method.lora_dropout",
        "early_stopping": "engine.early_stopping",
        "early_stopping_patience": "engine.early_stopping",
        "epochs": "train.epochs",
        "eval_steps": "engine.evaluate_every",
        "eval_strategy": "engine.evaluate_every",
        "evaluation_strategy": "engine.evaluate_every",
        "exclude_modules": "train.target_modules",
        "fp16": "engine.precision",
        "gradient_accumulation": "train.gradient_accumulation",
        "gradient_accumulation_steps": "train.gradient_accumulation",
        "gradient_checkpointing": "model.gradient_checkpointing",
        "gradient_clipping": "train.gradient_clipping",
        "group_by_length": "train.group_by_length",
        "init_lora_weights": "method.peft.init_lora_weights",
        "label_column": "task.label_column",
        "label_column_name": "task.label_column",
        "label_smoothing_factor": "train.label_smoothing",
        "layers_to_transform": "train.target_modules",
        "learning_rate": "train.lr",
        "load_in_4bit": "model.quantization",
        "load_in_8bit": "model.quantization",
        "logging_steps": "engine.metrics_every",
        "lora_alpha": "method.lora_alpha",
        "loraplus_lr_ratio": "train.lora_plus_ratio",
        "lora_dropout": "method.lora_dropout",
        "lora_r": "method.rank",
        "lora_rank": "method.rank",
        "lora_target_modules": "train.target_modules",
        "lr": "train.lr",
        "lr_scheduler": "method.optimizer.schedule",
        "lr_scheduler_type": "method.optimizer.schedule",
        "max_eval_samples": "task.max_test",
        "max_grad_norm": "train.gradient_clipping",
        "max_length": "task.max_length",
        "max_seq_len": "task.max_length",
        "max_seq_length": "task.max_length",
        "max_steps": "train.max_steps",
        "max_target_length": "task.max_target_length",
        "max_train_samples": "task.max_train",
        "metrics": "task.metrics",
        "micro_batch_size": "train.batch_size",
        "model_name": "model.pretrained",
        "model_name_or_path": "model.pretrained",
        "model_revision": "model.revision",
        "num_beams": "task.decoding.beams",
        "num_epochs": "train.epochs",
        "num_train_epochs": "train.epochs",
        "optim": "method.optimizer.name",
        "output_dir": "hydra.run.dir",
        "per_device_train_batch_size": "train.batch_size",
        "precision": "engine.precision",
        "pretrained": "model.pretrained",
        "pretrained_model_name_or_path": "model.pretrained",
        "r": "method.rank",
        "random_seed": "seed",
        "rank": "method.rank",
        "rank_pattern": "method.ranks",
        "resume": "run.resume",
        "resume_from_checkpoint": "run.resume",
        "save_steps": "engine.checkpoint_every",
        "save_total_limit": "engine.keep_checkpoints",
        "seed": "seed",
        "target_modules": "train.target_modules",
        "task_name": "task",
        "text_column": "task.text_columns",
        "text_column_name": "task.text_columns",
        "text_columns": "task.text_columns",
        "torch_dtype": "model.dtype",
        "train_batch_size": "train.batch_size",
        "train_file": "task.data_dir",
        "unroll_steps": "method.unroll_steps",
        "use_dora": "method",
        "use_rslora": "method.peft.use_rslora",
        "warmup_ratio": "method.optimizer.warmup_ratio",
        "warmup_steps": "train.warmup_steps",
        "weight_decay": "method.optimizer.weight_decay",
    }
)


def ours(name: str) -> str:
    """``; what other tools call NAME is OPTION here`` for a known name, else an empty string.

    Args:
        name: as it was typed, with or without a group.
    """
    last = name.rpartition(".")[2]
    found = OTHER_NAMES.get(last.lower().replace("-", "_"))
    if found is None or found == name:
        return ""
    if found.startswith(ONE_LEVEL):
        found += f" (with two levels {found.replace(ONE_LEVEL, TWO_LEVELS)})"
    if last == name and last != found.rpartition(".")[2]:
        return f"; what other tools call {last} is {found} here"
    return f"; it is {found} here"


def in_python(name: str) -> str:
    """:func:`ours` for an argument of ``finetune``."""
    found = OTHER_NAMES.get(name.lower(), "")
    group, _, option = found.partition(".")
    if group == "train":
        return f"; it is {option}= here"
    if group == "engine":
        return f'; it is an option of the engine, engine={{"{option}": ...}}'
    if group == "method":
        return f"; it is an option of the method, method=LoRA({option.partition('.')[0]}=...)"
    return ""

"""Delta-LoRA: the base weight follows the delta of the low-rank product."""

from problems.delta_lora.method import DeltaLoRA as DeltaLoRA

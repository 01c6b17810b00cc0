"""Delta-LoRA: the base weight follows the delta of the low-rank product."""

from .method import DeltaLoRA as DeltaLoRA

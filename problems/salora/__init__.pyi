"""SaLoRA on one level, as published, and its gates on D_val (ours)."""

from .bilevel import SaLoRABilevel as SaLoRABilevel
from .one_level import SaLoRA as SaLoRA

"""SaLoRA on one level, as published, and its gates on D_val (ours)."""

from problems.salora.bilevel import SaLoRABilevel as SaLoRABilevel
from problems.salora.one_level import SaLoRA as SaLoRA

"""DyLoRA: one adapter for every rank up to the largest."""

from .levels import Prefix as Prefix
from .method import DyLoRA as DyLoRA

"""Learned settings: LoRA's decays, rates, scales, dropout and the like, chosen on D_val."""

from .method import LearnedSettings as LearnedSettings
from .random_search import RandomSettings as RandomSettings
from .variables import Variables as Variables

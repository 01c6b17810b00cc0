"""Pretrained models: found, loaded with a head, and fitted to the memory there is."""

from experiments.models.spec import ModelSpec as ModelSpec

"""Scores of generated text against human references, by name: :data:`TEXT_METRICS`."""

from experiments.metrics.text.base import TextMetric
from experiments.metrics.text.registry import TEXT_METRICS, score_text

__all__ = ["TEXT_METRICS", "TextMetric", "score_text"]

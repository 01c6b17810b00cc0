"""Run the application in a folder, on however many processes there are; hold what it wrote."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.training import job, warm_start

__all__ = ["alike", "in_float64", "run"]


def run(words: list[str], folder: Path, resume: bool = False) -> dict[str, Any]:
    """What result.json of a run says."""
    plan = Plan.of(compose_config([*words, f"hydra.run.dir={folder}"]))
    return job.execute(replace(plan, figures=False, resume=resume), folder)


def alike(found: Any, expected: Any, atol: float) -> bool:
    """Whether two records say the same, the numbers with a point in them to ``atol``."""
    if isinstance(expected, float):
        return isinstance(found, float) and abs(found - expected) <= atol
    if isinstance(expected, dict):
        keys = found.keys() == expected.keys()
        return keys and all(alike(found[key], expected[key], atol) for key in expected)
    if isinstance(expected, list):
        pairs = zip(found, expected, strict=True)
        return len(found) == len(expected) and all(alike(*pair, atol) for pair in pairs)
    return bool(found == expected)


@contextmanager
def in_float64() -> Iterator[None]:
    """Load models, and make what is made, in float64: roundings then cannot grow to anything."""
    load = warm_start.load

    def doubled(*args: Any) -> Any:
        found = load(*args)
        found.model.double()
        return found

    warm_start.load = doubled
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        warm_start.load = load

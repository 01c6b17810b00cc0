"""Run the application in a folder, on however many processes there are, in float64 if need be."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.training import job, warm_start

__all__ = ["in_float64", "run"]


def run(words: list[str], folder: Path, resume: bool = False) -> dict[str, Any]:
    """What result.json of a run says."""
    plan = Plan.of(compose_config([*words, f"hydra.run.dir={folder}"]))
    return job.execute(replace(plan, figures=False, resume=resume), folder)


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

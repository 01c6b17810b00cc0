"""Try an entry's methods and settings on tiny stand-ins: it reproduces nothing."""

from __future__ import annotations

import re
from typing import Any

from bilevel.errors import UserError

__all__ = ["LABEL", "stand_in"]

LABEL = "smoke test, NOT a reproduction: tiny stand-ins for data and models, a few steps"

CLASSIFY = ("demo", "demo")
TAG = ("demo_tagging", "demo")
GENERATE = ("demo_generation", "demo_causal")
# Task and model in the place of each task's, of the same kind.
STAND_INS = {
    **dict.fromkeys(("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte"), CLASSIFY),
    **dict.fromkeys(("jnlpba",), TAG),
    **dict.fromkeys(("e2e", "webnlg", "dart", "xsum", "instructions"), GENERATE),
}
# Options that belong to the real data, model and machine, or that say how long to train.
LEFT_OUT = ("task.", "model.", "engine.")
LENGTH = (
    *("train.epochs", "train.max_steps", "train.warmup_steps"),
    "method.start_step",  # Delta-LoRA's: it would never begin
    *("train.batch_size", "train.gradient_accumulation"),
)
# SaLoRA's gates need three steps in their window, 0.3 of all by default.
SHORT = {
    "task.max_train": 48,
    "task.max_test": 16,
    "train.batch_size": 8,
    "train.max_steps": 12,
    "engine.precision": "fp32",
    "engine.evaluate_every": 0.5,  # some points of a loss curve
    "engine.metrics_every": 1,
}
# Beams of long texts are most of a short run's time.
WRITE = {"task.decoding.beams": 1, "task.decoding.max_new_tokens": 8}
# The demo model has fewer layers than the papers' models.
TARGETS, LAYERS = "train.target_modules", 4
# Virtual tokens need room among the 48 positions of the demo model.
VIRTUAL = {"task.max_length": 28}


def stand_in(
    groups: dict[str, str | None], settings: dict[str, Any]
) -> tuple[dict[str, str | None], dict[str, Any]]:
    """Groups and settings of the small run in the place of a real one.

    Raises:
        UserError: the task has no stand-in.
    """
    if groups["task"] not in STAND_INS:
        raise UserError(f"task {groups['task']} has no stand-in for scale=smoke")
    task, model = STAND_INS[str(groups["task"])]
    kept = {
        key: value
        for key, value in settings.items()
        if not key.startswith(LEFT_OUT) and key not in LENGTH
    }
    if TARGETS in kept:
        kept[TARGETS] = re.sub(
            r"\blayer\.(\d+)", lambda found: f"layer.{int(found[1]) % LAYERS}", str(kept[TARGETS])
        )
    special: dict[str, Any] = dict(WRITE) if (task, model) == GENERATE else {}
    if groups["method"] in ("prompt", "prefix"):
        special |= VIRTUAL
    return {**groups, "task": task, "model": model}, {**kept, **SHORT, **special}

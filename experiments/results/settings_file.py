"""Write the settings that a run has found as an option of the group method, for method=lora."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bilevel.checkpoint.disk import told_when_full
from experiments.cli.writing import write_atomically

__all__ = ["FOLDER", "NAME", "write"]

FOLDER = "learned_settings"  # of a run, to be named by --config-dir
NAME = "lora_learned"


def write(options: Mapping[str, Any], model: str, lr: float, passes: float, folder: Path) -> Path:
    """Write ``learned_settings/method/lora_learned.yaml`` below a run's folder.

    Args:
        options: of ``method=lora``, plain values.
        model: of the run, by its name, which the file tells so that a run with another says so.
        lr: of the run, of which the learning rates found are factors.
        passes: over its data that the run took in the end, for which the settings were found.
        folder: the run's.

    Returns:
        The file.

    Raises:
        UserError: the disk is full.
    """
    path = folder / FOLDER / "method" / f"{NAME}.yaml"
    own = options["optimizer"]["lr"] is not None  # which the file has, and train.lr has no say
    rate = "" if own else f" train.lr={lr:g}"
    rate += f" train.epochs={passes:.3g}"
    head = (
        f"# python -m experiments.run --config-dir=RUN/{FOLDER} method={NAME}{rate} task=...\n"
        "# LoRA with the settings that a run of method=learned_settings or random_settings found.\n"
    )
    known = {"model": model, "lr": lr, **{name: options[name] for name in ("rank", "lora_alpha")}}
    options = {**options, "settings": {**options["settings"], "found_with": known}}
    body = yaml.safe_dump({"defaults": ["lora"], **options}, sort_keys=False)
    with told_when_full(path.parent):
        write_atomically(path, head + body)
    return path

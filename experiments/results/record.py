"""Write and read result.json: what a run found, in one file of a fixed form."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from bilevel.errors import UserError, listed
from bilevel.reading import json_object
from experiments.answers import TEXT
from experiments.cli.writing import write_atomically
from experiments.results import settings_file, source_table
from experiments.results.shape import check_result

__all__ = [
    "BASE",
    "FILE",
    "SCHEMA_VERSION",
    "gap",
    "read",
    "saved_folder",
    "summary",
    "validation_score",
    "versions",
    "write",
]

SCHEMA_VERSION = 1
FILE = "result.json"
BASE = "base"  # the folder of the weights that a warm-started run began with
SAVED = ("adapter", "model")
PACKAGES = (
    *("torch", "transformers", "peft", "betty-ml", "datasets", "hydra-core", "numpy"),
    "bilevel-finetuning",
)


def write(folder: Path, values: dict[str, Any]) -> None:
    """Write result.json, all of it or nothing."""
    write_atomically(folder / FILE, json.dumps(values, indent=2) + "\n")


def read(folder: Path) -> dict[str, Any] | None:
    """What result.json says, None if there is none.

    Raises:
        UserError: the file is not what :func:`write` writes.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    values = json_object(path)
    if values.get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"{path} is not of schema version {SCHEMA_VERSION}")
    if "program" not in values:  # those of other programs have a form of their own
        check_result(values, str(path))
    return values


def saved_folder(values: Mapping[str, Any], folder: Path) -> Path:
    """Where the run in a folder has saved its model: in the folder, which may have been moved.

    Raises:
        UserError: result.json does not say.
    """
    name = Path(values.get("adapter_dir") or "").name
    if name not in SAVED:
        raise UserError(f"{folder / FILE} is damaged: 'adapter_dir' is none of {listed(SAVED)}")
    return folder / name


def summary(values: dict[str, Any], folder: Path) -> str:
    """A few lines for the person who waited."""
    metrics = ", ".join(f"{name} {shown(value)}" for name, value in values["metrics"].items())
    lines = [
        f"{values['method']} on {values['task']}, {values['model']}, seed {values['seed']}",
        f"  test      {metrics}",
        f"  loss      train {shown(values['train_loss'])}, test {shown(values['test_loss'])}: "
        f"over-fitting gap {shown(gap(values))}",
    ]
    entities = values.get("entities")  # older runs have none
    if entities:
        types = [f"{name} {shown(scores['f1'])}" for name, scores in entities.items()]
        lines.append(f"  F1 of     {', '.join(types)}")
    if values["ranks"]:
        ranks = list(values["ranks"].values())
        lines.append(
            f"  ranks     mean {sum(ranks) / len(ranks):.2f}, {min(ranks)} to {max(ranks)} "
            f"in {len(ranks)} modules, {values['adapter_parameters']:,} parameters"
        )
    judged = {one["about"] for one in values.get("verdict", ())}
    if values.get("decided") and "ranks" not in judged:  # older runs do not say
        lines.append(f"            {values['decided']['words']}")
    if values.get("lora"):  # older runs have none
        lines.append(
            f"  settings  {folder / settings_file.FOLDER}, for method={settings_file.NAME}"
        )
    if values.get("source_weights"):  # older runs have none
        said = source_table.lines(values["source_weights"])
        lines += [f"  {'sources' if i == 0 else '':9} {line}" for i, line in enumerate(said)]
    beside = values.get("beside_probe")  # older runs have none
    if beside:
        lines.append(
            f"  probe     {shown(beside['score'])} here, {shown(beside['other'])} by a linear map "
            f"on the frozen model ({beside['seconds']:.1f} s)"
        )
    if values["planted"]:
        found = values["planted"]
        rank_correlation = "-" if found["spearman"] is None else f"{found['spearman']:.2f}"
        lines.append(
            f"  planted   rank correlation {rank_correlation}, exact {found['exact']:.0%} "
            f"(by chance {found['exact_by_chance']:.0%}), "
            f"{found['parameter_ratio']:.2f} x the parameters needed"
        )
    total = sum(values["seconds"].values())
    lines += [
        f"  time      {total:.1f} s ("
        + (", ".join(f"{name} {s:.1f}" for name, s in values["seconds"].items()) or "no training")
        + f"), peak memory {values['peak_memory_mib']:.0f} MiB",
        # as the folder is called: adapter, or model where the whole of it is saved
        f"  {Path(values['adapter_dir']).name:9} {values['adapter_dir']}",
    ]
    if (folder / "figures").is_dir():
        lines.append(f"  figures   {folder / 'figures'}")
    for one in values.get("verdict", ()):  # older runs have none
        lines.append(f"  verdict   {one['words']}; {one['advice']}")
    return "\n".join(lines)


def validation_score(values: Mapping[str, Any]) -> float:
    """What a run is to be chosen by, the larger the better; nothing of it is of the test set.

    The primary metric on the validation data; of written text, which is scored on the test alone,
    minus their loss; nan without validation data.
    """
    found = values.get("validation")
    if found is None:
        return math.nan
    score = None if values["kind"] == TEXT else found["metrics"].get(values["primary_metric"])
    return -float(found["loss"]) if score is None else float(score)


def gap(values: Mapping[str, Any]) -> float | None:
    """The over-fitting gap, test loss less train loss; None without training data."""
    train = values["train_loss"]
    return None if train is None else values["test_loss"] - train


def shown(value: float | None) -> str:
    """A score with four digits after the point, or a dash where there is none."""
    return "-" if value is None else f"{value:.4f}"


def versions() -> dict[str, str]:
    """The version of each package that a result may depend on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found

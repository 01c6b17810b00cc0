"""Write what a cut found: ranks.json, the adapters at their true ranks, and a LoraConfig."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel

from bilevel.checkpoint.disk import told_when_full
from bilevel.checkpoint.sums import seal
from bilevel.cutting import Cut
from bilevel.cutting.decided import Decided
from bilevel.lowrank import ExportReport, export_adapter, lora_pattern, lora_scales
from experiments.artefacts.artefact import Artefact
from experiments.cli.writing import write_atomically
from experiments.results.ranks_folder import CONFIG, FILE, FOLDER, PICTURE

__all__ = ["CONFIG", "FILE", "FOLDER", "PICTURE", "lora_config", "save_cut", "write"]


def lora_config(model: PeftModel, ranks: dict[str, int]) -> LoraConfig:
    """A configuration to train plain LoRA of these ranks with, each layer at its present scale.

    Raises:
        UserError: every layer has rank 0.
    """
    trained = model.peft_config["default"]
    heads = trained.to_dict().get("modules_to_save")
    return LoraConfig(
        task_type=trained.task_type,
        modules_to_save=list(dict.fromkeys(heads)) if heads else None,
        bias=trained.to_dict().get("bias", "none"),
        fan_in_fan_out=bool(trained.to_dict().get("fan_in_fan_out")),
        lora_dropout=float(trained.to_dict().get("lora_dropout") or 0.0),
        **lora_pattern(ranks, lora_scales(model)),
    )


def save_cut(
    model: PeftModel,
    cut: Cut,
    decided: Decided | None,
    folder: Path,
    artefact: Artefact,
    result: Mapping[str, Any],
) -> ExportReport:
    """Write the cut adapter in both layouts and its ``LoraConfig``: all of it, or nothing.

    Args:
        model: as :func:`bilevel.cutting.cut` left it; it stays as it is.
        cut: what stays.
        decided: how far its ranks are, for the cards.
        folder: for ``adapter``, ``adapter_compact`` and ``lora_config.json``, of this program
            alone; what a cut before has left there goes.
        artefact: what goes with the adapters.
        result: of the run that is cut, for their cards; empty where none is known.

    Raises:
        UserError: nothing stays, or the disk is full.
    """
    assert cut.keep is not None
    assert cut.ranks is not None
    config = lora_config(model, cut.ranks)
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        report = export_adapter(model, partial, keep=cut.keep)
        places = (report.adapter, report.compact)
        artefact.complete(places)
        for path in places:
            seal(path)
        final = [folder / path.name for path in places]
        kept = {**result, "ranks": cut.ranks, "adapter_parameters": report.parameters}
        kept["decided"] = None  # of the run's own ranks, if it had any
        notes = (_told(cut, decided),)
        artefact.card(places, kept if result else {}, shown=final, scored=False, notes=notes)
        values = {k: sorted(v) if isinstance(v, set) else v for k, v in config.to_dict().items()}
        with told_when_full(folder):
            write_atomically(partial / CONFIG, json.dumps(values, indent=2, default=str) + "\n")
            if folder.exists():
                shutil.rmtree(folder)
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    adapter, compact = (folder / path.name for path in (report.adapter, report.compact))
    return replace(report, adapter=adapter, compact=compact)


def _told(cut: Cut, decided: Decided | None) -> str:
    """What was done, for the card."""
    whole = cut.ranking.total
    text = (
        f"Cut by `experiments.ranks` after the training: {cut.ranking.cost(cut.keep or {}):,} of "
        f"{whole:,} adapter parameters stay, by the criterion `{cut.criterion}`."
    )
    frontier = cut.frontier
    kept = sum(int(mask.sum()) for mask in (cut.keep or {}).values())
    points = [] if frontier is None else frontier.points
    point = next((p for p in points if p.components == kept), None)
    if frontier and point:
        text += (
            f" The loss on {frontier.examples} held-out examples changes by "
            f"{point.difference:+.4f} (standard error {point.error:.4f})."
        )
    return text if decided is None else f"{text} As to the layers: {decided.words}."


def write(values: dict[str, Any], path: Path) -> None:
    """Write ranks.json, all of it or nothing."""
    with told_when_full(path.parent):
        write_atomically(path, json.dumps(values, indent=2) + "\n")

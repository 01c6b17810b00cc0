"""Lay learned settings out as a table: a row for each module, a column for each setting."""

from __future__ import annotations

from problems.lora_settings.record import GLOBAL, PER_MODULE, ModuleSettings

__all__ = ["table"]


def table(settings: ModuleSettings) -> str:
    """Plain text; what is one for all stands below. Usual settings alone are said to be so."""
    values = vars(settings)
    columns = [name for name in PER_MODULE if values[name]]
    rows = list(dict.fromkeys(module for name in columns for module in values[name]))
    lines = [["module", *columns]] if columns else []
    for row in rows:
        cells = [f"{values[name][row]:.3g}" if row in values[name] else "-" for name in columns]
        lines.append([row, *cells])
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns) + 1)] if lines else []
    text = [
        "  ".join(
            [line[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        )
        for line in lines
    ]
    usual = ModuleSettings()
    text += [f"{name} {values[name]:.3g}" for name in GLOBAL if values[name] != vars(usual)[name]]
    return "\n".join(text or ["LoRA's usual settings"])

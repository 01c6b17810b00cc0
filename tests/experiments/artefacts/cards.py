"""Read a model card as its readers do, and run what it says."""

import contextlib
import io
import os
import re
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard


def card(folder: Path) -> ModelCard:
    """The card in a folder."""
    return ModelCard.load(folder / "README.md")


def blocks(folder: Path) -> list[str]:
    """The Python in a folder's card."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run(code: str, here: Path, **changes: str) -> tuple[dict[str, Any], str]:
    """What lines define and print, run in a folder; each change must find its place once."""
    for old, new in changes.items():
        assert code.count(old) == 1, (old, code)
        code = code.replace(old, new)
    scope: dict[str, Any] = {}
    before, said = Path.cwd(), io.StringIO()
    os.chdir(here)
    try:
        with contextlib.redirect_stdout(said):
            exec(compile(code, "card", "exec"), scope)
    finally:
        os.chdir(before)
    return scope, said.getvalue()

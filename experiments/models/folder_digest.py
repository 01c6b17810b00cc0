"""Know a model's folder by what is in it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from experiments.models.folder_files import TOKENIZER_FILES

__all__ = ["folder_digest"]

# What is read of a model's folder beside its weights.
READ = ("config.json", "adapter_config.json", *TOKENIZER_FILES)
WEIGHTS = ".safetensors"
PICKLED = ".bin"  # read where there are no safetensors


def folder_digest(folder: Path) -> str:
    """A checksum of what is read of a model's folder, or an adapter's."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    safe = any(path.suffix == WEIGHTS for path in files)
    lines = []
    for path in files:
        if path.name in READ or path.suffix == (WEIGHTS if safe else PICKLED):
            with path.open("rb") as file:
                lines.append(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()

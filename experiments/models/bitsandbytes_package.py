"""Look for the package that quantises models, without loading it."""

from __future__ import annotations

from importlib import metadata

from packaging.version import Version

from bilevel.errors import UserError

__all__ = ["check_installed"]

OLDEST = "0.46.1"  # that transformers takes, and pyproject.toml asks for


def check_installed(kind: str) -> None:
    """Look for bitsandbytes; whether it works shows when it is imported.

    Args:
        kind: of quantisation, for the message.

    Raises:
        UserError: it is not installed, or too old.
    """
    needed = (
        f"model.quantization={kind} needs the package bitsandbytes, pip install '.[quantization]'"
    )
    try:
        version = metadata.version("bitsandbytes")
    except metadata.PackageNotFoundError:
        raise UserError(needed) from None
    if Version(version) < Version(OLDEST):
        raise UserError(f"{needed}: it must be at least {OLDEST}")

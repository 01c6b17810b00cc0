"""Tell labels that look or mean the same to a reader, and yet are written differently."""

from __future__ import annotations

import math
import unicodedata

__all__ = ["look_alike"]

EXACT = 2**53  # above it, different numbers have one float


def look_alike(name: str) -> object:
    """What is the same of labels that look or mean the same."""
    plain = unicodedata.normalize("NFKC", name)
    seen = "".join(c for c in plain if unicodedata.category(c) != "Cf")
    text = " ".join(seen.casefold().split())
    text = {"false": "0", "true": "1"}.get(text, text)  # as JSON, tables and people have it
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) and abs(number) < EXACT else text

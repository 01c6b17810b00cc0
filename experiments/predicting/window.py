"""Say how many rows are read, predicted on and written at once."""

from experiments.answers import TEXT

__all__ = ["rows_at_once"]

# Batches of like length are made within a window, and what is interrupted loses one at the most.
ROWS = 1024
TEXTS = 128  # to be written, which takes longer


def rows_at_once(kind: str) -> int:
    """Rows of a window, by the kind of what is put out."""
    return TEXTS if kind == TEXT else ROWS

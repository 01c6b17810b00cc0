"""Work on when nobody reads any more what is printed, as after ``python -m ... | head -1``."""

from __future__ import annotations

import io
import os
import sys

__all__ = ["go_on_unread"]


class _Stream(io.TextIOWrapper):
    """A standard stream that throws away what its closed pipe does not take."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            self._throw_away()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            self._throw_away()

    def _throw_away(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())  # what is still in the buffer goes there too
        os.close(nowhere)


def go_on_unread() -> None:
    """Print to the process's own streams without minding a closed pipe."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        # Others have put theirs there on purpose: a test, a notebook.
        if stream is getattr(sys, f"__{name}__") and type(stream) is io.TextIOWrapper:
            patient = _Stream(
                stream.buffer,
                encoding=stream.encoding,
                errors=stream.errors,
                line_buffering=stream.line_buffering or name == "stderr",
            )
            setattr(sys, name, patient)

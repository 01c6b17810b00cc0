"""Refuse a run's folder whose links lead out of it: writing there would write somewhere else."""

from __future__ import annotations

import os
from pathlib import Path

from bilevel.errors import UserError

__all__ = ["refuse_links"]


def refuse_links(folder: Path) -> None:
    """Look at all that is below a folder.

    A link to itself from outside is no matter, nor is one that stays inside.

    Raises:
        UserError: a link to a place outside the folder.
    """
    home = folder.resolve()
    for place, folders, files in os.walk(folder):  # which does not follow links
        for name in (*folders, *files):
            path = Path(place) / name
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(home):
                raise UserError(
                    f"{path} is a link to a place outside the run's folder, which is not followed: "
                    "put there what it leads to"
                )

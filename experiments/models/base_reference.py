"""Say where others can have a base model: a hub id, or a folder as they would name it.

What is written into a saved adapter is read on other machines, and by other people. So it never
names a folder of this machine or of its Python environment.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = [
    "BaseReference",
    "from_here",
    "literal",
    "of_folder",
    "of_hub",
    "of_name",
    "of_package",
    "of_program",
    "unnamed",
]

# NAME or OWNER/NAME, and nothing else.
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
# Where huggingface_hub keeps a model that it has fetched.
CACHED = re.compile(
    r"models--(?:(?P<owner>[\w.-]+?)--)?(?P<name>[\w.-]+)/snapshots/(?P<commit>\w+)"
)
# This project's packages, which lie in a clone of it.
OWN = ("experiments",)


@dataclass(frozen=True)
class BaseReference:
    """Where a base model can be had.

    Attributes:
        name: for ``base_model_name_or_path``: a hub id, or a relative path; None where there is
            neither.
        found: whether ``from_pretrained(name)`` finds it, from the hub or from the folder that the
            run was started in.
        code: a Python expression of what to load it from; None where nothing can.
        words: where it can be had, a clause in Markdown.
        hub: whether ``name`` is a hub id.
        revision: of the hub.
        offline: the same as ``code``, for those who cannot reach the hub; ``install`` gets it.
    """

    name: str | None
    found: bool
    code: str | None
    words: str
    hub: bool = False
    revision: str | None = None
    offline: str | None = None
    install: str = ""


def of_hub(name: str, revision: str | None = None) -> BaseReference:
    """A model of the hub.

    Args:
        name: its id.
        revision: a branch, tag or commit; None for the main branch.
    """
    at = "" if revision is None else f", revision `{revision}`"
    words = f"`{name}` on the Hugging Face hub{at}"
    return BaseReference(name, True, literal(name), words, hub=True, revision=revision)


def of_folder(folder: str | Path) -> BaseReference:
    """The user's own folder, by its path from the working folder; outside of that by its name.

    A folder in the hub's cache is a model of the hub.
    """
    cached = CACHED.search(Path(folder).expanduser().absolute().as_posix())
    if cached is not None:
        name = "/".join(part for part in (cached["owner"], cached["name"]) if part)
        return of_hub(name, cached["commit"])
    inside = from_here(folder)
    if inside is not None:
        words = f"in the folder `{inside}`, seen from where the run was started"
        return BaseReference(inside, True, literal(inside), words)
    name = f"./{Path(os.path.abspath(Path(folder).expanduser())).name}"
    words = f"in a folder called `{name[2:]}`, which is not beside the run: say where you have it"
    return BaseReference(name, False, literal(name), words)


def of_package(package: str, folder: str, install: str, hub: str | None) -> BaseReference:
    """A model in an installed package, this project or another.

    Args:
        package: that holds it.
        folder: of the package.
        install: the command that installs it.
        hub: the hub id of the same weights; None without.
    """
    code = f"str(files({literal(package)}) / {literal(folder)})"
    if hub is not None:
        words = f"`{hub}` on the Hugging Face hub; the package of `{install}` has the same weights"
        return BaseReference(
            hub, True, literal(hub), words, hub=True, offline=code, install=install
        )
    if package.partition(".")[0] in OWN:
        name = str(PurePosixPath(*package.split("."), folder))
        words = f"a part of this project, `{name}` in a clone of it"
        return BaseReference(name, Path(name).is_dir(), code, words)
    return BaseReference(None, False, code, f"in the package of `{install}`")


def of_name(name: str) -> BaseReference:
    """What a model in memory says that it was loaded from."""
    if name and Path(name).expanduser().is_dir():
        return of_folder(name)
    return of_hub(name) if HUB_ID.fullmatch(name) else unnamed()


def unnamed() -> BaseReference:
    """A model that was given in memory, and says nothing of where it is from."""
    words = "the model that was given in memory: say where you have saved it"
    return BaseReference(None, False, literal("./base"), words)


def of_program(option: str) -> BaseReference:
    """A model that a run makes and nobody keeps.

    Args:
        option: what makes it.
    """
    words = f"made by this project (`{option}`), not kept: the adapter is of use in it alone"
    return BaseReference(None, False, None, words)


def literal(text: str) -> str:
    """A text as Python's literal of one line, in double quotes where it needs no others."""
    found = repr(text)
    plain = found[0] == "'" and '"' not in found and "\\'" not in found
    return f'"{found[1:-1]}"' if plain else found


def from_here(path: str | Path) -> str | None:
    """A path from the working folder on, with slashes; None outside of it, or in an environment."""
    given = Path(path).expanduser()
    for place, here in (
        (Path(os.path.abspath(given)), Path.cwd()),
        (Path(os.path.realpath(given)), Path(os.path.realpath(Path.cwd()))),
    ):
        if place.is_relative_to(here) and not _installed(place):
            return place.relative_to(here).as_posix()
    return None


def _installed(place: Path) -> bool:
    """Whether it lies in a Python environment."""
    prefix = Path(os.path.abspath(sys.prefix))
    packages = {"site-packages", "dist-packages"} & set(place.parts)
    return bool(packages) or (sys.prefix != sys.base_prefix and place.is_relative_to(prefix))

"""Make objects of configuration: the one place where a ``_target_`` is followed.

A group's YAML file names a class and its keyword arguments. Before the class is called, the values
are held against its fields (:mod:`bilevel.settings`), so that a slip is told in a sentence and
before anything heavy is loaded.

A configuration may be somebody else's (``evaluate run=DIR``). So a name is followed only into our
own packages and into the folder that the command line gives now, for importing a module runs it;
and what is found there is called only if it is a class of the group's kind: a function of ours can
write files too.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import DictConfig, OmegaConf

from bilevel.errors import UserError, listed
from bilevel.settings import from_values
from experiments.config.renamed import up_to_date

__all__ = ["ALLOWED_MODULES", "build", "locate", "user_modules"]

ALLOWED_MODULES = ("bilevel", "problems", "experiments")
# module.Class and nothing else: no relative name, no empty part.
CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)

T = TypeVar("T")


def build(node: Any, group: str, kind: type[T], extra_modules: Sequence[str] = ()) -> T:
    """Call the ``_target_`` of a configuration group with its values.

    Args:
        node: the group's configuration, ``_target_`` and keyword arguments.
        group: its name, for messages.
        kind: what the result must be an instance of.
        extra_modules: top-level modules of the user's own that may be named besides ours.

    Raises:
        UserError: a target that is missing, forbidden, not to be found or of another kind; an
            unknown, missing or ill-typed value.
    """
    if not isinstance(node, DictConfig) or "_target_" not in node:
        raise UserError(f"the configuration of {group} names no _target_ (module.Class)")
    values = cast(Mapping[str, Any], OmegaConf.to_container(node, resolve=True, enum_to_str=True))
    values = up_to_date(values)
    path = str(values.pop("_target_"))
    return from_values(locate(path, group, kind, extra_modules), values, group)


def locate(path: str, group: str, kind: type[T], extra_modules: Sequence[str] = ()) -> type[T]:
    """Import ``module.Class`` from an allowed module.

    Args:
        path: the class's.
        group: whose configuration names it, for messages.
        kind: what it must be a subclass of.
        extra_modules: top-level modules of the user's own that may be named besides ours.

    Raises:
        UserError: the module is not allowed, or has no such class of that kind.
    """
    allowed = (*ALLOWED_MODULES, *extra_modules)
    said = f"{group}._target_={path}"
    module, _, name = path.rpartition(".")
    if not CLASS_PATH.fullmatch(path) or module.split(".")[0] not in allowed:
        raise UserError(
            f"{said}: only classes of {listed(allowed)} can be configured; name the folder that "
            "holds a module of your own, --config-dir=FOLDER (also where a run that used it is "
            "resumed, evaluated or exported)"
        )
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        raise UserError(f"{said}: there is no module {error.name}") from error
    if not inspect.isclass(found):
        raise UserError(f"{said}: module {module} has no class {name}")
    in_memory = found.__module__.endswith(".in_memory")  # these are given objects, not values
    if not issubclass(found, kind) or inspect.isabstract(found) or in_memory:
        raise UserError(f"{said}: this is no {kind.__name__} that can be configured")
    return found


def user_modules(folders: Iterable[str | Path]) -> list[str]:
    """Top-level modules in the user's own configuration folders, made importable.

    Args:
        folders: given by ``--config-dir`` now; never one that a file names. What lies in a run's
            folder may be somebody else's, as method=learned_settings leaves YAML there to be read
            again: no code is taken from it.
    """
    modules: list[str] = []
    for folder in map(Path, folders):
        if any((place / ".hydra").is_dir() for place in folder.resolve().parents):
            continue
        found = [file.stem for file in folder.glob("*.py") if file.stem != "__init__"]
        found += [file.parent.name for file in folder.glob("*/__init__.py")]
        place = str(folder.resolve())
        if found and place not in sys.path:
            sys.path.append(place)
        modules += found
    return modules

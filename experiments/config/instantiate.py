"""Make objects of configuration: the one place where a ``_target_`` is followed.

A group's YAML file names a class and its keyword arguments. Before the class is called, the values
are held against its fields (:mod:`bilevel.settings`), so that a slip is told in a sentence and
before anything heavy is loaded. Only modules that are meant to be configured can be named: what a
configuration file says must not be able to call ``os.system``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import DictConfig, OmegaConf

from bilevel.errors import UserError, listed
from bilevel.settings import from_values
from experiments.config.renamed import up_to_date

__all__ = ["ALLOWED_MODULES", "build", "locate", "user_modules"]

ALLOWED_MODULES = ("bilevel", "problems", "experiments", "torch")

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
    made = from_values(locate(path, group, extra_modules), values, group)
    if not isinstance(made, kind):
        raise UserError(f"{group}._target_={path} makes no {kind.__name__}")
    return made


def locate(path: str, group: str, extra_modules: Sequence[str] = ()) -> Callable[..., Any]:
    """Import ``module.Class`` from an allowed module.

    Raises:
        UserError: the module is not allowed, or there is no such class.
    """
    allowed = (*ALLOWED_MODULES, *extra_modules)
    module, _, name = path.rpartition(".")
    if module.split(".")[0] not in allowed:
        raise UserError(
            f"{group}._target_={path}: only classes of the modules {listed(allowed)} can be "
            "configured; put a module of your own into the folder given by --config-dir"
        )
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(f"{group}._target_={path}: there is no module {error.name}") from error
    target = getattr(found, name, None)
    if not callable(target):
        raise UserError(f"{group}._target_={path}: module {module} has no class {name}")
    return target


def user_modules(folders: Iterable[str | Path]) -> list[str]:
    """Top-level modules in the user's own configuration folders, made importable.

    Args:
        folders: given by ``--config-dir`` now; never one that a file names.
    """
    modules: list[str] = []
    for folder in map(Path, folders):
        found = [file.stem for file in folder.glob("*.py") if file.stem != "__init__"]
        found += [file.parent.name for file in folder.glob("*/__init__.py")]
        place = str(folder.resolve())
        if found and place not in sys.path:
            sys.path.append(place)
        modules += found
    return modules

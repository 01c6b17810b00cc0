"""Objects out of configuration: the one place where a ``_target_`` is followed.

A group's YAML file names a class and its keyword arguments. Before the class is called, the
keys are held against its signature and the values against its annotations, so that a slip is told
in a sentence and before anything heavy is loaded. Only modules that are meant to be configured can
be named: what a configuration file says must not be able to call ``os.system``.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf

from bilevel.errors import UserError, listed, nearest
from experiments.config.typecheck import convert

__all__ = ["ALLOWED_MODULES", "arguments", "build", "locate"]

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
    target, values = arguments(node, group, extra_modules)
    made = target(**values)
    if not isinstance(made, kind):
        raise UserError(f"{group}._target_={node['_target_']} makes no {kind.__name__}")
    return made


def arguments(
    node: Any, group: str, extra_modules: Sequence[str] = ()
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The callable behind a group and its checked keyword arguments; nothing is called."""
    if not isinstance(node, DictConfig) or "_target_" not in node:
        raise UserError(f"the configuration of {group} names no _target_ (module.Class)")
    values = typing.cast(
        dict[str, Any], OmegaConf.to_container(node, resolve=True, enum_to_str=True)
    )
    target = locate(str(values.pop("_target_")), group, extra_modules)
    parameters = {
        name: p
        for name, p in inspect.signature(target).parameters.items()
        if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }
    hints = _hints(target)
    for key, value in values.items():
        if key not in parameters:
            raise UserError(
                f"unknown option {key!r} in {group}: allowed are {listed(parameters)}"
                f"{nearest(key, parameters)}"
            )
        values[key] = convert(value, hints.get(key, Any), f"{group}.{key}")
    absent = [n for n, p in parameters.items() if p.default is p.empty and n not in values]
    if absent:
        raise UserError(f"{group} needs a value for {listed(f'{group}.{name}' for name in absent)}")
    return target, values


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


def _hints(target: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(target):
        # Of the class: each base's annotations mean what they mean in the base's own module.
        return typing.get_type_hints(target)
    return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)

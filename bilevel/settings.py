"""Say each setting once: a frozen dataclass's field is its name, type, range, default and meaning.

    @dataclass(frozen=True)
    class MySettings(Settings):
        rank: Count = 8
        \"\"\"Components of every layer.\"\"\"
        gate: Literal["softmax", "real"] = "softmax"
        \"\"\"How selection weights come from their logits.\"\"\"

An instance checks itself when it is made; a configuration file becomes one by :func:`from_values`;
:func:`options` tells a person all of it. Nothing else in the project repeats a default or a range.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import json
import math
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import pydantic
from annotated_types import Ge, Gt, Interval, Le, Lt, MinLen

from bilevel.errors import UserError, listed, nearest

__all__ = [
    "Count",
    "Natural",
    "NonNegative",
    "Option",
    "Passes",
    "Positive",
    "Rate",
    "Settings",
    "Share",
    "UnitInterval",
    "defaults",
    "describe",
    "from_values",
    "options",
]

# No number of things is larger, and libraries count in 32 bits; the bound is not worth saying
# where a range is printed.
MOST = 2**31 - 1

Count = Annotated[int, Ge(1), Le(MOST)]
Natural = Annotated[int, Ge(0), Le(MOST)]
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
# Far beyond what trains anything: a slip of the keyboard, or an overflow later on.
Passes = Annotated[float, Gt(0), Le(1e6)]  # over the data
Rate = Annotated[float, Gt(0), Le(1e3)]  # of learning
Share = Annotated[float, Ge(0), Lt(1)]
UnitInterval = Annotated[float, Ge(0), Le(1)]

T = TypeVar("T")

WORDS = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
# Of leaves only, so a dataclass of our own never meets pydantic's idea of one.
CHECKS = pydantic.ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)


@dataclass(frozen=True)
class Settings:
    """Base of every class whose fields a person may set, on the command line or from Python.

    Raises:
        UserError: a field's value is not of the field's type, or outside its range.
    """

    def __post_init__(self) -> None:
        cls: Any = type(self)
        for field in dataclasses.fields(self):
            hint = _hints(cls)[field.name]
            value = vars(self)[field.name]
            if isinstance(value, list) and _is(tuple, hint):
                value = tuple(value)
            checked = _checked(value, hint, f"{cls.__name__}.{field.name}", "None")
            object.__setattr__(self, field.name, checked)


@dataclass(frozen=True)
class Option:
    """What a person may want to know of a setting.

    Attributes:
        name: dotted, where settings hold settings.
        default: as YAML writes it; empty for a group.
        allowed: in words.
        meaning: the field's docstring; empty without one.
    """

    name: str
    default: str
    allowed: str
    meaning: str


def from_values(target: Callable[..., T], values: Mapping[str, Any], path: str) -> T:
    """Call a class (or function) with plain values, each held against its parameter first.

    Args:
        target: a dataclass, or anything with annotated parameters. Mappings become the dataclasses
            of their parameters, starting from the parameter's own default.
        values: None, bool, numbers, strings, lists and mappings of them, as YAML has them.
        path: where the values stand, for messages (``method`` in ``method.lower.lr``); may be
            empty.

    Raises:
        UserError: a value that is unknown, missing, of the wrong type or out of range.
    """
    parameters = _parameters(target)
    hints = _hints(target)
    if not isinstance(values, Mapping):
        raise UserError(
            f"{path}={written(values)}: this is a group of options, not a value; set one of "
            f"{listed(f'{path}.{name}' for name in parameters)}"
        )
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name not in parameters:
            known = list(parameters)
            raise UserError(
                f"unknown option {name!r} in {path}: allowed are {listed(known)}"
                f"{nearest(name, known)}"
            )
        place = f"{path}.{name}" if path else name
        found[name] = _converted(value, hints.get(name, Any), parameters[name], place)
    absent = [f"{path}.{n}" for n, d in parameters.items() if d is _NOTHING and n not in found]
    if absent:
        raise UserError(f"{path} needs a value for {listed(absent)}")
    return target(**found)


def defaults(target: Callable[..., Any]) -> dict[str, Any]:
    """The defaults of a class as plain values, nested settings as mappings; no required ones."""
    return {
        name: plain(default)
        for name, default in _parameters(target).items()
        if default is not _NOTHING
    }


def plain(value: Any) -> Any:
    """Settings as mappings and tuples as lists, as YAML has them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(vars(value)[f.name]) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value


def options(target: Callable[..., Any], values: Mapping[str, Any] | None = None) -> list[Option]:
    """Every option of a class, nested ones behind their owner's name.

    Args:
        target: the class.
        values: plain values that take the defaults' place, of a configuration file say.
    """
    return list(_options(target, {**defaults(target), **(values or {})}, ""))


def _options(target: Any, values: Mapping[str, Any], prefix: str) -> Iterator[Option]:
    meanings = _meanings(target)
    for name in _parameters(target):
        hint, value = _hints(target).get(name, Any), values.get(name, _NOTHING)
        record = _record(hint)
        if record is not None and isinstance(value, Mapping):
            if name in meanings:
                yield Option(f"{prefix}{name}", "", "a group of options", meanings[name])
            yield from _options(record, {**defaults(record), **value}, f"{prefix}{name}.")
            continue
        default = "needed" if value is _NOTHING else written(value)
        yield Option(f"{prefix}{name}", default, describe(hint), meanings.get(name, ""))


def written(value: Any, nothing: str = "null") -> str:
    """A plain value as a person would type it."""
    if value is None:
        return nothing
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(written(item, nothing) for item in value)}]"
    return str(value)


def _reads_as_another(text: str) -> bool:
    try:
        return not isinstance(json.loads(text), str)
    except json.JSONDecodeError:
        return False


def describe(hint: Any, nothing: str = "null") -> str:
    """An annotation in words: ``an integer, 1 or more, or null``."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = _range(inner[1:])
        return describe(inner[0], nothing) + (f", {bounds}" if bounds else "")
    if hint is Any:
        return "anything"
    if hint in WORDS:
        return WORDS[hint]
    if hint is type(None):
        return nothing
    if origin is Literal:
        return "one of " + listed(written(value) for value in inner)
    if origin in (Union, types.UnionType):
        return ", or ".join(describe(option, nothing) for option in inner)
    kind = origin or hint
    if not isinstance(kind, type):
        return str(kind)
    if issubclass(kind, Mapping):
        each = f", each {describe(inner[1], nothing)}" if inner[1:] not in ((), (Any,)) else ""
        return f"names with their values, like {{a: x, b: y}}{each}"
    if dataclasses.is_dataclass(kind):
        return "a group of options"
    if issubclass(kind, Sequence):
        if issubclass(kind, tuple) and inner and inner[-1] is not ...:
            each = describe(inner[0], nothing) if len(set(inner)) == 1 else "a value"
            return f"a list of {len(inner)} values like [a,b], each {each}"
        if inner and get_origin(inner[0]) in (Literal, Annotated):
            return f"a list like [a,b], each {describe(inner[0], nothing)}"
        return "a list like [a,b]"
    return kind.__name__


def _range(metadata: Sequence[Any]) -> str:
    """``1 or more``, ``in [0, 1)``, ...; empty without bounds."""
    if any(isinstance(bound, MinLen) for bound in metadata):
        return "not empty"
    low: tuple[Any, bool] | None = None
    high: tuple[Any, bool] | None = None
    for bound in metadata:
        for part in bound if isinstance(bound, Interval) else (bound,):
            if isinstance(part, (Ge, Gt)):
                low = (part.ge, True) if isinstance(part, Ge) else (part.gt, False)
            elif isinstance(part, (Le, Lt)) and part != Le(MOST):
                high = (part.le, True) if isinstance(part, Le) else (part.lt, False)
    if low is None and high is None:
        return ""
    if high is None:
        assert low is not None
        return f"{low[0]} or more" if low[1] else f"more than {low[0]}"
    if low is None:
        return f"{high[0]} or less" if high[1] else f"less than {high[0]}"
    if high[0] > 1:  # no share: brackets are for those who know them
        words = (
            f"{low[0]:g} or more" if low[1] else f"more than {low[0]:g}",
            f"{high[0]:.12g} at the most" if high[1] else f"less than {high[0]:.12g}",
        )
        return ", ".join(words)
    return f"in {'[' if low[1] else '('}{low[0]}, {high[0]}{']' if high[1] else ')'}"


def _converted(value: Any, hint: Any, default: Any, path: str) -> Any:
    record = _record(hint)
    if record is not None and isinstance(value, Mapping):
        start = plain(default) if isinstance(default, record) else {}
        return from_values(record, {**start, **value}, path)
    return _checked(value, hint, path, "null", read=True)


def _checked(value: Any, hint: Any, path: str, nothing: str, read: bool = False) -> Any:
    """``value`` as ``hint`` wants it; ``read`` for plain values, which have no tuples."""
    record = _record(hint)
    if record is not None:  # settings check themselves
        if isinstance(value, record) or (value is None and _is(type(None), hint)):
            return value
    else:
        try:
            if read:
                return _adapter(hint).validate_json(json.dumps(value))
            return _adapter(hint).validate_python(value)
        except (pydantic.ValidationError, TypeError):
            pass
    if isinstance(value, Mapping) and (inner := _of_mapping(hint)) is not None:
        for name, item in value.items():  # the one that is wrong, in words of its own
            _checked(item, inner, f"{path}.{name}", nothing, read)
    # A text that reads like something else is quoted, or "4: this must be an integer" would puzzle.
    looks_else = isinstance(value, str) and _reads_as_another(value)
    shown = repr(value) if looks_else else written(value, nothing)
    wanted, more = describe(hint, nothing), ""
    if isinstance(value, float) and not math.isfinite(value):
        more = ", and finite" if "one of" in wanted else " and finite"
    elif type(value) is int and value > MOST and "at the most" not in wanted:
        more = f", and no more than {MOST}"
    raise UserError(f"{path}={shown}: this must be {wanted}{more}")


@functools.cache
def _adapter(hint: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(hint, config=CHECKS)


def _choices(hint: Any) -> tuple[Any, ...]:
    """The members of a union, else the annotation itself."""
    if get_origin(hint) is Annotated:
        return _choices(get_args(hint)[0])
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _of_mapping(hint: Any) -> Any:
    """What the values of a mapping must be, if one is among the annotation's choices."""
    for choice in _choices(hint):
        kind, inner = get_origin(choice), get_args(choice)
        if isinstance(kind, type) and issubclass(kind, Mapping) and len(inner) == 2:
            return inner[1]
    return None


def _is(kind: type, hint: Any) -> bool:
    return any((get_origin(choice) or choice) is kind for choice in _choices(hint))


def _record(hint: Any) -> type | None:
    """The dataclass among the annotation's choices, if there is one."""
    return next((c for c in _choices(hint) if dataclasses.is_dataclass(c)), None)  # type: ignore[return-value]


class _Nothing:
    """Stands for a default that is not there."""


_NOTHING = _Nothing()


def _parameters(target: Any) -> dict[str, Any]:
    """Name -> default of what can be given."""
    if _made_from_fields(target):
        found = {}
        for field in dataclasses.fields(target):
            if not field.init:
                continue
            if field.default_factory is not dataclasses.MISSING:
                found[field.name] = field.default_factory()
            else:
                missing = field.default is dataclasses.MISSING
                found[field.name] = _NOTHING if missing else field.default
        return found
    return {
        name: _NOTHING if p.default is p.empty else p.default
        for name, p in inspect.signature(target).parameters.items()
        if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }


def _made_from_fields(target: Any) -> bool:
    """Whether a class's constructor is a dataclass's own, not one written in a subclass of it."""
    if not dataclasses.is_dataclass(target) or not inspect.isclass(target):
        return False
    maker = next(cls for cls in inspect.getmro(target) if "__init__" in vars(cls))
    return "__dataclass_fields__" in vars(maker)


@functools.cache
def _hints(target: Any) -> dict[str, Any]:
    """Resolved annotations; each base class's mean what they mean in its own module."""
    plain_class = inspect.isclass(target) and not _made_from_fields(target)
    return typing.get_type_hints(target.__init__ if plain_class else target, include_extras=True)


@functools.cache
def _meanings(target: Any) -> dict[str, str]:
    """The docstring under each field, a line each, those of base classes too."""
    found: dict[str, str] = {}
    for cls in reversed(inspect.getmro(target)) if inspect.isclass(target) else ():
        if not dataclasses.is_dataclass(cls):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
        except (OSError, TypeError):  # made at run time: it has no source
            continue
        body = typing.cast(ast.ClassDef, tree.body[0]).body
        for field, text in itertools.pairwise(body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            ):
                found[field.target.id] = " ".join(text.value.value.split())
    return found

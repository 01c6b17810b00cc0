"""Make one clear sentence of every mistake on the command line, Hydra's own errors included."""

from __future__ import annotations

import re
import shlex
import sys
from typing import Any

from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    ConfigTypeError,
    InterpolationResolutionError,
    KeyValidationError,
    OmegaConfBaseException,
    ValidationError,
)

from bilevel.checkpoint.disk import refusal
from bilevel.errors import UserError, listed, nearest, printable
from experiments.cli import places
from experiments.config.other_names import ours

__all__ = ["USER_ERRORS", "refused", "sentence"]

LONGEST = 4000  # characters of a sentence
IN_FILE = re.compile(r"In '([^']*/[^']*)'")  # Hydra's errors of what an option's file says

# What a person can cause by typing; anything else is a defect and keeps its traceback.
USER_ERRORS = (UserError, HydraException, OmegaConfBaseException)


def refused(error: BaseException) -> str | None:
    """What the disk refused, in a sentence; None if the error is of another kind."""
    cause = error.__cause__  # logging says that it was "unable to configure handler 'file'"
    if refusal(error) is None and cause is not None:
        error = cause
    if (reason := refusal(error)) is None:
        return None
    name = getattr(error, "filename", None)
    return f"cannot read or write {name or 'a file'}: {reason}"


def sentence(error: Exception) -> str:
    """Say in one line what is wrong and what is allowed instead."""
    if isinstance(error, MissingConfigException):
        text = _missing_option(error)
    elif isinstance(error, OverrideParseException):
        text = _unreadable(error)
    elif isinstance(error, ConfigCompositionException) and error.__cause__ is not None:
        text = _configuration(error.__cause__, error)
    else:
        text = _configuration(error, error)
    text = re.sub(r"\s*\n\s*", " ", text).strip()
    if len(text) > LONGEST:  # it holds a whole file, say; what to do stands at the end
        text = f"{text[: LONGEST // 2]} [...] {text[-LONGEST // 2 :]}"
    return printable(text)


def _missing_option(error: MissingConfigException) -> str:
    path = error.missing_cfg_file or ""
    group, _, option = path.rpartition("/")
    if not group:
        return str(error).splitlines()[0]
    if not error.options:
        if (file := IN_FILE.match(str(error))) is not None:
            return (
                f"{file[1]}: its defaults name {option!r}, which is no option of {group}: give one "
                f"that {group}= takes"
            )
        return f"{group}={option}: there is no such option (give one name, not a list)"
    hint = nearest(option, error.options)
    file = IN_FILE.match(str(error))
    place = "" if file is None else f"{file[1]}: "
    return f"{place}unknown {group} {option!r}: allowed are {listed(error.options)}{hint}"


def _unreadable(error: OverrideParseException) -> str:
    """Say how the option is to be quoted: in the command that was given, where that is known."""
    given = str(error.override)
    key, equals, text = given.partition("=")
    start = f"cannot read the option {given!r}: options look like name=value"
    if not equals or not re.fullmatch(r"[+~]{0,2}\w[\w./@]*", key):
        return start
    if text[:1] == "[" and re.search(r"[\[\]{}'\"]", text[1:-1]):
        return f"{start}; in a list what has signs or letters beyond a to z is quoted"
    if text[:1] == "[":
        line = _quoted(key, text)
        return f"{start}; in a list what has signs or letters beyond a to z is quoted: {line}"
    if text[:1] == "{":
        return (
            f"{start}; in a mapping, values with other signs than letters a to z, digits and "
            "_ - . / are quoted ({a: 'b=c.csv'}), and such signs in names have a \\ before them; "
            "letters like é in names can stand in an option's file (--config-dir)"
        )
    quoted = places.word(key, text)
    words = [quoted if word == given else word for word in sys.argv[1:]]
    line = places.shell_line(words) if quoted in words else shlex.quote(quoted)
    return f"{start}; a value with signs of its own is quoted twice: {line}"


def _quoted(key: str, text: str) -> str:
    """An option whose value is a list, with quotes where they are needed, for a shell."""
    words = [word.strip() for word in text.strip("[]").split(",")]
    plain = re.compile(r"[\w./-]*", re.ASCII)
    said = [word if plain.fullmatch(word) else f'"{word}"' for word in words]
    return shlex.quote(f"{key}=[{','.join(said)}]")


def _configuration(cause: BaseException, error: Exception) -> str:
    """Tell an OmegaConf error; anything else speaks for itself."""
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)) and cause.full_key:
        return _unknown_key(cause)
    if isinstance(cause, ConfigTypeError) and cause.full_key:
        given = str(error).rpartition(f"{cause.full_key}=")[2]
        return f"{cause.full_key}={given}: these are names with their values, not a list"
    if isinstance(cause, KeyValidationError):
        return f"{cause.full_key}: {cause.key!r} is no name, and each value needs one: NAME: VALUE"
    if (file := IN_FILE.match(str(error))) is not None and "ListConfig" in str(error):
        return f"{file[1]}: a list stands where names with their values belong, {{NAME: VALUE}}"
    if isinstance(cause, InterpolationResolutionError):
        return f"{cause.full_key}: {_first_line(cause)}"
    if isinstance(cause, ValidationError) and cause.full_key:
        value = "null" if cause.value is None else cause.value
        return f"{cause.full_key}={value}: {_reason(cause)}"
    return str(error)


def _unknown_key(cause: Any) -> str:
    parent, _, key = str(cause.full_key).rpartition(".")
    known = _keys(cause.parent_node)
    where = f" in {parent}" if parent else ""
    hint = ours(str(cause.full_key)) or nearest(key, known)
    return f"unknown option {key!r}{where}: allowed are {listed(known)}{hint}"


def _keys(node: Any) -> list[str]:
    if not isinstance(node, DictConfig) or node._is_missing() or node._is_none():
        return []
    return [str(key) for key in node if str(key) not in ("_target_", "hydra")]


def _reason(cause: ValidationError) -> str:
    """OmegaConf's reason in plain words."""
    text = _first_line(cause)
    if "is not Optional" in text:
        return "a value is needed, null is not allowed"
    if "could not be converted to" in text:
        kind = text.rsplit(" ", 1)[-1].lower()
        article = "an" if kind[0] in "aeiou" else "a"
        return f"this must be {article} {kind}"
    if "is not a subclass of" in text:
        options = listed(f"{cause.full_key}.{key}" for key in _keys(cause.child_node))
        return f"this is a group of options, not a value; set one of {options}"
    if "expected one of" in text:
        return "allowed are " + text.split("expected one of")[-1].strip(" []")
    return text


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

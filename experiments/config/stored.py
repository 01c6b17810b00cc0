"""Read the configuration that a run's folder holds; nothing in it is trusted.

A folder may be somebody else's, or half written. Its YAML is read without tags that make objects
and without aliases (a few lines of them can stand for more than a memory holds), and what it says
in ``${...}`` is not followed but for another value of the same file: ``${oc.env:TOKEN}`` would end
up in a request to the hub.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_yaml_loader

from bilevel.errors import UserError
from bilevel.reading import DEEPEST, json_object, plain_values, read_text

__all__ = ["checked", "choices", "configuration", "given_now", "is_followed", "read_yaml", "words"]

HYDRA = ".hydra"
JOURNAL = Path("checkpoints") / "stages.json"
LARGEST = 2**20  # bytes of a YAML file
# ${...}, unless an odd number of backslashes says that it is text.
LIVE = re.compile(r"(?<!\\)(?:\\\\)*\$\{")
# Another value of the file, as conf/model/planted.yaml names the task's problem.
REFERENCE = re.compile(r"\$\{(oc\.select:\s*)?([A-Za-z_]\w*(?:\.\w+)*)\s*(?:,\s*null\s*)?\}")
MOST_REFERENCES = 50


def read_yaml(path: Path) -> Any:
    """The plain values in a YAML file.

    Raises:
        UserError: there is no such file, or it is damaged, or not of plain values alone.
    """
    text = read_text(path, LARGEST)
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                line = event.start_mark.line + 1
                raise UserError(f"{path}, line {line}: an alias (*{event.anchor}) is not followed")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise UserError(f"{path} is damaged: more than {DEEPEST} lists in one another")
        value = yaml.load(text, Loader=get_yaml_loader())  # which is a safe one
    except UserError:
        raise
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f", line {mark.line + 1}"
        reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise UserError(f"{path}{line}: this is no plain YAML ({reason})") from error
    except (ValueError, TypeError) as error:  # a number with thousands of digits; a list as a key
        raise UserError(f"{path} is damaged: {error}") from error
    plain_values(value, str(path))
    return value


def configuration(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The configuration of the run in a folder as it is written, and the file it is from.

    Raises:
        UserError: there is none, or the file is damaged.
    """
    path = folder / HYDRA / "config.yaml"
    if path.is_file():
        return path, _mapping(read_yaml(path), path)
    journal = folder / JOURNAL
    if journal.is_file():  # a run that was not started by Hydra
        return journal, _mapping(json_object(journal, needs=("config",))["config"], journal)
    raise UserError(f"{folder}: the run's configuration (.hydra/config.yaml) is missing")


def choices(folder: Path) -> dict[str, Any]:
    """The option that the run in a folder chose of each group.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = folder / HYDRA / "hydra.yaml"
    found: Any = read_yaml(path)
    for key in ("hydra", "runtime", "choices"):
        found = _mapping(found, path).get(key)
    return _mapping(found, path)


def words(folder: Path) -> list[str]:
    """The words that the run in a folder was started with.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = folder / HYDRA / "overrides.yaml"
    found = read_yaml(path)
    if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
        raise UserError(f"{path} is damaged: it is no list of name=value words")
    return found


def is_followed(text: str) -> bool:
    """Whether a text has a ``${...}`` that OmegaConf would put something else in the place of."""
    return LIVE.search(text) is not None


def checked(values: Mapping[str, Any], path: Path, skip: Collection[str] = ()) -> dict[str, Any]:
    """A configuration in which no ``${...}`` is more than the name of another plain value.

    Args:
        values: of the file.
        path: the file, for messages.
        skip: dotted keys that are given now; None takes the place of what the file says there.

    Raises:
        UserError: a ``${...}`` that reads something else, or calls on others.
    """
    left = MOST_REFERENCES

    def walk(value: Any, key: str) -> Any:
        nonlocal left
        if key in skip:
            return None
        if isinstance(value, dict):
            return {k: walk(v, f"{key}.{k}" if key else str(k)) for k, v in value.items()}
        if isinstance(value, list):
            return [walk(item, key) for item in value]
        if isinstance(value, str) and is_followed(value):
            left -= 1
            found = REFERENCE.fullmatch(value)
            if found is None or left < 0 or _has_live(_at(values, found[2])):
                raise UserError(
                    f"{path}: {key}={value} is not followed, for what a run's folder says must "
                    f"not read anything else; give {key}=VALUE now"
                )
        return value

    return walk(dict(values), "")


def given_now(saved: Any, asked: Any) -> Any:
    """What is saved, with what is asked for in the place of each ``${...}``: it has been given."""
    if isinstance(saved, dict):
        now = asked if isinstance(asked, dict) else {}
        return {key: given_now(value, now.get(key)) for key, value in saved.items()}
    return asked if isinstance(saved, str) and is_followed(saved) else saved


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _has_live(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_live(part) for part in value.values())
    if isinstance(value, list):
        return any(map(_has_live, value))
    return isinstance(value, str) and is_followed(value)


def _mapping(value: Any, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: it does not hold what a run writes there")
    return {str(key): part for key, part in value.items()}

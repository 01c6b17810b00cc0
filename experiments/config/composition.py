"""Compose the configuration that a command line asks for; nothing is run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.initialize import get_gh_backup, restore_gh_from_backup
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from bilevel.errors import UserError
from experiments.config.sources import install

__all__ = ["NAME", "compose_config", "composed", "hydra_app", "plain"]

NAME = "config"


@contextmanager
def hydra_app(config_dir: str | None = None) -> Iterator[Hydra]:
    """Hydra with the project's configuration, and the user's own in ``config_dir``.

    Raises:
        UserError: there is no such folder, or another ``conf`` is imported in place of ours.
    """
    if config_dir is not None and not Path(config_dir).is_dir():
        raise UserError(f"--config-dir={config_dir}: there is no such folder")
    _refuse_other_conf()
    install()
    version.setbase("1.3")
    path = create_config_search_path("pkg://conf")
    if config_dir is not None:
        folder = f"file://{Path(config_dir).resolve()}"
        path.prepend("command-line", folder, anchor=SearchPathQuery(provider="schema"))
    backup = get_gh_backup()
    try:
        yield Hydra.create_main_hydra2(task_name="run", config_search_path=path)
    finally:
        restore_gh_from_backup(backup)


def _refuse_other_conf() -> None:
    """``python -m`` looks into the present folder first, and a user may have a ``conf`` too."""
    import conf

    found = Path(str(conf.__file__)).parent if conf.__file__ else Path(next(iter(conf.__path__)))
    if found.resolve() != Path(__file__).resolve().parents[2] / "conf":
        raise UserError(
            f"the folder {found} stands in the way of this project's own configuration, conf: run "
            "from another folder, or by the command bilevel-finetune, which does not look there"
        )


def composed(app: Hydra, overrides: Sequence[str]) -> DictConfig:
    """The configuration, Hydra's own part (``config.hydra``) included.

    Raises:
        UserError: Hydra's word for ``method=null`` and the like.
    """
    try:
        return app.compose_config(
            config_name=NAME,
            overrides=list(overrides),
            run_mode=RunMode.RUN,
            from_shell=False,
            with_log_configuration=False,
        )
    except UserError:
        raise
    except ValueError as error:
        raise UserError(" ".join(str(error).split())) from error


def compose_config(overrides: Sequence[str], config_dir: str | None = None) -> DictConfig:
    """:func:`composed` by an application of its own."""
    with hydra_app(config_dir) as app:
        return composed(app, overrides)


def plain(config: Any) -> dict[str, Any]:
    """The run's part of a configuration as plain values, as JSON gives them back.

    So a class or a source called 7, which YAML reads as a number, is the text "7": what a run
    remembers of its configuration is the same before and after it was read again.
    """
    values = config
    if isinstance(config, DictConfig):
        values = OmegaConf.to_container(config, resolve=False, enum_to_str=True)
    assert isinstance(values, dict)
    return {str(key): _named(value) for key, value in values.items() if key != "hydra"}


def _named(value: Any) -> Any:
    """The value with texts for keys, all the way down."""
    if isinstance(value, dict):
        return {str(key): _named(each) for key, each in value.items()}
    return [_named(each) for each in value] if isinstance(value, list) else value

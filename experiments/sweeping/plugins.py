"""Check that the Hydra plug-ins that a command names are installed, and set what they need.

Our settings lie in conf/hydra/for_launcher and for_sweeper, and are merged over the plug-in's own:
a file of the plug-in's name in conf/hydra/launcher would take the place of its types, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import NamedTuple

from bilevel.errors import UserError

__all__ = ["check_installed", "with_settings"]


class _Plugin(NamedTuple):
    package: str
    extra: str


SUBMITIT = _Plugin("hydra_submitit_launcher", "submitit")
PLUGINS = {
    "hydra/launcher=joblib": _Plugin("hydra_joblib_launcher", "sweep"),
    "hydra/launcher=submitit_local": SUBMITIT,
    "hydra/launcher=submitit_slurm": SUBMITIT,
    "hydra/launcher=ray": _Plugin("hydra_ray_launcher", "ray"),
    "hydra/sweeper=optuna": _Plugin("hydra_optuna_sweeper", "optuna"),
}


WITH_SETTINGS = {
    "hydra/launcher=submitit_local": "+hydra/for_launcher=submitit_local",
    "hydra/launcher=submitit_slurm": "+hydra/for_launcher=submitit_slurm",
    "hydra/launcher=ray": "+hydra/for_launcher=ray",
    "hydra/sweeper=optuna": "+hydra/for_sweeper=optuna",
}


def with_settings(words: Iterable[str]) -> list[str]:
    """The words, with those that take our settings of the plug-ins that they name."""
    words = list(words)
    return [*words, *(WITH_SETTINGS[word] for word in words if word in WITH_SETTINGS)]


def check_installed(words: Iterable[str]) -> None:
    """Refuse a launcher or sweeper whose package is not there.

    Args:
        words: of the command line.

    Raises:
        UserError: names the package, and how to install it.
    """
    for word in words:
        plugin = PLUGINS.get(word)
        if plugin is None:
            continue
        if (
            find_spec("hydra_plugins") is None
            or find_spec(f"hydra_plugins.{plugin.package}") is None
        ):
            raise UserError(
                f"{word} needs the package {plugin.package.replace('_', '-')}: python -m pip "
                f"install 'bilevel-finetuning[{plugin.extra}]', as docs/clusters.md says"
            )

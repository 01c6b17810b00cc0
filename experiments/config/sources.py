"""Let a YAML file say only what differs: Hydra reads the rest from the class that it names.

Hydra lets those keys be overridden that a configuration has. So that a file need not repeat every
field of its class, the two sources that Hydra reads files by (packages and folders) are replaced,
in Hydra's own registry, by subclasses that put the class's defaults below what the file says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from hydra._internal.core_plugins import file_config_source, importlib_resources_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

from bilevel.errors import UserError
from bilevel.settings import defaults
from experiments.config.instantiate import locate, user_modules
from experiments.config.kinds import KINDS
from experiments.config.renamed import up_to_date
from experiments.config.schema import GROUPS, root_defaults

__all__ = ["install"]


def install() -> None:
    """Take the places of Hydra's sources, and register what every configuration has."""
    Plugins.instance()  # which registers Hydra's own
    registry = SourcesRegistry.instance()
    registry.types["pkg"] = ImportlibResourcesConfigSource
    registry.types["file"] = FileConfigSource
    ConfigStore.instance().store(name="schema", node=root_defaults())


def _fill(found: ConfigResult, path: str, modules: Sequence[str] = ()) -> ConfigResult:
    """Put the defaults of the class that a group's file names below the file's values.

    Args:
        found: as read.
        path: group and option.
        modules: the user's own, which the file may name.
    """
    group = path.partition("/")[0]
    if group not in GROUPS or not isinstance(found.config, DictConfig):
        return found
    whole = found.header.get("package") == "_global_"
    node: Any = found.config.get(group) if whole else found.config
    if not isinstance(node, DictConfig) or "_target_" not in node:
        return found
    values = OmegaConf.to_container(node, resolve=False)
    assert isinstance(values, dict)
    own = {str(key): value for key, value in values.items()}
    choice = own.pop("defaults", None)
    own = up_to_date(own)
    below = defaults(locate(str(own["_target_"]), group, KINDS[group], modules))
    filled = OmegaConf.merge({"_target_": own["_target_"]}, below, own)
    assert isinstance(filled, DictConfig)
    _open(filled, below)
    if whole:
        found.config[group] = filled
    else:
        found.config = filled if choice is None else OmegaConf.merge({"defaults": choice}, filled)
    return found


def _open(node: DictConfig, below: Mapping[str, Any]) -> None:
    """Let names of the user's own stand in mappings, whose default is empty (of modules, say)."""
    for key, value in below.items():
        inside = node.get(key)
        if isinstance(value, Mapping) and isinstance(inside, DictConfig):
            if value:
                _open(inside, value)
            else:
                OmegaConf.set_struct(inside, False)


# Hydra takes a source of the same name for its own and keeps it: also in a sweep's other processes,
# which are given this registry and then register Hydra's sources anew.
class ImportlibResourcesConfigSource(
    importlib_resources_config_source.ImportlibResourcesConfigSource
):
    """Reads files of packages."""

    def load_config(self, config_path: str) -> ConfigResult:
        """What the file says, over its class's defaults."""
        return _fill(super().load_config(config_path), config_path)


class FileConfigSource(file_config_source.FileConfigSource):
    """Reads files of folders that the command line names, so their modules may be imported."""

    def load_config(self, config_path: str) -> ConfigResult:
        """What the file says, over its class's defaults.

        Raises:
            UserError: it is no YAML of plain values.
        """
        try:
            found = super().load_config(config_path)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            said = " ".join(str(error).split())
            raise UserError(
                f"{config_path} in --config-dir={self.path} is no YAML of plain values: {said}"
            ) from error
        return _fill(found, config_path, user_modules([self.path]))

r"""Hold the upper variables E: one unbounded number for each setting and group of modules.

value = exp(E)  (decay, learning_rate, weight_decay, scale, temperature)
value = 0.5 sigmoid(E)  (dropout, label_smoothing)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from problems.learned_settings.groups import labels_of
from problems.learned_settings.starts import BOUND, Starts
from problems.lora_settings.record import (
    GLOBAL,
    HEAD,
    PER_MODULE,
    ModuleSettings,
    SettingName,
)

__all__ = ["Variables"]

BOUNDED = ("dropout", "label_smoothing")


class Variables(nn.Module):
    """Settings as functions of the upper variables; a :class:`problems.lora_settings.Values`.

    Args:
        names: the settings that are learned.
        groups: adapted module -> its group.
        head: whether there is a head, whose rate and weight decay are a group of their own.
        starts: of the values.

    Attributes:
        raw: setting -> E, one number a group, in the order of :meth:`labels`.
        groups: as given, with the head's.
    """

    def __init__(
        self, names: Sequence[SettingName], groups: Mapping[str, str], head: bool, starts: Starts
    ) -> None:
        super().__init__()
        self.names = list(names)
        self.groups = {**groups, **({HEAD: HEAD} if head else {})}
        self._labels = labels_of(names, groups, head)
        self.raw = nn.ParameterDict(
            {
                name: nn.Parameter(torch.full((len(labels),), _raw(name, starts.of(name))))
                for name, labels in self._labels.items()
            }
        )

    def labels(self, name: SettingName) -> list[str]:
        """The groups of a setting; one, ``all``, for what is one for all."""
        return list(self._labels[name])

    def of(self, name: SettingName, module: str = "") -> Tensor | None:
        """A setting's value for a module, a scalar that depends on E; None if it is not learned."""
        if name not in self.names:
            return None
        labels = self._labels[name]
        label = "all" if name in GLOBAL else self.groups[module]
        if label not in labels:  # the head has settings of steps alone
            return None
        return self.values(name)[labels.index(label)]

    def values(self, name: SettingName) -> Tensor:
        """All values of a setting, one a group."""
        raw = self.raw[name]
        return BOUND * raw.sigmoid() if name in BOUNDED else raw.exp()

    @torch.no_grad()
    def learned(self) -> ModuleSettings:
        """The values of now, by module."""
        found: dict[str, dict[str, float] | float] = {}
        for name in self.names:
            by_group = dict(zip(self._labels[name], self.values(name).tolist(), strict=True))
            if name in PER_MODULE:
                modules = [m for m, group in self.groups.items() if group in by_group]
                found[name] = {m: by_group[self.groups[m]] for m in modules}
            else:
                found[name] = by_group["all"]
        return ModuleSettings(**found)  # type: ignore[arg-type]


def _raw(name: SettingName, value: float) -> float:
    if name in BOUNDED:
        share = value / BOUND
        return math.log(share / (1 - share))
    return math.log(value)

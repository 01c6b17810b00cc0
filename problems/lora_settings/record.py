r"""Name the settings that LoRA has for each module, and hold their numbers.

    L1(V) = L_eps(V; D_train) + sum_m decay_m || c_m s_m B_m A_m ||_F^2

with logits over the temperature tau, labels smoothed by eps, the low-rank input of module m dropped
out by p_m, its update scaled by c_m, its learning rate multiplied by its factor, and a weight decay
of its own in the optimiser. What is scored is the plain loss in evaluation mode: of all this only
c_m and tau are part of the model.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from bilevel.errors import UserError, listed, nearest
from bilevel.settings import Count, NonNegative, Positive, Settings, Share

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "GLOBAL",
    "HEAD",
    "OF_STEPS",
    "PER_MODULE",
    "FoundWith",
    "ModuleSettings",
    "SettingName",
    "Values",
]

SettingName = Literal[
    "decay", "learning_rate", "weight_decay", "scale", "dropout", "label_smoothing", "temperature"
]
PER_MODULE = ("decay", "learning_rate", "weight_decay", "scale", "dropout")
OF_STEPS = ("learning_rate", "weight_decay")  # in the optimiser, of the head too
GLOBAL = ("label_smoothing", "temperature")
HEAD = "head"  # in the place of a module, for settings of steps


class Values(Protocol):
    """Numbers to follow, fixed ones or functions of upper variables."""

    def of(self, name: SettingName, module: str = "") -> Tensor | float | None:
        """A setting's value, scalar; None where there is nothing to follow.

        Args:
            name: which setting.
            module: the low-rank module's full name, or ``head``; empty for what is one for all.
        """


@dataclass(frozen=True)
class FoundWith(Settings):
    """With what settings were found; null where it is not known."""

    model: str | None = None
    """The model, as result.json calls it."""
    rank: Count | None = None
    """method.rank."""
    lora_alpha: Positive | None = None
    """method.lora_alpha."""
    lr: Positive | None = None
    """The learning rate, of which learning_rate holds factors."""


@dataclass(frozen=True)
class ModuleSettings(Settings):
    """Settings by the full names of modules; those of modules that are not named are as usual.

    Mappings are no part of the hash, which a method has like all other frozen settings.
    """

    decay: dict[str, NonNegative] = field(default_factory=dict, hash=False)
    """Weight of the squared Frobenius norm of a module's update in the training loss."""
    learning_rate: dict[str, Positive] = field(default_factory=dict, hash=False)
    """Factor of a module's learning rate; head stands for the head."""
    weight_decay: dict[str, NonNegative] = field(default_factory=dict, hash=False)
    """A module's weight decay in the optimiser, in the place of optimizer.weight_decay: decoupled
    in AdamW; head stands for the head."""
    scale: dict[str, Positive] = field(default_factory=dict, hash=False)
    """Factor of a module's alpha."""
    dropout: dict[str, Share] = field(default_factory=dict, hash=False)
    """Dropout on the input of a module's low-rank branch, in the place of lora_dropout."""
    label_smoothing: Share = 0.0
    """Weight of the uniform distribution in the training loss."""
    temperature: Positive = 1.0
    """Divides the logits, in training and after it: saved in the head's weights."""
    found_with: FoundWith = field(default_factory=FoundWith)
    """What they were found with; a run with anything else says so, and nothing more comes of it."""

    @property
    def given(self) -> bool:
        """Whether anything is not as usual."""
        return bool(self.names())

    def names(self) -> list[SettingName]:
        """The settings that are not as usual."""
        usual = ModuleSettings()
        names: tuple[SettingName, ...] = get_args(SettingName)
        return [name for name in names if vars(self)[name] != vars(usual)[name]]

    def of(self, name: SettingName, module: str = "") -> float | None:
        """See :class:`Values`."""
        if name in PER_MODULE:
            by_module: dict[str, float] = vars(self)[name]
            return by_module.get(module)
        usual = 1.0 if name == "temperature" else 0.0
        value: float = vars(self)[name]
        return None if value == usual else value

    def silent_of(self, names: Collection[str]) -> list[str]:
        """Those of the modules that no setting names; none where no module has a setting."""
        named = {module for setting in PER_MODULE for module in vars(self)[setting]} - {HEAD}
        return [name for name in names if name not in named] if named else []

    def check_modules(self, names: Collection[str], head: bool) -> None:
        """Hold the names of modules against those that are adapted.

        Args:
            names: full names of the adapted modules.
            head: whether a head is trained.

        Raises:
            UserError: a setting is of a module that is not there.
        """
        for setting in PER_MODULE:
            known = [*names, *([HEAD] if head and setting in OF_STEPS else [])]
            for module in vars(self)[setting]:
                if module not in known:
                    raise UserError(
                        f"method.settings.{setting} names module {module!r}, which is not adapted: "
                        f"allowed are {listed(known)}{nearest(module, known)}"
                    )

"""Define the hooks by which callbacks follow the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from bilevel.protocols import EngineView, UpperLevel

__all__ = ["Callback"]


class Callback:
    """Hooks of :class:`bilevel.engine.BilevelEngine`; every method does nothing by default."""

    def on_start(self, engine: EngineView) -> None:
        """Before the first step of ``run()``, also after a resume."""

    def on_gradient(self, problem: UpperLevel, loss: Tensor) -> None:
        """After each (micro-)backward of any problem, before its optimiser step.

        ``p.grad`` of the problem's trainable parameters is set; ``loss`` is a detached 0-d tensor
        on the problem's device. Reading it (``loss.item()``) synchronises host and device.
        """

    def on_step_end(self, engine: EngineView) -> None:
        """After each global step."""

    def on_validation(self, engine: EngineView, stats: dict[str, float]) -> None:
        """After each validation, with what it returned."""

    def on_end(self, engine: EngineView) -> None:
        """After the last step, also when stopped early; not after an exception."""

    def on_exception(self, engine: EngineView, error: BaseException) -> None:
        """When a step raised ``error``, which is raised again afterwards."""

    def state_dict(self) -> dict[str, Any]:
        """State that a resumed run needs: plain JSON-able values and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""

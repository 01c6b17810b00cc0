"""Record the singular values of a stage's adapter over its steps, to tell how settled ranks are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from peft import LoraConfig, PeftModel
from torch import Tensor, nn

from bilevel import Callback
from bilevel.callbacks import MetricsWriter
from bilevel.lowrank.fused import SplitProjection
from bilevel.lowrank.layers import component_costs
from bilevel.lowrank.singular import saved_singular_values, singular_values
from bilevel.protocols import EngineView

__all__ = ["SingularLog", "is_plain_lora"]

# Records in a stage. Their last quarter tells how ranks moved at its end, or, where the weights of
# an earlier step are kept, the quarter before it: enough from an eighth of the steps on.
RECORDS = 100


def is_plain_lora(model: nn.Module) -> bool:
    """Whether the update of every adapted layer is s B A, gates in it or not."""
    if not isinstance(model, PeftModel):
        return False
    config = model.peft_config["default"]
    return type(config) is LoraConfig and not config.use_dora


class SingularLog(Callback):
    """Writes lines of kind ``singular``, ``{"singular": {layer: [k numbers]}}``.

    The first of a stage has ``"costs"`` too, the parameters of a component of each layer. Where
    projections are trained apart and saved as one (GPT-2's), ``"saved"`` beside it has the
    values of the layers that are saved.

    Args:
        model: with plain LoRA.
        writer: of metrics.jsonl, an earlier callback.
        steps: of the stage.
    """

    def __init__(self, model: PeftModel, writer: MetricsWriter, steps: int) -> None:
        self.model = model
        self.writer = writer
        self.fused = any(isinstance(module, SplitProjection) for module in model.modules())
        self.every = math.ceil(steps / RECORDS)

    def on_step_end(self, engine: EngineView) -> None:
        """Write if it is time."""
        step = engine.global_step
        if (engine.train_iters - step) % self.every:
            return
        values: dict[str, Mapping[str, Any]] = {"singular": _written(singular_values(self.model))}
        if step <= self.every:
            values["costs"] = component_costs(self.model)
        if self.fused:
            values["saved"] = _written(saved_singular_values(self.model))
        self.writer.write("singular", step, values)


def _written(values: Mapping[str, Tensor]) -> dict[str, list[float]]:
    return {n: [float(f"{value:.6g}") for value in sigma.tolist()] for n, sigma in values.items()}

"""Record the singular values of a stage's adapter near its end, to tell how settled ranks are."""

from __future__ import annotations

import math

from peft import LoraConfig, PeftModel
from torch import nn

from bilevel import Callback
from bilevel.callbacks import MetricsWriter
from bilevel.lowrank.singular import singular_values
from bilevel.protocols import EngineView

__all__ = ["SingularLog", "is_plain_lora"]

# Records in the last quarter of a stage.
RECORDS = 25


def is_plain_lora(model: nn.Module) -> bool:
    """Whether the update of every adapted layer is s B A, gates in it or not."""
    if not isinstance(model, PeftModel):
        return False
    config = model.peft_config["default"]
    return type(config) is LoraConfig and not config.use_dora


class SingularLog(Callback):
    """Writes lines of kind ``singular``, ``{"singular": {layer: [k numbers]}}``, at the end.

    Only in the last quarter of the steps: what stands there moves no more than the noise of the
    training moves it.

    Args:
        model: with plain LoRA.
        writer: of metrics.jsonl, an earlier callback.
        steps: of the stage.
    """

    def __init__(self, model: PeftModel, writer: MetricsWriter, steps: int) -> None:
        self.model = model
        self.writer = writer
        self.first = math.ceil(0.75 * steps)
        self.every = max(1, math.ceil((steps - self.first) / RECORDS))

    def on_step_end(self, engine: EngineView) -> None:
        """Write if it is time."""
        step = engine.global_step
        due = step >= self.first and (engine.train_iters - step) % self.every == 0
        if due:
            values = {
                name: [float(f"{value:.6g}") for value in sigma.tolist()]
                for name, sigma in singular_values(self.model).items()
            }
            self.writer.write("singular", step, {"singular": values})

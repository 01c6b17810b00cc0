r"""Say which of PEFT's options of LoRA a method passes on: rsLoRA's scale, where A and B start.

| ``init_lora_weights`` | at the start | the base |
|---|---|---|
| ``true``, ``gaussian`` | A random, B = 0 | untouched |
| ``orthogonal`` | A and B random, B A = 0 | untouched |
| ``eva`` (arXiv 2410.07170) | A the principal components of the layer's inputs, B = 0 | untouched |
| ``pissa`` (arXiv 2404.02948) | s B A = W0's r largest singular parts | W0 - s B A |
| ``olora`` (arXiv 2406.01775) | B R = W0's first r columns of its QR decomposition | W0 - s B A |

rsLoRA (arXiv 2312.03732) is s = alpha / sqrt(r) in the place of alpha / r.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from bilevel.settings import Settings

__all__ = ["PeftOptions"]


@dataclass(frozen=True)
class PeftOptions(Settings):
    """Options of PEFT's ``LoraConfig``, by PEFT's names."""

    use_rslora: bool = False
    """Scale every update by alpha / sqrt(r) (rsLoRA) and not by alpha / r."""
    init_lora_weights: Literal[
        True, "gaussian", "orthogonal", "eva", "pissa", "pissa_niter_4", "pissa_niter_16", "olora"
    ] = True
    """Where the factors start: true, PEFT's own; eva, from the layers' inputs on the training data;
    pissa (exactly, or by so many rounds of a faster algorithm) and olora, in the pretrained weights
    themselves, of which a part moves into the factors."""

    @property
    def given(self) -> bool:
        """Whether anything is other than PEFT's default."""
        return self != PeftOptions()

    @property
    def moves_base(self) -> bool:
        """Whether the start takes a part of the pretrained weights into the factors."""
        start = self.init_lora_weights
        return isinstance(start, str) and start.startswith(("pissa", "olora"))

    def scale(self, alpha: float, rank: int) -> float:
        """s of an update of this rank."""
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank

    def told(self) -> str:
        """What is given, as a person would type it."""
        start = self.init_lora_weights
        words = ["method.peft.use_rslora=true"] * self.use_rslora
        words += [f"method.peft.init_lora_weights={start}"] * (start is not True)
        return " ".join(words)

    def start(self) -> dict[str, Any]:
        """``LoraConfig``'s option of the start; eva's is set when the layers are there."""
        start = self.init_lora_weights
        return {} if start in (True, "eva") else {"init_lora_weights": start}

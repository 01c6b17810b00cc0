r"""Full fine-tuning, of the whole model or of a part of it; no adapter.

    min over W (or a part of it) and the head of  L(W; D_train + D_val)

| ``train`` | trained besides the head | where it is a baseline |
|---|---|---|
| all | every weight | everywhere |
| frozen_embeddings | all but the token embeddings | Delta-LoRA, section 4 (dagger) |
| qv | the matrices W_q and W_v, no biases | Delta-LoRA, section 4 (double dagger) |
| top | the last ``top_layers`` layers | LoRA, GPT-2's FT-Top2 |

| choice | paper | here (default) |
|---|---|---|
| which embeddings are frozen | not said; the 49 M that its table lacks are GPT-2's token embeddings | token embeddings, ``train=frozen_embeddings`` |
| what is above the top layers | its 25.19 M on GPT-2 medium are two layers and nothing else | frozen but for the head, ``train=top`` |
| optimiser | RoBERTa's (recalled): AdamW, betas (0.9, 0.98), eps 1e-6, decay 0.1, lr 1e-5 to 3e-5, 6 % warm-up | the same, lr 2e-5 |
| lr of the partial forms | not said | the same (ours) |

The learning rate is the method's own: one that suits LoRA (train.lr, model.lr) would wreck the
pretrained weights. The model is saved whole, by transformers.
"""  # noqa: E501

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from bilevel import lowrank
from bilevel.errors import UserError
from bilevel.settings import Count
from problems import common
from problems.common import Job, OneLevelMethod, OptimizerSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["FullFineTuning", "trained_names"]

# One matrix for query, key and value: DeBERTa v1, ModernBERT, Phi-3, GPT-NeoX. (GPT-2's is split.)
FUSED = ("in_proj", "Wqkv", "qkv_proj", "query_key_value")

Trained = Literal["all", "frozen_embeddings", "qv", "top"]


@dataclass(frozen=True)
class FullFineTuning(OneLevelMethod):
    """Train the model's own weights."""

    name: ClassVar[str] = "full"
    trains_weights: ClassVar[bool] = True
    default_lr: ClassVar[float] = 2e-5
    train: Trained = "all"
    """What is trained besides the head: every weight, all but the token embeddings, the matrices
    W_q and W_v, or the last layers."""
    top_layers: Count = 2
    """Layers that train=top trains."""
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(
            lr=2e-5, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1
        )
    )
    """Of all that is trained."""

    @property
    def splits_fused(self) -> bool:  # type: ignore[override]
        """GPT-2's W_q and W_v are trained without W_k."""
        return self.train == "qv"

    @property
    def takes_targets(self) -> bool:  # type: ignore[override]
        """W_q and W_v may be others; what else is trained has no names of modules."""
        return self.train == "qv"

    def finish(self, model: PreTrainedModel) -> PreTrainedModel:
        """The stock model again."""
        return lowrank.join_split(model)

    def adapt(self, job: Job, model: PreTrainedModel) -> PreTrainedModel:
        """Freeze what is not trained."""
        names = trained_names(model, self.train, self.top_layers, job.target_modules)
        common.train_only(model, names, job.head_modules)
        return model


def trained_names(
    model: PreTrainedModel, train: Trained, top_layers: int, qv: list[str]
) -> set[str]:
    """Names of the parameters that are trained besides the head.

    Args:
        model: the pretrained model.
        train: all, frozen_embeddings, qv or top.
        top_layers: of ``train=top``.
        qv: names of the modules W_q and W_v, full or their endings.

    Raises:
        UserError: the model has fewer layers, or one matrix for W_q, W_k and W_v (but GPT-2's).
    """
    every = dict(model.named_parameters())
    if train == "qv":
        fused = [name for name in qv if name.rsplit(".", 1)[-1] in FUSED]
        if fused:
            raise UserError(
                f"method.train=qv: {type(model).__name__} keeps query, key and value in one matrix "
                f"({fused[0]}), which cannot be trained in part; use train=top or all"
            )
        wanted = tuple(f".{name}.weight" for name in qv)
        return {name for name in every if f".{name}".endswith(wanted)}
    if train == "frozen_embeddings":
        embeddings = {id(p) for p in model.get_input_embeddings().parameters()}
        return {name for name, p in every.items() if id(p) not in embeddings}
    if train == "top":
        stack = common.layers(model)
        if top_layers > len(stack):
            raise UserError(
                f"method.top_layers={top_layers} is more than the {len(stack)} layers of "
                f"{type(model).__name__}"
            )
        top = tuple(f"{layer}." for layer in stack[-top_layers:])
        return {name for name in every if name.startswith(top)}
    return set(every)

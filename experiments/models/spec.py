"""Pretrained models: out of the project, an installed package, a local folder or the hub."""

import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from bilevel.errors import UserError
from bilevel.lowrank.fused import fused_projections
from experiments.models import quantization
from experiments.models.heads import (
    auto_class,
    check_writes,
    config_options,
    heads,
    is_seq2seq,
    peft_task_type,
)
from experiments.models.loading import (
    NoScaledDotProductError,
    checked_folder,
    fetch,
    quietly,
)
from experiments.models.memory import check_dtype, heads_in_float32
from experiments.models.target_modules import outside_layers
from experiments.models.tokenizer import prepare
from experiments.tasks.task import Answers

__all__ = ["LoadedModel", "ModelSpec"]

log = logging.getLogger(__name__)

# Every dropout probability that a configuration may have, by architecture.
DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "pooler_dropout",
    "cls_dropout",
    "dropout",
    "attention_dropout",
    "seq_classif_dropout",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
)

ATTENTIONS = ("auto", "sdpa", "eager")


@dataclass(frozen=True)
class LoadedModel:
    """A model with its head, its tokenizer, and the modules to train and save in full.

    Attributes:
        task_type: PEFT's name for what it puts out, or None.
        seq2seq: it reads labels apart from its input.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    head_modules: list[str]
    task_type: str | None
    seq2seq: bool = False


@dataclass(frozen=True)
class ModelSpec:
    """Which pretrained model to fine-tune, and how to load it.

    Attributes:
        name: the model's name in results.
        pretrained: a hub id or a local folder.
        package: instead of `pretrained`, an installed package that holds the model ...
        package_folder: ... in this folder of it.
        install: the command that installs that package, for the error message.
        attn_implementation: "sdpa", "eager" or "auto" (sdpa where the architecture has it).
        dropout: replaces every dropout probability; None keeps the model's own.
        revision: the hub's branch, tag or commit.
        lr: a learning rate for LoRA that suits this model, where neither train.lr nor the method
            names one; None leaves it to the method's paper.
        quantization: "4bit" or "8bit" holds the layers' frozen weights in bitsandbytes' NF4 or
            int8; None does not.
        warm_start: the folder of a finished run of this model, on another task; its backbone is
            taken instead of the pretrained one, by :func:`experiments.training.warm_start.load`.
        dtype: "float32", or "bfloat16" for the frozen weights; what is trained is in float32.
        gradient_checkpointing: less memory for more time; see :mod:`experiments.models.memory`.
    """

    name: str
    pretrained: str | None = None
    package: str | None = None
    package_folder: str = "model"
    install: str = ""
    attn_implementation: str = "auto"
    dropout: float | None = None
    revision: str | None = None
    lr: float | None = None
    quantization: str | None = None
    warm_start: str | None = None
    dtype: str = "float32"
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.attn_implementation not in ATTENTIONS:
            raise UserError(
                f"model.attn_implementation={self.attn_implementation} is unknown: "
                f"allowed are {', '.join(ATTENTIONS)}"
            )
        if self.dropout is not None and not 0.0 <= self.dropout < 1.0:
            raise UserError(f"model.dropout must be in [0, 1), not {self.dropout}")
        check_dtype(self.dtype)
        if self.quantization is not None:
            quantization.check_installed(self.quantization)
        if self.warm_start is not None:
            if self.quantization is not None:
                raise UserError("model.warm_start merges weights, and quantised ones cannot be")
            if self.dtype != "float32":
                raise UserError(
                    "model.warm_start merges weights, and in bfloat16 most of a small update is "
                    "rounded away: take model.dtype=float32"
                )

    @property
    def quantised(self) -> bool:
        """Whether the layers' weights are packed."""
        return self.quantization is not None

    @property
    def title(self) -> str:
        """The model's name in results: a hub model's is its id or folder."""
        return str(self.pretrained) if self.name == "hub" else self.name

    def source(self) -> str:
        """Return what transformers loads from: a folder or a hub id.

        Raises:
            UserError: the package is not installed, or the folder does not exist.
        """
        if self.package is not None:
            found = importlib.util.find_spec(self.package)
            if found is None or not found.submodule_search_locations:
                raise UserError(f"model={self.name} needs a package: {self.install}")
            return checked_folder(Path(found.submodule_search_locations[0]) / self.package_folder)
        if self.pretrained is None:
            raise UserError(
                f"model={self.name} needs model.pretrained=ID_OR_FOLDER, a hub id or local folder"
            )
        folder = Path(self.pretrained).expanduser()
        if folder.is_dir():
            return checked_folder(folder)
        # A hub id is NAME or OWNER/NAME, and nothing else.
        if self.pretrained[0] in "./~" or self.pretrained.count("/") > 1:
            raise UserError(f"the model folder {self.pretrained} does not exist")
        return self.pretrained

    def config(self, answers: Answers) -> PretrainedConfig:
        """Load the configuration alone: a quick check that the model is there.

        Raises:
            UserError: as `load`.
        """
        config = self._fetch(AutoConfig, **config_options(answers))
        check_writes(answers, config, self.name)
        if self.dropout is not None:
            for key in DROPOUTS:
                if hasattr(config, key):
                    setattr(config, key, self.dropout)
        return config

    def load(self, answers: Answers, seed: int) -> LoadedModel:
        """Load the model (in `dtype`, or quantised) with a new head, and the tokenizer.

        Args:
            answers: what it is to put out.
            seed: decides the new head's weights, and nothing else does; the global random state
                is left alone.

        Raises:
            UserError: the model or its tokenizer cannot be found, the hub cannot be reached, the
                checkpoint is of another architecture, it cannot put out what is wanted, or
                quantisation does not run here.
        """
        if self.quantization is not None:
            quantization.check_hardware(self.quantization)
        config = self.config(answers)
        tokenizer = self._tokenizer(config)
        with torch.random.fork_rng(devices=[]), quietly():
            torch.manual_seed(seed)
            model, info = self._load_weights(config, auto_class(answers, config))
        changed = [key for key, *_ in info["mismatched_keys"]]
        head = heads(model, answers, fresh=[*info["missing_keys"], *changed])
        poolers = [name for name in head if "." in name]
        if poolers:
            log.debug("%s has no weights for %s: it is trained with the head", self.name, poolers)
        if model.config.pad_token_id is None:
            model.config.pad_token_id = tokenizer.pad_token_id
        if self.quantization is not None:
            quantization.keep_trainable(model)
        heads_in_float32(model, head)
        model.eval()
        task_type = peft_task_type(model, answers, head)
        return LoadedModel(model, tokenizer, head, task_type, is_seq2seq(answers, config))

    def _load_weights(
        self, config: PretrainedConfig, kind: Any
    ) -> tuple[PreTrainedModel, dict[str, Any]]:
        options: dict[str, Any] = {
            "config": config,
            "dtype": getattr(torch, self.dtype),
            "output_loading_info": True,
            # A head fine-tuned for another number of labels is replaced.
            "ignore_mismatched_sizes": True,
        }
        if self.quantization is not None:
            with torch.device("meta"):  # the names alone
                skeleton = kind.from_config(config)
            options["quantization_config"] = quantization.bitsandbytes_config(
                self.quantization, keep=[*outside_layers(skeleton), *fused_projections(skeleton)]
            )
        wanted = "sdpa" if self.attn_implementation == "auto" else self.attn_implementation
        try:
            return self._fetch(kind, attn_implementation=wanted, **options)
        except NoScaledDotProductError as error:
            if self.attn_implementation != "auto":
                raise UserError(
                    f"{self.source()} has no sdpa attention: use model.attn_implementation=eager"
                ) from error
        return self._fetch(kind, attn_implementation="eager", **options)

    def _tokenizer(self, config: PretrainedConfig) -> PreTrainedTokenizerBase:
        tokenizer = self._fetch(AutoTokenizer)
        if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
            # Of a folder without a tokenizer's files transformers makes one that knows no word.
            raise UserError(
                f"the model {self.source()} has no tokenizer, or one without a vocabulary: put "
                "the tokenizer's files (tokenizer.json, ...) beside the model's"
            )
        prepare(tokenizer, config)
        return tokenizer

    def _fetch(self, auto_class: Any, **options: Any) -> Any:
        return fetch(auto_class, self.source(), self.revision, **options)

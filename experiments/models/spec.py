"""Name a pretrained model: of the project, an installed package, a local folder or the hub."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bilevel.errors import UserError
from bilevel.settings import Rate, Settings, Share
from experiments.answers import Answers
from experiments.models import bitsandbytes_package
from experiments.models.base_reference import BaseReference, of_folder, of_hub, of_package
from experiments.models.folder_files import check_files

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from experiments.models.pretrained import LoadedModel

__all__ = ["ModelSpec"]

# To look for a part of a package imports the package: only ours are asked.
PACKAGE = re.compile(r"(experiments\.)?[A-Za-z_]\w*", re.ASCII)


@dataclass(frozen=True)
class ModelSpec(Settings):
    """Which pretrained model to fine-tune, and how to load it."""

    name: str
    """The model's name in results."""
    pretrained: str | None = None
    """A hub id or a local folder."""
    package: str | None = None
    """Instead of pretrained, an installed package that holds the model ..."""
    package_folder: str = "model"
    """... in this folder of it."""
    install: str = ""
    """The command that installs that package, for the error message."""
    hub: str | None = None
    """The hub id of the very weights that the package holds, for those who are given an adapter."""
    attn_implementation: Literal["auto", "sdpa", "eager"] = "auto"
    """How attention is computed; auto is sdpa where the architecture has it, else eager."""
    dropout: Share | None = None
    """Replaces every dropout probability; null keeps the model's own."""
    revision: str | None = None
    """The hub's branch, tag or commit."""
    trust_remote_code: bool = False
    """Run code that comes with the model, as some of the hub's need; say it for each command."""
    lr: Rate | None = None
    """A learning rate for LoRA that suits this model, where neither train.lr nor the method names
    one; null leaves it to the method's paper."""
    quantization: Literal["4bit", "8bit"] | None = None
    """Holds the layers' frozen weights in bitsandbytes' NF4 or int8; null does not."""
    warm_start: str | None = None
    """The folder of a finished run of this model on another task, whose backbone takes the place
    of the pretrained one (the papers: MNLI for MRPC, RTE and STS-B)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the frozen weights; what is trained is in float32."""
    gradient_checkpointing: bool = False
    """Keep no activations inside a layer but compute them again: less memory for more time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.package is not None and self.pretrained is not None:
            raise UserError(
                f"model.pretrained={self.pretrained}: model={self.name} is out of the package "
                f"{self.package}; take the folder by model.package=null"
            )
        if self.quantization is not None:
            bitsandbytes_package.check_installed(self.quantization)
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
            UserError: the package is not installed, or the folder does not exist or has damaged
                files.
        """
        if self.package is not None:
            if not PACKAGE.fullmatch(self.package):
                raise UserError(f"model.package={self.package}: this must be an installed package")
            found = importlib.util.find_spec(self.package)
            if found is None or not found.submodule_search_locations:
                raise UserError(f"model={self.name} needs a package: {self.install}")
            return _checked(Path(found.submodule_search_locations[0]) / self.package_folder)
        if self.pretrained is None:
            raise UserError(
                f"model={self.name} needs model.pretrained=ID_OR_FOLDER, a hub id or local folder"
            )
        folder = Path(self.pretrained).expanduser()
        if folder.is_dir():
            return _checked(folder)
        # A hub id is NAME or OWNER/NAME, and nothing else.
        if self.pretrained[0] in "./~" or self.pretrained.count("/") > 1:
            raise UserError(f"the model folder {self.pretrained} does not exist")
        return self.pretrained

    def reference(self) -> BaseReference:
        """Where others can have it; nothing is looked for.

        Raises:
            UserError: no model is named.
        """
        if self.package is not None:
            return of_package(self.package, self.package_folder, self.install, self.hub)
        source = self.source()
        return of_folder(source) if Path(source).is_dir() else of_hub(source, self.revision)

    def config(self, answers: Answers) -> PretrainedConfig:
        """Load the configuration alone: a quick check that the model is there.

        Raises:
            UserError: as `load`.
        """
        from experiments.models import pretrained

        return pretrained.config(
            self.source(),
            self.revision,
            answers,
            self.name,
            self.dropout,
            trusted=self.trust_remote_code,
        )

    def layout(self, answers: Answers) -> PreTrainedModel | None:
        """The names and shapes of the model, by its configuration alone.

        Returns:
            The model on torch's meta device; None of one that is not read from anywhere.

        Raises:
            UserError: as :meth:`config`.
        """
        from experiments.models import pretrained
        from experiments.models.heads import auto_class

        config = self.config(answers)
        return pretrained.layout(auto_class(answers, config), config, self.trust_remote_code)

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
        from experiments.models import pretrained, quantization

        if self.quantization is not None:
            quantization.check_hardware(self.quantization)
        return pretrained.load(
            self.source(),
            self.revision,
            self.config(answers),
            answers,
            seed,
            attention=self.attn_implementation,
            dtype=self.dtype,
            quantized=self.quantization,
            trusted=self.trust_remote_code,
        )


def _checked(folder: Path) -> str:
    """The folder as it is given to transformers, which must hold a model."""
    if not (folder / "config.json").is_file():
        raise UserError(f"the folder {folder} holds no model: it has no config.json")
    if (folder / "adapter_config.json").is_file():
        # transformers would put it into the model without a word.
        raise UserError(
            f"the folder {folder} holds an adapter (adapter_config.json) beside a model: merge it "
            "first, or take it away"
        )
    check_files(folder)
    return str(folder)

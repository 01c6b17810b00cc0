"""Fetch files of pretrained models from a folder or the hub; say in a sentence what goes wrong."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from bilevel.errors import UserError
from experiments.cli import hub

__all__ = ["NoScaledDotProductError", "fetch", "quietly"]

# What the libraries raise over files with other contents than they think; these are called for
# nothing but to read a user's files.
DAMAGED = (
    *(SafetensorError, StrictDataclassError, EOFError),
    *(AssertionError, AttributeError, LookupError, RuntimeError, TypeError),
)


class NoScaledDotProductError(Exception):
    """The architecture has no sdpa attention."""


def fetch(
    auto_class: Any, source: str, revision: str | None, *, trusted: bool = False, **options: Any
) -> Any:
    """Call ``auto_class.from_pretrained``.

    Args:
        auto_class: one of transformers' own, or `AutoTokenizer` or `AutoConfig`.
        source: a folder or a hub id.
        revision: the hub's branch, tag or commit; None for its main branch.
        trusted: whether code that comes with the model may be run; transformers asks where it is
            not told.
        options: for ``from_pretrained``.

    Raises:
        UserError: there is no such model, the hub cannot be reached, a package is missing, or the
            model cannot be loaded as this class.
        NoScaledDotProductError: that attention was wanted, and the architecture does not have it.
    """
    local = Path(source).is_dir()
    online = not local and hub.reachable()
    if not local:
        options |= {"revision": revision or "main"}
    options["trust_remote_code"] = trusted
    try:
        return auto_class.from_pretrained(source, local_files_only=not online, **options)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"the model {source} cannot be loaded: its weights are a pickle (.bin) that is damaged "
            "or would run code; take the model in safetensors"
        ) from error
    except ImportError as error:
        # tokenizers of DeBERTa and Llama-type models need sentencepiece, protobuf or tiktoken
        reason = str(error).strip().partition("\n")[0]
        extra = " (pip install '.[tokenizers]')" if auto_class is transformers.AutoTokenizer else ""
        raise UserError(f"loading {source} needs another package{extra}: {reason}") from error
    except OSError as error:
        if not local and not online:
            raise UserError(
                f"the hub cannot be reached and the model {source} is not in its cache: give a "
                "local folder, model=hub model.pretrained=FOLDER"
            ) from error
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"the model {source} cannot be loaded: {reason}") from error
    except ValueError as error:
        if "scaled_dot_product_attention" in str(error):
            raise NoScaledDotProductError(str(error)) from error
        if "trust_remote_code" in str(error):
            raise UserError(
                f"the model {source} comes with code of its own, which is not run: if you have "
                "read it and trust it, say model.trust_remote_code=true"
            ) from error
        reason = str(error).strip().partition("\n")[0]
        if auto_class is transformers.AutoTokenizer:
            reason += " (put the tokenizer's files, tokenizer.json and others, beside the model's)"
        raise UserError(
            f"the model {source} cannot be loaded for {auto_class.__name__}: {reason}"
        ) from error
    except torch.OutOfMemoryError:  # a RuntimeError, and no file's fault
        raise
    except DAMAGED as error:
        reason = " ".join(str(error).split()[:30])
        raise UserError(
            f"the model {source} cannot be loaded for {auto_class.__name__}, a file of it is "
            f"damaged or of another kind ({type(error).__name__}: {reason})"
        ) from error


@contextmanager
def quietly() -> Iterator[None]:
    """Silence the progress bar and the report of missing weights: a new head is no news here."""
    logger = transformers.utils.logging
    verbosity, bar = logger.get_verbosity(), logger.is_progress_bar_enabled()
    logger.set_verbosity_error()
    logger.disable_progress_bar()
    try:
        yield
    finally:
        logger.set_verbosity(verbosity)
        if bar:
            logger.enable_progress_bar()

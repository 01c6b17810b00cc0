"""Silence the libraries, so that what a program prints is its own."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from bilevel.errors import UserError

__all__ = ["as_loud_as_before", "left_as_found", "quiet"]

# A callback of a fine-tuning may call one of its own.
ONE_AT_A_TIME = threading.RLock()


def quiet() -> None:
    """No progress bars, advice or known warnings of the libraries between our own lines."""
    import datasets  # here: a program says what is wrong with its words without them
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    # PEFT asks every model for this attribute, which transformers has renamed: no one else can
    # do anything about it.
    warnings.filterwarnings(
        "ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning
    )
    # Merging unties the weights (bilevel.lowrank.merge), which is what PEFT warns of.
    warnings.filterwarnings("ignore", message="Model (has|with) `tie_word_embeddings")


@contextmanager
def left_as_found() -> Iterator[None]:
    """For a notebook: the libraries are as loud as before afterwards, and draws go on as if nothing
    had been drawn (of GPUs that were in use before).

    All of this is the process's, and its threads share it: another thread waits until it is over.
    Gradients are computed where a notebook has them switched off.

    Raises:
        UserError: under ``torch.inference_mode()``, whose tensors cannot be trained.
    """
    import torch

    from bilevel.replay.random_state import RandomState

    if torch.is_inference_mode_enabled():
        raise UserError("nothing can be trained under torch.inference_mode(): call this outside it")
    with ONE_AT_A_TIME:
        drawn = RandomState.capture()
        try:
            with as_loud_as_before(), torch.enable_grad():
                yield
        finally:
            drawn.restore()


@contextmanager
def as_loud_as_before() -> Iterator[None]:
    """The libraries' progress bars, advice and warnings afterwards are those of before."""
    import datasets
    import transformers
    from huggingface_hub.utils import are_progress_bars_disabled
    from huggingface_hub.utils import disable_progress_bars as disable_hub
    from huggingface_hub.utils import enable_progress_bars as enable_hub

    said = transformers.utils.logging
    level, bars = said.get_verbosity(), said.is_progress_bar_enabled()
    hub, others = not are_progress_bars_disabled(), not datasets.are_progress_bars_disabled()
    try:
        with warnings.catch_warnings():
            yield
    finally:
        said.set_verbosity(level)
        if bars:
            said.enable_progress_bar()  # and the hub's
        (enable_hub if hub else disable_hub)()
        if others:
            datasets.enable_progress_bars()

"""Silence the libraries, so that what a program prints is its own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["left_as_found", "quiet"]


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
    had been drawn (of GPUs that were in use before). All of this is the process's, its threads
    share it."""
    import datasets
    import transformers
    from huggingface_hub.utils import are_progress_bars_disabled
    from huggingface_hub.utils import disable_progress_bars as disable_hub
    from huggingface_hub.utils import enable_progress_bars as enable_hub

    from bilevel.replay.random_state import RandomState

    drawn, said = RandomState.capture(), transformers.utils.logging
    level, bars = said.get_verbosity(), said.is_progress_bar_enabled()
    hub, others = not are_progress_bars_disabled(), not datasets.are_progress_bars_disabled()
    try:
        with warnings.catch_warnings():
            yield
    finally:
        drawn.restore()
        said.set_verbosity(level)
        if bars:
            said.enable_progress_bar()  # and the hub's
        (enable_hub if hub else disable_hub)()
        if others:
            datasets.enable_progress_bars()

"""Silence the libraries, so that what a program prints is its own."""

from __future__ import annotations

import warnings

__all__ = ["quiet"]


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

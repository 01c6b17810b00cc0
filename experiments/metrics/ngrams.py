"""Measure how surprising texts are to a KenLM model of n-grams: perplexity per word.

``kenlm`` is an optional package (pip install '.[fluency]').
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bilevel.errors import UserError, listed
from experiments.metrics.perplexity import Surprise

__all__ = ["SETTINGS", "SUFFIXES", "NgramModel", "is_ngram_file"]

SETTINGS = (
    "exp of the mean negative log-likelihood of a word, over all words of all texts and the end of "
    "each, by KenLM; words are what stands between blanks"
)
SUFFIXES = (".arpa", ".arpa.gz", ".binary", ".bin", ".klm", ".kenlm")


def is_ngram_file(name: str) -> bool:
    """Whether a name is that of a KenLM model: its suffix says so, and it is no folder."""
    return name.lower().endswith(SUFFIXES) and not Path(name).expanduser().is_dir()


class NgramModel:
    """A KenLM model.

    Args:
        file: an ARPA file or KenLM's own binary.
        option: what it was given by, for messages.

    Raises:
        UserError: the package or the file is missing, or the file is no such model.
    """

    def __init__(self, file: str, option: str = "language_model") -> None:
        path = Path(file).expanduser()
        if not path.is_file():
            raise UserError(
                f"{option}={file}: there is no such file (a name that ends in {listed(SUFFIXES)} "
                "is that of a KenLM model)"
            )
        try:
            import kenlm
        except ImportError as error:
            raise UserError(
                f"{option}={file} is a KenLM model, for which the package kenlm is needed: "
                "pip install kenlm, or name a causal language model (hub id or folder)"
            ) from error
        try:
            self._model: Any = kenlm.Model(str(path))
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{option}={file} cannot be read as a KenLM model: {reason}") from error

    def surprises(self, texts: Sequence[str]) -> list[Surprise]:
        """The surprise (nats, words with the end) of each text, in their order; (0, 0) if blank."""
        found = []
        for text in texts:
            words = text.split()
            loss = -self._model.score(" ".join(words), bos=True, eos=True) * math.log(10)
            found.append(Surprise(loss, len(words) + 1) if words else Surprise(0.0, 0))
        return found

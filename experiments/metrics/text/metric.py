"""Define what a metric of generated text is, and check the texts that it takes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata

from bilevel.errors import UserError
from experiments.metrics.text.tokenization import ENGLISH, bare_words

__all__ = ["JAVA", "Hypotheses", "References", "TextMetric", "check_texts"]

Hypotheses = Sequence[str]
References = Sequence[Sequence[str]]

JAVA = "java"


@dataclass(frozen=True)
class TextMetric:
    """A score of a whole corpus.

    Attributes:
        name: its key in ``TEXT_METRICS`` and in ``result.json``.
        function: takes n hypotheses and, for each, its references (one or more), and returns the
            score of all of them together.
        needs: Python packages that must be installed, and ``"java"`` for a Java program.
        choices: what the number depends on beside the texts: tokenisation, case, smoothing, scale.
        higher_is_better: False for an error rate.
        elsewhere: the choices with another tokenisation than the English one, which stands at
            ``{}``; the function then takes its name as a third argument. None: no words are cut.
    """

    name: str
    function: Callable[..., float]
    needs: tuple[str, ...]
    choices: str
    higher_is_better: bool = True
    elsewhere: str | None = None

    @property
    def settings(self) -> str:
        """:meth:`described` for English."""
        return self.described(ENGLISH)

    def described(self, tokenization: str) -> str:
        """One line that makes the number citable: packages with their versions, and the choices.

        Args:
            tokenization: of `experiments.metrics.text.tokenization`, but not auto.

        Raises:
            UserError: a package is missing.
        """
        self.require_packages()
        packages = [name for name in self.needs if name != JAVA]
        return f"{', '.join(f'{p} {metadata.version(p)}' for p in packages)}: " + (
            self.choices
            if tokenization == ENGLISH or self.elsewhere is None
            else self.elsewhere.format(tokenization)
        )

    def value(
        self, hypotheses: Hypotheses, references: References, tokenization: str
    ) -> float | None:
        """The score; None where it is 0 of texts that have something right.

        A text too short for its n-grams is 0 even if it equals its reference. With nothing right
        0 is what it should be.

        Args:
            hypotheses: n texts.
            references: for each its references, one or more.
            tokenization: as in :meth:`described`.
        """

        def score(texts: Hypotheses) -> float:
            if tokenization == ENGLISH or self.elsewhere is None:
                return self.function(texts, references)
            return self.function(texts, references, tokenization)

        found = score(hypotheses)
        if found != 0 or not self.higher_is_better or _all_wrong(hypotheses, references):
            return found
        return None if score([texts[0] for texts in references]) == 0 else found

    @property
    def blind(self) -> str:
        """Why :meth:`value` has none."""
        return (
            f"metric {self.name} is left out: it would be 0 even of texts equal to their "
            "references (too few words, or examples, for it)."
        )

    def require_packages(self) -> None:
        """Check that the packages are there.

        Raises:
            UserError: one is not; it names the extra that holds it.
        """
        for name in self.needs:
            if name != JAVA and not _installed(name):
                raise UserError(
                    f"metric {self.name} needs the package {name}: pip install '.[text]'"
                )

    def unavailable(self) -> str | None:
        """Why this machine cannot compute the metric, in one sentence; None when it can."""
        if JAVA in self.needs and shutil.which(JAVA) is None:
            return (
                f"metric {self.name} is left out: it is computed by a Java program, and there is "
                "no java on the PATH."
            )
        return None


def check_texts(hypotheses: Hypotheses, references: References) -> None:
    """Check that every hypothesis has its references; an empty hypothesis is only a bad text.

    Raises:
        UserError: nothing to score, lengths that differ, or an example without a reference.
    """
    if not hypotheses:
        raise UserError("there are no texts to score")
    if len(hypotheses) != len(references):
        raise UserError(
            f"the texts are {len(hypotheses)}, and there are references for {len(references)}"
        )
    for number, texts in enumerate(references, start=1):
        if isinstance(texts, str):
            raise UserError(f"the references of example {number} are a text, not a list of texts")
        if not texts:
            raise UserError(f"example {number} has no reference")
        if not all(text.strip() for text in texts):
            raise UserError(f"example {number} has an empty reference")


def _all_wrong(hypotheses: Hypotheses, references: References) -> bool:
    """Whether no text shares a word with any of its references."""
    return not any(
        set(bare_words(text, "intl"))
        & {word for each in texts for word in bare_words(each, "intl")}
        for text, texts in zip(hypotheses, references, strict=True)
    )


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True

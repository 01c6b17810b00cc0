"""Compute METEOR 1.5 by its authors' Java program, which pycocoevalcap ships.

We talk to the program ourselves: pycocoevalcap's own class never ends it, and waits for itself for
ever when anything fails while it scores (it takes its lock again to clean up).
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from threading import Timer

from bilevel.errors import UserError
from experiments.metrics.text.coco import words
from experiments.metrics.text.metric import Hypotheses, References
from experiments.metrics.text.tokenization import ENGLISH, tokens

__all__ = ["meteor", "meteor_coco"]

SEPARATOR = "|||"
# Stems, synonyms and paraphrases are of English; elsewhere equal words match, cut by us.
IN_ENGLISH = ("-l", "en", "-norm")
ELSEWHERE = ("-l", "other")
START_SECONDS, SECONDS_EACH = 300.0, 1.0  # far more than it takes: only a hang gets there


def meteor(hypotheses: Hypotheses, references: References, tokenization: str = ENGLISH) -> float:
    """METEOR of the texts as they are, 0 to 100 (Denkowski and Lavie 2014), as WebNLG is scored."""
    if tokenization == ENGLISH:
        return _score(list(hypotheses), [list(texts) for texts in references], IN_ENGLISH)

    def cut(text: str) -> str:
        return " ".join(tokens(text.lower(), tokenization))

    cut_references = [[cut(text) for text in texts] for texts in references]
    return _score([cut(text) for text in hypotheses], cut_references, ELSEWHERE)


def meteor_coco(
    hypotheses: Hypotheses, references: References, tokenization: str = ENGLISH
) -> float:
    """METEOR of the texts without punctuation, 0 to 100, as E2E and MS-COCO are scored."""
    return _score(
        [words(text, tokenization) for text in hypotheses],
        [[words(text, tokenization) for text in texts] for texts in references],
        IN_ENGLISH if tokenization == ENGLISH else ELSEWHERE,
    )


def _score(hypotheses: list[str], references: list[list[str]], options: Sequence[str]) -> float:
    jar = Path(str(metadata.distribution("pycocoevalcap").locate_file("pycocoevalcap")))
    command = ["java", "-Xmx2G", "-jar", str(jar / "meteor" / "meteor-1.5.jar")]
    command += ["-", "-", "-stdio", *options]
    limit = START_SECONDS + SECONDS_EACH * len(hypotheses)
    # stderr into a file: nobody reads it meanwhile, and a full pipe would stop the program
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        program = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
        )
        watchdog = Timer(limit, program.kill)
        watchdog.start()
        try:
            return 100 * _converse(program, hypotheses, references)
        except (OSError, ValueError) as error:  # it ended, and a pipe broke or an answer is empty
            program.kill()
            program.wait()
            errors.seek(0)
            said = errors.read().split("\n")[0] or f"no answer (limit: {limit:.0f} seconds)"
            raise UserError(f"the Java program of METEOR failed: {said}") from error
        finally:
            watchdog.cancel()
            _end(program)


def _converse(
    program: subprocess.Popen[str], hypotheses: list[str], references: list[list[str]]
) -> float:
    """Its protocol: a line asks for an example's statistics, a last one for the scores of all."""
    assert program.stdin is not None
    assert program.stdout is not None
    statistics = []
    for hypothesis, texts in zip(hypotheses, references, strict=True):
        parts = ["SCORE", *map(_one_line, texts), _one_line(hypothesis)]
        program.stdin.write(f" {SEPARATOR} ".join(parts) + "\n")
        program.stdin.flush()
        statistics.append(program.stdout.readline().strip())
    program.stdin.write(f" {SEPARATOR} ".join(["EVAL", *statistics]) + "\n")
    program.stdin.flush()
    scores = [float(program.stdout.readline()) for _ in range(len(statistics) + 1)]
    return scores[-1]  # that of the corpus; the others are of one example each


def _end(program: subprocess.Popen[str]) -> None:
    program.kill()
    with suppress(OSError):  # a text that could not be written any more
        program.communicate()


def _one_line(text: str) -> str:
    """Without what the protocol takes for the end of a line or of a text."""
    return " ".join(text.replace(SEPARATOR, " ").split())

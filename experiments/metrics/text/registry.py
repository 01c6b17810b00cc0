"""Name the metrics of text, and compute several of them at once."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from bilevel.errors import UserError, listed, nearest
from experiments.metrics.text.coco import cider, rouge_l_coco
from experiments.metrics.text.matching import bleu, ter
from experiments.metrics.text.meteor import meteor, meteor_coco
from experiments.metrics.text.metric import (
    JAVA,
    Hypotheses,
    References,
    TextMetric,
    check_texts,
)
from experiments.metrics.text.nist import nist
from experiments.metrics.text.rouge import rouge

__all__ = ["TEXT_METRICS", "score_text"]

log = logging.getLogger(__name__)

_COCO = "Penn Treebank tokens by rule, lower case, no punctuation"
_ROUGE = "mean F1 of the best reference, lower case, Porter stems, 0 to 100"
_SENTENCES = "; a sentence ends at . ! or ? before white space"

TEXT_METRICS: dict[str, TextMetric] = {
    metric.name: metric
    for metric in (
        TextMetric(
            "bleu",
            bleu,
            ("sacrebleu",),
            "corpus BLEU-4, 13a tokens, lower case, exp smoothing, closest reference length, "
            "0 to 100 (case:lc|eff:no|tok:13a|smooth:exp)",
        ),
        TextMetric(
            "nist",
            nist,
            ("sacrebleu",),
            "NIST-5 as mteval-v13a for several references, sacrebleu's 13a tokens, lower case",
        ),
        TextMetric(
            "meteor",
            meteor,
            ("pycocoevalcap", JAVA),
            "METEOR 1.5 (Java), -l en -norm, text as it is, 0 to 100",
        ),
        TextMetric(
            "meteor_coco",
            meteor_coco,
            ("pycocoevalcap", "nltk", JAVA),
            f"METEOR 1.5 (Java), -l en -norm, {_COCO}, 0 to 100",
        ),
        TextMetric(
            "rouge_l_coco",
            rouge_l_coco,
            ("pycocoevalcap", "nltk"),
            "mean F with beta 1.2 of the best precision and the best recall over the references, "
            f"{_COCO}, 0 to 100",
        ),
        TextMetric(
            "cider",
            cider,
            ("pycocoevalcap", "nltk"),
            f"CIDEr-D, n 1 to 4, sigma 6, document frequencies of these references, {_COCO}, "
            "0 to 10",
        ),
        TextMetric(
            "ter",
            ter,
            ("sacrebleu",),
            "corpus TER, normalised tercom tokens, lower case, mean reference length, percent "
            "(case:lc|tok:tercom|norm:yes|punct:yes|asian:no)",
            higher_is_better=False,
        ),
        TextMetric("rouge1", rouge("rouge1"), ("rouge-score",), _ROUGE),
        TextMetric("rouge2", rouge("rouge2"), ("rouge-score",), _ROUGE),
        TextMetric("rougeL", rouge("rougeL"), ("rouge-score",), _ROUGE),
        TextMetric("rougeLsum", rouge("rougeLsum"), ("rouge-score",), _ROUGE + _SENTENCES),
    )
}


def score_text(
    names: Iterable[str], hypotheses: Hypotheses, references: References
) -> tuple[dict[str, float | None], dict[str, str]]:
    """The scores of n texts, and how each was computed.

    Args:
        names: keys of :data:`TEXT_METRICS`.
        hypotheses: n texts; an empty one counts as a bad one.
        references: for each its references, one or more.

    Returns:
        Scores by name, None where this machine cannot compute the metric (a line in the log says
        why); and one line of settings by name, or why there is no score.

    Raises:
        UserError: texts and references do not fit, a name is unknown, or a package is missing.
    """
    metrics = [_metric(name) for name in names]
    check_texts(hypotheses, references)
    for metric in metrics:  # before hours of another metric's work, not after
        metric.require_packages()
    scores: dict[str, float | None] = {}
    settings: dict[str, str] = {}
    for metric in metrics:
        reason = metric.unavailable()
        if reason is not None:
            log.warning("%s", reason)
        scores[metric.name] = None if reason else metric.function(hypotheses, references)
        settings[metric.name] = reason or metric.settings
    return scores, settings


def _metric(name: str) -> TextMetric:
    if name not in TEXT_METRICS:
        raise UserError(
            f"unknown text metric {name!r}: allowed are {listed(TEXT_METRICS)}"
            f"{nearest(name, TEXT_METRICS)}"
        )
    return TEXT_METRICS[name]

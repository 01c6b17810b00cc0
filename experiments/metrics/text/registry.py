"""Name the metrics of text, and compute several of them at once."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from bilevel.errors import UserError, listed, nearest
from experiments.metrics.text.coco import cider, rouge_l_coco
from experiments.metrics.text.matching import bleu, chrf, ter
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
from experiments.metrics.text.tokenization import check_tokenization, chosen

__all__ = ["TEXT_METRICS", "score_text"]

log = logging.getLogger(__name__)

_COCO = "Penn Treebank tokens by rule, lower case, no punctuation"
_COCO_ELSEWHERE = "sacrebleu's {} tokens, lower case, no punctuation"
_ROUGE = "mean F1 of the best reference, lower case, Porter stems, 0 to 100"
_ROUGE_ELSEWHERE = (
    "mean F1 of the best reference, sacrebleu's {} tokens, lower case, no punctuation, no stems, "
    "0 to 100"
)
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
            elsewhere="corpus BLEU-4, {0} tokens, lower case, exp smoothing, closest reference "
            "length, 0 to 100 (case:lc|eff:no|tok:{0}|smooth:exp)",
        ),
        TextMetric(
            "nist",
            nist,
            ("sacrebleu",),
            "NIST-5 as mteval-v13a for several references, sacrebleu's 13a tokens, lower case",
            elsewhere="NIST-5 as mteval-v13a for several references, sacrebleu's {} tokens, lower "
            "case",
        ),
        TextMetric(
            "meteor",
            meteor,
            ("pycocoevalcap", JAVA),
            "METEOR 1.5 (Java), -l en -norm, text as it is, 0 to 100",
            elsewhere="METEOR 1.5 (Java), -l other, sacrebleu's {} tokens, lower case, 0 to 100",
        ),
        TextMetric(
            "meteor_coco",
            meteor_coco,
            ("pycocoevalcap", "nltk", JAVA),
            f"METEOR 1.5 (Java), -l en -norm, {_COCO}, 0 to 100",
            elsewhere=f"METEOR 1.5 (Java), -l other, {_COCO_ELSEWHERE}, 0 to 100",
        ),
        TextMetric(
            "rouge_l_coco",
            rouge_l_coco,
            ("pycocoevalcap", "nltk"),
            "mean F with beta 1.2 of the best precision and the best recall over the references, "
            f"{_COCO}, 0 to 100",
            elsewhere="mean F with beta 1.2 of the best precision and the best recall over the "
            f"references, {_COCO_ELSEWHERE}, 0 to 100",
        ),
        TextMetric(
            "cider",
            cider,
            ("pycocoevalcap", "nltk"),
            f"CIDEr-D, n 1 to 4, sigma 6, document frequencies of these references, {_COCO}, "
            "0 to 10",
            elsewhere="CIDEr-D, n 1 to 4, sigma 6, document frequencies of these references, "
            f"{_COCO_ELSEWHERE}, 0 to 10",
        ),
        TextMetric(
            "ter",
            ter,
            ("sacrebleu",),
            "corpus TER, normalised tercom tokens, lower case, mean reference length, percent "
            "(case:lc|tok:tercom|norm:yes|punct:yes|asian:no)",
            higher_is_better=False,
            elsewhere="corpus TER, sacrebleu's {} tokens, lower case, mean reference length, "
            "percent (case:lc|tok:tercom|norm:no|punct:yes|asian:no)",
        ),
        TextMetric(
            "chrf",
            chrf,
            ("sacrebleu",),
            "corpus chrF2, case as it is, nearest reference, 0 to 100 "
            "(case:mixed|eff:yes|nc:6|nw:0|space:no)",
        ),
        *(
            TextMetric(
                name,
                rouge(name),
                ("rouge-score",),
                _ROUGE + end,
                elsewhere=_ROUGE_ELSEWHERE + end,
            )
            for name, end in (
                *(("rouge1", ""), ("rouge2", ""), ("rougeL", "")),
                ("rougeLsum", _SENTENCES),
            )
        ),
    )
}


def score_text(
    names: Iterable[str],
    hypotheses: Hypotheses,
    references: References,
    tokenization: str = "auto",
) -> tuple[dict[str, float | None], dict[str, str]]:
    """The scores of n texts, and how each was computed.

    Args:
        names: keys of :data:`TEXT_METRICS`.
        hypotheses: n texts; an empty one counts as a bad one.
        references: for each its references, one or more.
        tokenization: how words are cut, a name of `Tokenization`; auto goes by the references'
            script.

    Returns:
        Scores by name, None where the metric has none (a line in the log says why): this machine
        cannot compute it, or it would be 0 even of equal texts; and one line of settings by name,
        or why there is no score.

    Raises:
        UserError: texts and references do not fit, a name is unknown, or a package is missing.
    """
    metrics = [_metric(name) for name in names]
    check_tokenization(tokenization, "tokenization")
    check_texts(hypotheses, references)
    for metric in metrics:  # before hours of another metric's work, not after
        metric.require_packages()
    tokenization = chosen(tokenization, references)
    scores: dict[str, float | None] = {}
    settings: dict[str, str] = {}
    for metric in metrics:
        reason = metric.unavailable()
        found = None if reason else metric.value(hypotheses, references, tokenization)
        if found is None:
            reason = reason or metric.blind
            log.warning("%s", reason)
        scores[metric.name] = found
        settings[metric.name] = reason or metric.described(tokenization)
    return scores, settings


def _metric(name: str) -> TextMetric:
    if name not in TEXT_METRICS:
        raise UserError(
            f"unknown text metric {name!r}: allowed are {listed(TEXT_METRICS)}"
            f"{nearest(name, TEXT_METRICS)}"
        )
    return TEXT_METRICS[name]

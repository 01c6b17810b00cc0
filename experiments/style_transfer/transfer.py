"""Follow the whole protocol: read, check the classifier, transfer, judge, write down."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Callable, Sequence
from typing import Any

import torch

from bilevel.checkpoint.disk import check_writable, told_when_full
from bilevel.errors import UserError
from experiments.answers import TEXT, Answers
from experiments.cli.command_line import CommandLine
from experiments.cli.writing import write_atomically
from experiments.config.instantiate import build
from experiments.metrics import ngrams
from experiments.metrics.perplexity import SETTINGS, Surprise, surprises
from experiments.metrics.text import TEXT_METRICS
from experiments.models.spec import ModelSpec
from experiments.results import record
from experiments.results.finished_run import SavedRun
from experiments.style_transfer.classifier import StyleClassifier
from experiments.style_transfer.options import Options
from experiments.style_transfer.scores import Judged, accuracy, table, tokenization
from experiments.style_transfer.sentences import Sentence, read_sentences
from experiments.style_transfer.writer import Writer
from experiments.training import warm_start

__all__ = ["PROGRAM", "transfer"]

PROGRAM = "style_transfer"
TRANSFERS = "transfers.jsonl"
CHANCE = 0.5

Surprised = Callable[[Sequence[str]], list[Surprise]]  # of each text


def transfer(options: Options, line: CommandLine) -> dict[str, Any]:
    """Transfer and score; writes ``result.json`` and ``transfers.jsonl`` and returns the former.

    Models are loaded one after the other: the classifier, the writer, the language model.

    Raises:
        UserError: anything that is wrong with what is given, the cheap things first.
    """
    run = SavedRun.open(options.run, line, options.overrides)
    _check_out(options)
    writer = Writer(run, options.instruction, options.styles)
    sentences = read_sentences(options.data_dir, options.columns, options.max_test, options.dialect)
    surprised = _language_model(options, run)
    TEXT_METRICS["bleu"].require_packages()
    device = "cuda" if torch.cuda.is_available() else "cpu"

    classifier = StyleClassifier(
        *(options.classifier, line, options.classifier_labels, device),
        model=options.classifier_model,
    )
    originals = [sentence.text for sentence in sentences]
    copied = classifier.styles(originals)
    own = _accuracy_on_originals(copied, sentences, options)

    written = writer.write(sentences, device)
    styles = classifier.styles(written)
    options.out.mkdir(parents=True, exist_ok=True)
    _write_transfers(options, sentences, written, styles)

    # a reference each, so that sentences and not references have the same weight
    people = [sentence.references[0] for sentence in sentences]
    surprise = surprised(device)

    def judged(texts: list[str], found: list[int | None]) -> Judged:
        return Judged(texts, found, surprise(texts))

    def rows(texts: list[str], found: list[int | None], bleu: bool = True) -> dict[str, Any]:
        return table(judged(texts, found), sentences, options.styles, bleu)

    values = {
        "schema_version": record.SCHEMA_VERSION,
        "program": PROGRAM,
        "run": _described(run) | {"folder": options.run},
        "classifier": _described(classifier.run)
        | {
            "folder": options.classifier,
            "labels": dict(zip(options.styles, options.classifier_labels, strict=True)),
            "accuracy": own,
        },
        "language_model": options.language_model or f"{run.result['model']}, the run's base model",
        "transfers": rows(written, styles),
        "copies": rows(originals, copied),
        "human": rows(people, classifier.styles(people), bleu=False),
        "settings": _settings(options, writer, sentences),
        "versions": {"python": platform.python_version(), **record.versions()},
    }
    with told_when_full(options.out):
        record.write(options.out, values)
    return values


def _check_out(options: Options) -> None:
    """Raise UserError where the result of something else would be written over, or nothing can."""
    check_writable(options.out, "out")
    there = record.read(options.out)
    if there is not None and there.get("program") != PROGRAM:
        raise UserError(f"out={options.out} holds the result of a run: take another folder")


def _language_model(options: Options, run: SavedRun) -> Callable[[str], Surprised]:
    """What loads onto a device what is asked for the perplexity.

    That it is there is looked up at once: later would be after the work.
    """
    name = options.language_model
    if name is not None and ngrams.is_ngram_file(name):
        ngram_model = ngrams.NgramModel(name)
        return lambda device: ngram_model.surprises
    if name is None:
        spec = build(run.config.model, "model", ModelSpec, run.modules)
    else:
        spec = ModelSpec("hub", pretrained=name)
    if spec.config(Answers(TEXT, 0)).is_encoder_decoder:
        raise UserError(
            f"the perplexity cannot be that of {spec.title}, which has encoder and decoder: name a "
            "causal model by language_model=ID_OR_FOLDER"
        )

    def loaded(device: str) -> Surprised:
        found = warm_start.load(spec, Answers(TEXT, 0), 0)
        model: Any = found.model
        model.to(device)
        return lambda texts: surprises(model, found.tokenizer, texts)

    return loaded


def _accuracy_on_originals(
    found: Sequence[int | None], sentences: Sequence[Sentence], options: Options
) -> dict[str, float]:
    """How often the classifier is right, by style and overall; it bounds what its word means.

    Raises:
        UserError: less often than by chance.
    """
    rows = {}
    for style, name in enumerate(options.styles):
        chosen = [i for i, sentence in enumerate(sentences) if sentence.style == style]
        if chosen:
            rows[name] = accuracy([found[i] for i in chosen], [style] * len(chosen))
    rows["overall"] = accuracy(found, [sentence.style for sentence in sentences])
    if rows["overall"] < CHANCE:
        raise UserError(
            f"classifier={options.classifier} is right about {rows['overall']:.1%} of the "
            f"{len(sentences)} original sentences, less than by chance: its labels mean something "
            "else than 0 and 1 in the data (classifier_labels=LABEL,LABEL says what)"
        )
    return rows


def _write_transfers(
    options: Options,
    sentences: Sequence[Sentence],
    written: Sequence[str],
    styles: Sequence[int | None],
) -> None:
    """One line a sentence; before the scores, for which it is worth keeping whatever happens."""
    lines = []
    for sentence, text, style in zip(sentences, written, styles, strict=True):
        entry = {
            "from": options.styles[sentence.style],
            "to": options.styles[1 - sentence.style],
            "text": sentence.text,
            "transfer": text,
            "classified_as": None if style is None else options.styles[style],
            "references": list(sentence.references),
        }
        lines.append(json.dumps(entry, ensure_ascii=False) + "\n")
    with told_when_full(options.out):
        write_atomically(options.out / TRANSFERS, "".join(lines))


def _described(run: SavedRun) -> dict[str, Any]:
    return {key: run.result[key] for key in ("method", "task", "model", "seed", "metrics")}


def _settings(options: Options, writer: Writer, sentences: Sequence[Sentence]) -> dict[str, Any]:
    return {
        "options": options.shown(),
        "prompt": writer.prompt(sentences[0]),  # an example
        "separator": writer.task.separator,
        "decoding": dataclasses.asdict(writer.task.decoding),
        "accuracy": "share of texts that the classifier puts into the target style; a blank one is "
        "in none",
        "bleu": TEXT_METRICS["bleu"].described(tokenization(sentences)),
        "perplexity": ngrams.SETTINGS
        if ngrams.is_ngram_file(options.language_model or "")
        else SETTINGS,
        "human": "the first reference of each sentence",
    }

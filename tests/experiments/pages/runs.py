"""What tests of pages share: folders of runs of each kind, and a page taken apart."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from tests.experiments.drawn import evaluations, write

NAMES = [f"bert.layer.{layer}.{part}" for layer in range(3) for part in ("query", "value")]
# What would be a script, end a text in quotes, or turn the letters around.
NASTY = (
    "<script>alert('x')</script> \"quoted\" & 'so' </style> \u202ereversed\x1b[31m\uffff {{ y }}"
)
VOID = {"meta", "link", "br", "hr", "img", "input"}


def values(method: str = "autolora", seed: int = 0, **other: Any) -> dict[str, Any]:
    """A result.json of two classes."""
    base = {
        "schema_version": 1,
        "method": method,
        "task": "films",
        "model": "tiny",
        "seed": seed,
        "metrics": {"accuracy": 0.75},
        "primary_metric": "accuracy",
        "kind": "classes",
        "labels": ["bad", "good"],
        "train_loss": 0.2,
        "validation_loss": 0.3,
        "test_loss": 0.4,
        "ranks": {name: i for i, name in enumerate(NAMES)},
        "trainable_parameters": 2468,
        "adapter_parameters": 1234,
        "head_parameters": 12,
        "examples_seen": {"lower": 640, "upper": 0},
        "engine": {"T1": None, "steps": {"train": 20}},
        "seconds": {"train": 2.0},
        "processor_seconds": {"train": 1.5},
        "peak_memory_mib": 100.0,
        "adapter_dir": "adapter",
        "data": {"train": 60, "test": 4},
        "update": {name: {"cosine": 0.99, "relative_norm": 0.1} for name in NAMES},
        "configuration": {"method": {"rank": 4}, "task": {"data_dir": None}},
        "versions": {"torch": "2.13.0"},
        "warnings": [],
    }
    return {**base, **other}


def class_line(index: int, label: str, prediction: str, bad: float) -> dict[str, Any]:
    return {
        **{"test": "test", "index": index, "label": label, "prediction": prediction},
        "probabilities": [bad, 1 - bad],
    }


CLASSES = [
    class_line(0, "good", "good", 0.25),
    class_line(1, "bad", "good", 0.125),
    class_line(2, "bad", "bad", 0.75),
    class_line(3, "good", "bad", 0.625),
]


def run(
    folder: Path,
    result: dict[str, Any] | None = None,
    predictions: list[dict[str, Any]] | None = None,
    wrongest: list[dict[str, Any]] | None = None,
) -> Path:
    """A run's folder with the files that pages are made of."""
    folder.mkdir(parents=True)
    result = result or values()
    (folder / "result.json").write_text(json.dumps(result))
    gates = [
        {"stage": "train", "step": step, "kind": "gates", "gates": {n: [0.5, 0.5] for n in NAMES}}
        for step in (0, 20)
    ]
    scored = [{**x, "test_accuracy": 0.7, "validation_accuracy": 0.8} for x in evaluations(LOSSES)]
    write(folder, [*scored, *(gates if result["ranks"] else [])])
    for name, lines in (("predictions.jsonl", predictions), ("wrongest.jsonl", wrongest)):
        if lines is not None:
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / name).write_text(text, encoding="utf-8")
    return folder


LOSSES = {10: 0.5, 20: 0.25}


class Parsed(HTMLParser):
    """A page's elements; every one that is opened must be closed, in its order."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"an attribute twice: {attrs}"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        """What is read on the page, with single spaces."""
        return " ".join(" ".join(self.texts).split())

    def attributes(self, name: str) -> list[str]:
        """All values of an attribute."""
        return [
            value or "" for _, found in self.elements for key, value in found.items() if key == name
        ]

"""A model small enough to train in a second, the words to train it with, and figures kept open."""

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.text import Text
from tokenizers import processors
from transformers import BertConfig, BertModel

from experiments.pages import one_run, several
from experiments.tasks.demo import Demo
from tests.experiments.word_tokens import word_tokenizer

with suppress(ImportError):  # rouge_score brings it
    from absl import logging as absl_logging

    # When Hydra sets up logging, absl closes the stream of its handler, unless it is one of the
    # process: here it would be pytest's own, and so the end of what pytest can catch.
    absl_logging.get_absl_handler().python_handler.stream = sys.__stderr__

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer BERT (with dropout) that knows the demo task's words."""
    folder = tmp_path_factory.mktemp("tiny")
    words = sorted({w for e in Demo(max_train=300).load().train for w in e.texts[0].split()})
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), SPECIAL, strict=True))
    special = {f"{name}_token": token for name, token in names.items()}
    around = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = word_tokenizer([*SPECIAL, *words], 48, around, **special)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=48,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def quick(tiny: Path) -> list[str]:
    """Overrides of a run of a second or two."""
    return [
        "model=hub",
        f"model.pretrained={tiny}",
        "task=demo",
        "task.max_train=96",
        "task.max_test=80",
        "train.epochs=2",
        "train.lr=3e-3",
        "train.batch_size=8",
        "method.rank=4",
        "engine.precision=fp32",
        "engine.metrics_every=2",
        "engine.checkpoint_every=4",
        "engine.evaluate_examples=32",
    ]


def raw_mathematics(figure: Figure) -> list[str]:
    """Texts, those of ticks too, that show mathematics as it is typed; see ``text.parse_math``."""
    ticks = [
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for label in axis.get_ticklabels(which="both")
    ]
    texts = [*ticks, *figure.findobj(Text)]
    return [t.get_text() for t in texts if not t.get_parse_math() and "$\\" in t.get_text()]


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Figure]]:
    """The figures that are drawn, still open; their files are empty.

    Layout and painting are most of the time; a test that looks at places lays its figure out.
    """
    found: list[Figure] = []
    close = plt.close
    monkeypatch.setattr(plt, "close", found.append)
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: path.touch())
    for module in (one_run, several):  # pages take SVG, which is then not there
        monkeypatch.setattr(module, "drawn", lambda drawings, title: [])
    yield found
    raw = {text for figure in found for text in raw_mathematics(figure)}
    for figure in found:
        close(figure)
    assert not raw

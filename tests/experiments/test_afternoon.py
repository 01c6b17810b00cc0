"""From a labelled file to a served model: the README's commands one after the other."""

import csv
import json
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from peft.tuners.lora import LoraLayer
from transformers import pipeline

from experiments import evaluate, export, load, predict, ranks, report, run
from experiments.tasks.demo import Demo
from tests.experiments.artefacts import cards
from tests.test_docs import blocks

NAMES = ("bills", "delivery", "account")


def tickets(count: int) -> tuple[list[str], list[str]]:
    """Texts of words that the small model knows, some of which tell the class, and the classes."""
    words = sorted({w for e in Demo(max_train=300).load().train for w in e.texts[0].split()})
    draw = random.Random(0)
    right = [NAMES[i % 3] for i in range(count)]
    own = {name: words[4 * i : 4 * i + 4] for i, name in enumerate(NAMES)}
    return [
        " ".join(draw.choices(own[name], k=4) + draw.choices(words[12:], k=2)) for name in right
    ], right


def test_three_classes_in_one_semicolon_file(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny, "base")
    texts, right = tickets(180)
    with Path("tickets.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, delimiter=";")
        table.writerow(("message", "topic"))
        table.writerows(zip(texts[:160], right, strict=False))
    new = texts[160:180]
    Path("new.txt").write_text("\n".join(new) + "\n", encoding="utf-8")

    # 1. train
    data = ["task=classification", "task.data_dir=tickets.csv", "task.delimiter=semicolon"]
    data += ["task.text_columns=[message]", "task.label_column=topic", "task.holdout=0.2"]
    quick = ["train.epochs=6", "train.batch_size=8", "engine.precision=fp32", "train.lr=3e-2"]
    model = ["model=hub", "model.pretrained=base"]
    run.main(["method=lora", "method.hold_out=0.2", *data, *model, *quick, "hydra.run.dir=run"])
    result = json.loads(Path("run/result.json").read_text())
    assert sorted(result["labels"]) == sorted(NAMES)
    assert result["metrics"]["accuracy"] > 0.6  # of chance a third

    # 2. the page
    report.main(["run"])
    page = Path("run/report.html").read_text(encoding="utf-8")
    assert all(name in page for name in NAMES)
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)

    # 3. score it again
    evaluate.main(["run=run"])

    # 4. predict
    predict.main(["run=run", "data=new.txt", "out=said.csv"])
    with Path("said.csv").open(newline="", encoding="utf-8") as file:
        said = list(csv.DictReader(file, delimiter=";"))
    assert [row["message"] for row in said] == new
    shares = [[float(row[f"probability_{name}"]) for name in result["labels"]] for row in said]
    again = load("run").predict(new)
    assert [row["prediction"] for row in said] == [answer["prediction"] for answer in again]

    # 5. as small as it can be
    ranks.main(["run=run", "budget=0.5"])
    assert json.loads(Path("run/ranks.json").read_text())["parameters"] > 0

    # 6. the card's own lines
    for folder in (Path("run/adapter"), Path("run/adapter_compact")):
        (code,) = cards.blocks(folder)
        scope, _ = cards.run(code, tmp_path, **{'["A text."]': repr(new)})
        np.testing.assert_allclose(scope["probabilities"].numpy(), shares, atol=2e-5)
        assert list(scope["id2label"].values()) == result["labels"]

    # and those of the pages about it
    code = blocks("docs/artefact.md", "python")[0]
    changes = {"outputs/mine/adapter": "run/adapter", '["A text."]': repr(new)}
    changes['["negative", "neutral", "positive"]'] = repr(result["labels"])
    scope, _ = cards.run(code, tmp_path, **changes)
    np.testing.assert_allclose(scope["probabilities"].numpy(), shares, atol=2e-5)
    for code, parameters in zip(blocks("docs/ranks.md", "python"), (False, True), strict=True):
        made = "from transformers import AutoModelForSequenceClassification as Auto\n"
        made += 'base = Auto.from_pretrained("base", num_labels=3)\n' + code
        scope, _ = cards.run(made, tmp_path, **{'"DIR/ranks': '"run/ranks'})
        found = {m.r["default"] for m in scope["model"].modules() if isinstance(m, LoraLayer)}
        kept = json.loads(Path("run/ranks.json").read_text())["ranks"]
        assert found == {rank for rank in kept.values() if rank}
        assert any(p.requires_grad for p in scope["model"].parameters()) == parameters

    # 7. merge and serve
    export.main(["run=run", "merge=true"])
    served = pipeline("text-classification", model="run/export/merged", top_k=None)
    for text, row, mine in zip(new, said, shares, strict=True):
        (answer,) = served([text])
        scores = {entry["label"]: entry["score"] for entry in answer}
        assert max(scores, key=scores.__getitem__) == row["prediction"]
        assert [scores[name] for name in result["labels"]] == pytest.approx(mine, abs=2e-5)

"""Made-up questions in the words of the tests' small model: on texts, and of multiple choice."""

import json
import random
from pathlib import Path
from typing import Any

from experiments.tasks.demo import Demo

WORDS = sorted({w for e in Demo(max_train=300).load().train for w in e.texts[0].split()})


def questions(count: int, seed: int = 0, pairs: int = 4) -> list[dict[str, Any]]:
    """Rows as SQuAD's: a text of pairs of words, and a first word whose second one is asked for."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        keys = draw.sample(WORDS[:12], pairs)
        texts = [f"{a} {b}" for a, b in zip(keys, draw.sample(WORDS[12:30], pairs), strict=True)]
        place = draw.randrange(pairs)
        start = len(" ".join([*texts[:place], ""])) + len(keys[place]) + 1
        answer = {"text": [texts[place].split()[1]], "answer_start": [start]}
        row = {"id": f"q{number}", "title": "none", "context": " ".join(texts)}
        rows.append({**row, "question": keys[place], "answers": answer})
    return rows


def choices(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Questions with four choices, of which the right one has the question's word in it."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        offered = [f"{word} {draw.choice(WORDS[12:30])}" for word in draw.sample(WORDS[:12], 4)]
        label = draw.randrange(4)
        rows.append(
            {"question": offered[label].split()[0], "choices": offered, "label": "ABCD"[label]}
        )
    return rows


def written(folder: Path, **splits: list[dict[str, Any]]) -> str:
    """A folder with a jsonl file for each split."""
    folder.mkdir(exist_ok=True, parents=True)
    for name, rows in splits.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)

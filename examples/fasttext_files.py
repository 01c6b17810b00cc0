"""Texts with a class, in the files of fastText: `__label__hotel the room was far from cosy`."""

from dataclasses import dataclass
from pathlib import Path

import experiments
from bilevel import UserError
from experiments import Example, Length, Subset, read_text

MARK = "__label__"


@dataclass(frozen=True)
class FastTextFiles(Subset):
    """Classification on train.txt and test.txt in a folder, an example a line."""

    name: str = "fasttext"
    """The task's name in results."""
    data_dir: str = "."
    """The folder."""
    max_length: Length = 128
    """Tokens of a text at most."""

    def load(self):
        train, test = self.read("train"), self.read("test")
        names = sorted({label for _, label in train})
        unknown = sorted({label for _, label in test} - set(names))
        if len(names) < 2:
            raise UserError(f"{self.data_dir}/train.txt must have two classes or more, not {names}")
        if unknown:
            raise UserError(f"{self.data_dir}/test.txt has {unknown}, train.txt only {names}")

        def kept(rows, choose):
            found = [Example((text,), names.index(label)) for text, label in rows]
            return choose(found, [example.label for example in found])

        return experiments.LabelledData(
            name=self.name,
            train=kept(train, self.kept_train),
            tests={"test": kept(test, self.kept_test)},
            test_source="test",
            label_names=names,
            metrics=("accuracy", "macro_f1"),
            max_length=self.max_length,
        )

    def inputs(self):
        return experiments.text_inputs(("text",), lambda texts: Example(texts, 0))

    def read(self, split):
        path = Path(self.data_dir, f"{split}.txt")
        if not path.is_file():
            raise UserError(f"task.data_dir={self.data_dir} has no file {path.name}")
        rows = []
        for number, line in enumerate(read_text(path).split("\n"), start=1):
            if not line.strip():
                continue
            label, _, text = line.strip().partition(" ")
            if not label.startswith(MARK) or not text or text.startswith(MARK):
                raise UserError(f"line {number} of {path} must be one {MARK}CLASS, then a text")
            rows.append((text, label.removeprefix(MARK)))
        if not rows:
            raise UserError(f"{path} has no examples")
        return rows

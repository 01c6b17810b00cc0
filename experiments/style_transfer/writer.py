"""Transfer sentences by the instruction-tuned model: a prompt for each, and what it writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bilevel.errors import UserError
from experiments.config.instantiate import build
from experiments.models.generation import generate
from experiments.models.virtual_tokens import beside_adapter
from experiments.results import record, saved_model
from experiments.results.finished_run import SavedRun
from experiments.style_transfer.sentences import Sentence
from experiments.tasks.examples import TextExample
from experiments.tasks.instructions import Instructions
from experiments.tasks.kinds.text import TextData
from experiments.tasks.task import Task

__all__ = ["Writer"]

UNCUT = 10**9  # tokens: more than any prompt has


class Writer:
    """Transfers sentences by a run of task=instructions, in the prompt that it was trained on.

    Args:
        run: the run, with the decoding that is wanted.
        instruction: ``{source}`` and ``{target}`` stand for the names of the styles.
        styles: these names, of 0 and 1.

    Raises:
        UserError: a run of another task, or an instruction that names no target.
    """

    def __init__(self, run: SavedRun, instruction: str, styles: tuple[str, str]) -> None:
        kind: Any = Task
        task = build(run.config.task, "task", kind, run.modules)
        if not isinstance(task, Instructions):
            raise UserError(
                f"run={run.folder} is of task={task.name}: one of task=instructions is needed"
            )
        if task.chat_template:
            raise UserError(
                f"run={run.folder} was trained with task.chat_template=true, whose prompts are not "
                "written here: train with task.chat_template=false, or use experiments.predict"
            )
        if "{target}" not in instruction:
            raise UserError("instruction= must hold {target}, where the name of the style stands")
        self.run = run
        self.task = task
        self.instruction = instruction
        self.styles = styles

    def prompt(self, sentence: Sentence) -> str:
        """What the model reads of a sentence, up to the separator."""
        source, target = self.styles[sentence.style], self.styles[1 - sentence.style]
        instruction = self.instruction.replace("{source}", source).replace("{target}", target)
        return self.task.source(instruction, sentence.text)

    def data(self, sentences: Sequence[Sentence]) -> TextData:
        """The prompts as a task without targets: nothing is learned."""
        examples = [TextExample(self.prompt(s), "", s.references) for s in sentences]
        return TextData(
            name="style_transfer",
            train=[],
            tests={"test": examples},
            test_source="test",
            metrics=("bleu",),
            max_length=self.task.max_length,
            decoding=self.task.decoding,
            separator=self.task.separator,
        )

    def write(self, sentences: Sequence[Sentence], device: str) -> list[str]:
        """What the model makes of each sentence.

        Raises:
            UserError: there is no adapter, or a prompt would have to be cut.
        """
        data = self.data(sentences)
        loaded = self.run.base(data)
        saved = record.saved_folder(self.run.result, self.run.folder)
        model = saved_model.load(saved, loaded.model).to(device)
        loaded = replace(loaded, tokenizer=beside_adapter(loaded.tokenizer, model))
        examples = data.tests["test"]
        rows = loaded.tokenise(data, examples)
        prompts = [data.prompt(row, loaded.seq2seq) for row in rows]
        for number, (prompt, example) in enumerate(zip(prompts, examples, strict=True)):
            needed = len(data.source(loaded.tokenizer, example.source, UNCUT, loaded.seq2seq))
            if len(prompt) < needed:  # it would lose the end of the sentence
                raise UserError(
                    f"the prompt of sentence {number} has {needed} tokens, and there is room for "
                    f"{len(prompt)}: raise task.max_length, or lower task.decoding.max_new_tokens "
                    "where the model's positions are the limit"
                )
        return generate(model, loaded.tokenizer, prompts, data.decoding)

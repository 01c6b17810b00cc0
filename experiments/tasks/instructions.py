"""Read data for instruction tuning: an instruction, often with an input, and the response."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Gt, Lt

from bilevel.errors import UserError, listed
from bilevel.settings import Count
from experiments.answers import Decoding
from experiments.tasks.conversations import as_source, messages_of
from experiments.tasks.from_files import HELD_OUT, ColumnName, check_distinct
from experiments.tasks.generation import Generation, Split
from experiments.tasks.reading.cells import text_of, texts_of
from experiments.tasks.reading.files import SUFFIXES, Row, is_missing
from experiments.tasks.reading.row import columns_of
from experiments.tasks.reading.splits import find_split, own_splits

if TYPE_CHECKING:
    from experiments.tasks.kinds.text import TextData

__all__ = ["Instructions"]

MESSAGES = "messages"  # as conversations are mostly called
PLACES = re.compile(r"\{(instruction|input)\}")

PROMPT = "Do what the task says with the text below it.\n\nTask: {instruction}\nText: {input}"
PROMPT_WITHOUT_INPUT = "Do what the task says.\n\nTask: {instruction}"


@dataclass(frozen=True)
class Instructions(Generation):
    """Rows of instruction, input and response; the loss is of the response alone.

    The test set is the test file, else the validation file, else a share of the training rows that
    is not trained on (`TaskData.test_source` is then "train_share"). Rows with the same prompt are
    in the same part of that split.
    """

    test_splits: ClassVar[tuple[str, ...]] = ("test", "validation", HELD_OUT)

    name: str = "instructions"
    data_dir: str | None = None
    """A folder with files train and perhaps test or validation; or a file, all training rows."""
    metrics: tuple[str, ...] = ("bleu", "rougeL")
    decoding: Decoding = field(default_factory=lambda: Decoding(max_new_tokens=128))
    separator: str | None = "\nAnswer:"  # behind the prompt, so that one that is cut ends in it
    max_target_length: Count | None = 256
    prompt: str = PROMPT
    """What the model reads before the separator; {instruction} and {input} are a row's own."""
    prompt_without_input: str = PROMPT_WITHOUT_INPUT
    """The same for rows with no input."""
    instruction_column: ColumnName = "instruction"
    """The column of the instruction."""
    input_column: ColumnName | None = "input"
    """The column of the input, which may be empty in a row; null: there is no such column."""
    output_column: ColumnName = "output"
    """The column of the response."""
    chat_template: bool = False
    """Write rows as conversations by the chat template of the model's tokenizer, and learn what the
    assistant says in them; prompt and separator are then left alone."""
    messages_column: ColumnName | None = None
    """With chat_template, the column of conversations, lists of {role, content} with the roles
    system, user and assistant, the last one the assistant's; null: instruction, input and output
    make one question and its answer."""
    test_share: Annotated[float, Gt(0), Lt(1)] = 0.02
    """Part of the training rows that is the test, where there is no file for it; which rows follows
    from subset_seed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.messages_column is not None and not self.chat_template:
            raise UserError(
                f"task.messages_column={self.messages_column} goes with task.chat_template=true"
            )
        for name in ("separator", "prompt", "prompt_without_input") if self.chat_template else ():
            if getattr(self, name) != Instructions.__dataclass_fields__[name].default:
                raise UserError(
                    f"task.{name} does not go with task.chat_template=true, where the model's "
                    "tokenizer says what stands around a text: leave it out"
                )
        names = ("instruction_column", "input_column", "output_column")
        check_distinct({f"task.{name}": getattr(self, name) for name in names})
        for value, option, places in (
            (self.prompt, "prompt", {"instruction", "input"}),
            (self.prompt_without_input, "prompt_without_input", {"instruction"}),
        ):
            if set(PLACES.findall(value)) != places:
                wanted = " and ".join(f"{{{place}}}" for place in sorted(places, reverse=True))
                raise UserError(f"task.{option} must hold {wanted}, and of these places no other")

    @property
    def columns(self) -> tuple[str, ...]:
        """Those that every row must fill."""
        if self.messages_column is not None:
            return (self.messages_column,)
        return self.instruction_column, self.output_column

    @property
    def source_columns(self) -> tuple[str, ...]:
        """The instruction; an input is read where there is one."""
        return (self.messages_column or self.instruction_column,)

    def read_source(self, row: Mapping[str, Any], place: str) -> str:
        """The prompt, or the messages before the answer."""
        if self.messages_column is not None:
            messages = messages_of(row[self.messages_column], self.messages_column, place)
            if messages[-1]["role"] == "assistant":
                messages = messages[:-1]
            return as_source(messages)
        given = None if self.input_column is None else row.get(self.input_column)
        instruction = text_of(row[self.instruction_column], self.instruction_column, place)
        text = "" if is_missing(given) else text_of(given, str(self.input_column), place)
        return self.source(instruction, text)

    def read_row(self, row: Row, place: str) -> tuple[str, list[str]]:
        """The prompt and the response."""
        if self.messages_column is not None:
            *_, last = messages_of(row[self.messages_column], self.messages_column, place)
            if last["role"] != "assistant":
                raise UserError(
                    f"{place}, column {self.messages_column!r}: the last message is of the role "
                    f"{last['role']}, and no answer of the assistant's"
                )
            return self.read_source(row, place), [last["content"]]
        answers = texts_of(row[self.output_column], self.output_column, place)
        return self.read_source(row, place), answers

    def source(self, instruction: str, given: str = "") -> str:
        """What the model reads, up to the separator."""
        values = {"instruction": instruction.strip(), "input": given.strip()}
        if self.chat_template:
            question = "\n\n".join(text for text in values.values() if text)
            return as_source([{"role": "user", "content": question}])
        template = self.prompt if values["input"] else self.prompt_without_input
        return PLACES.sub(lambda place: values[place[1]], template)

    def _kind(self) -> type[TextData]:
        from experiments.tasks.kinds.chat import ChatData

        return ChatData if self.chat_template else super()._kind()

    def _data(self, **values: Any) -> TextData:
        """An instruction with its prompt around it shows what a source is."""
        return super()._data(**values, looks=self.source("Name three colours."))

    def scored_whole(self) -> Instructions:
        """Of one file all rows, not `test_share` of them."""
        one = Path(str(self.data_dir)).expanduser().is_file()
        if self.sources is not None:  # which are the run's own files
            return replace(self, sources=None, train_split=None)
        return replace(self, train_split=None) if one else self

    @property
    def tests_on_share(self) -> bool:
        """Where no file is there to test on."""
        if self.train_split is None:
            return False
        place = str(self.data_dir)
        if Path(place).expanduser().is_file():
            return True
        return not any(find_split(place, name) for name in ("test", "validation"))

    def _splits(self) -> dict[str, Split]:
        splits = self._files()
        for where, rows in splits.values():
            # In JSON a row without an input may lack the column.
            if self.messages_column is not None:
                continue
            self._suggest_messages(where, rows)
            if self.input_column is not None and self.input_column not in columns_of(rows):
                raise UserError(
                    f"{where} has no column {self.input_column!r}: its columns are "
                    f"{listed(map(repr, rows[0]))} (task.input_column=null where there is none)"
                )
        if "train" in splits and set(self.test_splits).isdisjoint(splits):
            return self._parted(*splits["train"], self.test_share, "task.test_share")
        return splits

    def _suggest_messages(self, where: str, rows: Sequence[Row]) -> None:
        """Refuse rows of conversations, whose column is not named."""
        if MESSAGES in rows[0] and self.instruction_column not in rows[0]:
            raise UserError(
                f"{where} has a column {MESSAGES!r} and no {self.instruction_column!r}: name the "
                f"column of conversations, task.chat_template=true task.messages_column={MESSAGES}"
            )

    def _files(self) -> dict[str, Split]:
        path = Path(str(self.data_dir)).expanduser()
        if path.is_file():
            if self.sources is not None:
                raise UserError(
                    f"task.data_dir={path} is a file, and task.sources names the training files: "
                    "name the folder that is validated and tested on"
                )
            if not path.name.lower().endswith(SUFFIXES):
                raise UserError(f"task.data_dir={path}: its name must end in {listed(SUFFIXES)}")
            split = "test" if self.train_split is None else "train"
            return {split: (str(path), self.read([path], trained=split == "train"))}
        if not path.is_dir():
            raise UserError(f"task.data_dir={path}: there is no such file or folder")
        splits = super()._splits()
        if not splits and self.train_split == "train":
            files = own_splits(str(path))["train"]
            return {"train": (str(files), self.read(files, trained=True))}
        if self.train_split is None and list(splits) == ["train"]:  # of others, scored whole
            return {"test": splits["train"]}
        return splits

"""Read the values of rows as Python, NumPy, torch or pandas hold them, and take padding off."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from bilevel.errors import UserError, listed

__all__ = ["integers", "number", "rows_of", "unpadded"]


def rows_of(split: str, rows: Any) -> Iterable[Any]:
    """A split's rows as plain Python values, whatever format a data set is set to.

    Args:
        split: its name, for the message.
        rows: a data set of the package ``datasets``, a table of pandas, pyarrow or polars, or
            anything to iterate over.

    Raises:
        UserError: it is no collection of rows, or has two columns of one name.
    """
    if isinstance(rows, Mapping):  # first: a DatasetDict has formats too
        raise UserError(
            f"data[{split!r}] is one mapping, of {listed(list(rows)[:4])}: rows are needed, a "
            "mapping each; datasets.Dataset.from_dict makes them of columns"
        )
    if hasattr(rows, "with_format"):  # numpy, torch or pandas: their rows are other things
        return rows.with_format(None)
    for name in ("to_pylist", "to_dicts"):  # a table of pyarrow, of polars
        if hasattr(rows, name):
            return getattr(rows, name)()
    if hasattr(rows, "to_dict") and hasattr(rows, "columns"):
        names = list(rows.columns)
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:  # pandas would keep the last one
            raise UserError(f"data[{split!r}] has {names.count(twice)} columns named {twice!r}")
        return rows.to_dict("records")
    if isinstance(rows, str | bytes) or not isinstance(rows, Iterable):
        raise UserError(
            f"data[{split!r}] is {_kind(rows)}: rows are needed, a list of mappings or a data set"
        )
    return rows


def integers(value: Any, where: str, column: str) -> list[int]:
    """A list of whole numbers.

    Args:
        value: a list, a tuple, an array or a tensor of one dimension.
        where: what to call the row in a message.
        column: that it stands in.

    Raises:
        UserError: it is none.
    """
    found = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(found, list | tuple):
        raise UserError(
            f"{where} has {_short(found)} in {column}: a list of whole numbers is needed, one a "
            "token"
        )
    found = list(found)
    if set(map(type, found)) <= {int}:
        return found
    for i, entry in enumerate(found):
        if isinstance(entry, list | tuple) or np.ndim(entry):
            raise UserError(
                f"{where} has lists in {column}: a row is one example and no batch, so make it "
                "without return_tensors"
            )
        found[i] = entry.item() if hasattr(entry, "item") else entry
        if type(found[i]) is not int:
            raise UserError(
                f"{where} has {_short(found[i])} in {column}: a list of whole numbers is needed"
            )
    return found


def number(value: Any, where: str) -> float | int:
    """A finite number, the target of a regression.

    Raises:
        UserError: it is none.
    """
    found = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(found, list) and len(found) == 1:  # a tensor of one
        found = found[0]
    right = isinstance(found, int | float) and not isinstance(found, bool)
    if not right or not -sys.float_info.max <= found <= sys.float_info.max:
        raise UserError(f"{where} has the label {_short(found)}: a finite number is needed")
    return found


def unpadded(
    columns: Mapping[str, list[int]],
    labels: list[int] | None,
    where: str,
    tokenizer: Any,
) -> tuple[dict[str, list[int]], list[int] | None]:
    """A row without padding, which was put there by hand: batches are padded when they are made.

    Args:
        columns: of equal lengths, ``input_ids`` and perhaps ``attention_mask`` among them.
        labels: one a token, cut with the columns; None for others.
        where: what to call the row in a message.
        tokenizer: whose padding it is.

    Raises:
        UserError: the columns are of different lengths, or the mask leaves out tokens in between.
    """
    tokens = columns["input_ids"]
    for name, values in columns.items():
        if len(values) != len(tokens):
            raise UserError(
                f"{where} has {len(tokens)} tokens and {len(values)} numbers in {name}: there must "
                "be one for each token"
            )
    mask = columns.get("attention_mask")
    start, stop = 0, len(tokens)
    if mask is not None:
        if not set(mask) <= {0, 1} or 1 not in mask:
            raise UserError(f"{where} must have 1 in attention_mask for tokens, 0 for padding")
        start, stop = mask.index(1), len(mask) - mask[::-1].index(1)
        if 0 in mask[start:stop]:
            raise UserError(f"{where} has 0 in attention_mask between tokens that have 1")
    elif _pads_only(tokenizer):
        while stop > 1 and tokens[stop - 1] == tokenizer.pad_token_id:
            stop -= 1
    if (start, stop) == (0, len(tokens)):
        return dict(columns), labels
    cut = {name: values[start:stop] for name, values in columns.items()}
    return cut, None if labels is None else labels[start:stop]


def _pads_only(tokenizer: Any) -> bool:
    """Whether the padding token stands for nothing else, as it does for GPT-2's end of text."""
    others = ("eos_token_id", "bos_token_id", "sep_token_id", "cls_token_id", "unk_token_id")
    pad = getattr(tokenizer, "pad_token_id", None)
    return pad is not None and pad not in [getattr(tokenizer, name, None) for name in others]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _kind(value: Any) -> str:
    return "None" if value is None else f"of the type {type(value).__name__}"

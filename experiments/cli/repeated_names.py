"""Refuse a mapping on the command line that gives one name twice: Hydra would keep the last."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from antlr4.CommonTokenStream import CommonTokenStream
from antlr4.InputStream import InputStream
from hydra.core.override_parser.overrides_parser import create_functions
from hydra.core.override_parser.overrides_visitor import HydraOverrideVisitor
from hydra.grammar.gen.OverrideLexer import OverrideLexer
from hydra.grammar.gen.OverrideParser import OverrideParser

from bilevel.errors import UserError

__all__ = ["check_names"]


def check_names(word: str) -> None:
    """Look at the mappings in an option, name=value.

    Args:
        word: of the command line. One that cannot be read is Hydra's to tell.

    Raises:
        UserError: a name stands twice in one, or two numbers that are equal.
    """
    if "{" not in word:
        return
    lexer = OverrideLexer(InputStream(word))
    lexer.removeErrorListeners()
    parser: Any = OverrideParser(CommonTokenStream(lexer))
    parser.removeErrorListeners()
    reader: Any = HydraOverrideVisitor(create_functions())
    for mapping in _mappings(parser.override()):
        seen: set[object] = set()
        for pair in mapping.dictKeyValuePair():
            key = reader.visitDictKey(pair.dictKey())  # 1, 1.0 and true are one
            if key in seen:
                name = pair.dictKey().getText().strip()
                raise UserError(
                    f"{word.partition('=')[0]} gives {name!r} twice: each name has one value"
                )
            seen.add(key)


def _mappings(node: Any) -> Iterator[Any]:
    if isinstance(node, OverrideParser.DictContainerContext):
        yield node
    for i in range(node.getChildCount()):
        if hasattr(child := node.getChild(i), "getChildCount"):
            yield from _mappings(child)

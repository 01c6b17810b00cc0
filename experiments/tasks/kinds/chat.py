"""Serve conversations: what the assistant says is learned, and written for a test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bilevel.labels import NO_LABEL
from experiments.models.chat import check_template, encode, prompt_tokens
from experiments.tasks.conversations import Messages, of_source
from experiments.tasks.kinds.remarks import say_cut, say_share, say_unknown
from experiments.tasks.kinds.text import TextData
from experiments.tasks.task import LEAST_LENGTH

__all__ = ["ChatData"]


@dataclass(frozen=True)
class ChatData(TextData):
    """Conversations, written by the tokenizer's chat template; predictions are answers.

    An example's source is its messages but the last (:func:`conversations.as_source`), its target
    what the assistant says then. Of training data all that an assistant says is learned, of a test
    the last answer alone counts.
    """

    def tokenise(
        self, tokenizer: Any, examples: Sequence[Any], seq2seq: bool = False
    ) -> list[dict[str, Any]]:
        """Return input_ids, attention_mask and labels of each; a row ends with its last answer.

        Of a conversation that is too long the first turns are left out, then the beginning of its
        last question, then the end of its answer.

        Raises:
            UserError: the tokenizer has no template, or refuses a conversation.
        """
        check_template(tokenizer, seq2seq)
        self._check_decoding(tokenizer, seq2seq)
        rows, cut, answers, endless = [], [], [], 0
        for example in examples:
            messages = of_source(example.source)
            ids, said, whole = self._fitted(tokenizer, messages, example.target)
            prompt = _before_last(said)
            if self.max_target_length is not None and len(ids) - prompt > self.max_target_length:
                answers.append(len(ids) - prompt)
                ids = [*ids[: prompt + self.max_target_length - 1], ids[-1]]
                said = said[: len(ids)]
            if whole:
                cut.append(whole)
            endless += ids[-1] != tokenizer.eos_token_id
            first = prompt if example.references else 0
            labels = [
                token if mark and i >= first else NO_LABEL
                for i, (token, mark) in enumerate(zip(ids, said, strict=True))
            ]
            rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
        option = f"task.max_length={self.max_length}, or the model's positions less the answer's"
        say_cut("conversations", cut, self._limit(tokenizer), len(rows), option)
        if self.max_target_length is not None:
            allowed = self.max_target_length
            option = f"task.max_target_length={allowed}"
            say_cut("last answers", answers, allowed, len(rows), option)
        say_share(
            "endless",
            (endless, len(rows)),
            lambda counts: (
                f"{counts[0]} of {counts[1]} answers do not end with the tokenizer's end of text, "
                f"{tokenizer.eos_token}: what is written may not stop before "
                "task.decoding.max_new_tokens"
            ),
        )
        say_unknown("conversations", tokenizer, [self.prompt(row, False) for row in rows])
        return rows

    def prompts(
        self, tokenizer: Any, examples: Sequence[Any], seq2seq: bool = False
    ) -> list[list[int]]:
        """See :meth:`TextData.prompts`; the source is all messages, the last one a user's."""
        check_template(tokenizer, seq2seq)
        self._check_decoding(tokenizer, seq2seq)
        room = self._room(tokenizer)
        found, cut = [], []
        for example in examples:
            messages = of_source(example.source)
            tokens = prompt_tokens(tokenizer, messages)
            if len(tokens) > room:
                cut.append(len(tokens))
            while len(tokens) > room and (shorter := _shorter(messages)) is not None:
                messages = shorter
                tokens = prompt_tokens(tokenizer, messages)
            found.append(tokens[-room:])
        option = f"task.max_length={self.max_length}, or the model's positions less the answer's"
        say_cut("conversations", cut, room, len(found), option)
        say_unknown("conversations", tokenizer, found)
        return found

    def _limit(self, tokenizer: Any) -> int:
        return min(self.max_length, tokenizer.model_max_length)

    def _room(self, tokenizer: Any) -> int:
        """Tokens before an answer at most."""
        positions = tokenizer.model_max_length - self.decoding.max_new_tokens
        return int(min(self._limit(tokenizer) - 1, positions))

    def _fitted(
        self, tokenizer: Any, messages: Messages, answer: str
    ) -> tuple[list[int], list[bool], int]:
        """Tokens and marks within the limit, and how many there were of one that is cut, else 0."""
        limit, room = self._limit(tokenizer), self._room(tokenizer)
        last = {"role": "assistant", "content": answer}
        ids, said = encode(tokenizer, [*messages, last])
        whole = len(ids)
        if whole <= limit and _before_last(said) <= room:
            return ids, said, 0
        while len(ids) > limit or _before_last(said) > room:
            shorter = _shorter(messages)
            if shorter is None:
                break
            messages = shorter
            ids, said = encode(tokenizer, [*messages, last])
        prompt = _before_last(said)
        least = min(LEAST_LENGTH, prompt)
        start = max(prompt - room, min(len(ids) - limit, prompt - least), 0)
        return ids[start : start + limit], said[start : start + limit], whole


def _before_last(said: Sequence[bool]) -> int:
    """How many tokens stand before the last answer, which ends the row."""
    start = len(said)
    while start and said[start - 1]:
        start -= 1
    return start


def _shorter(messages: Messages) -> Messages | None:
    """A conversation without its first question and what follows up to the next; None of one."""
    head = messages[:1] if messages[0]["role"] == "system" else []
    rest = messages[len(head) :]
    users = [i for i, message in enumerate(rest) if message["role"] == "user"]
    if len(users) < 2:
        return None
    return [*head, *rest[users[1] :]]

"""Write the lines of a model card that load a saved model and use it.

They need PEFT and transformers alone (bottleneck adapters and linear probes, which PEFT does not
have, this project too), and ask as the model was scored: in the same precision, by the same tokens
and decoding.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from bilevel.errors import UserError
from experiments.answers import CHOICES, CLASSES, LABELS, NUMBER, SPANS, TAGS, TEXT, Decoding
from experiments.artefacts.usage import Usage
from experiments.models.base_reference import BaseReference, literal

__all__ = ["PIPELINES", "Form", "decoding_options", "lines", "offline_lines", "with_folder"]

# What lies in a folder.
Form = Literal["peft", "bottleneck", "probe", "model"]

# Forms that this project alone reads, by which function of which module.
OWN = {
    "bottleneck": ("problems.adapters", "load_adapters"),
    "probe": ("problems.linear_probe", "load_probe"),
}
WIDTH = 100
THIS = "this folder, as you see it, or its name on the hub"
FOLDER = re.compile(r"^folder = .*$", re.MULTILINE)
# transformers' names, of the hub's pipeline tags too.
PIPELINES = {
    CLASSES: "text-classification",
    LABELS: "text-classification",
    NUMBER: "text-classification",
    TAGS: "token-classification",
    TEXT: "text-generation",
    SPANS: "question-answering",
    CHOICES: "multiple-choice",
}


@dataclass
class _Code:
    """Lines of Python and the names that they import."""

    body: list[str] = field(default_factory=list)
    imports: dict[str, set[str]] = field(default_factory=dict)
    plain: list[str] = field(default_factory=list)

    def need(self, module: str, *names: str) -> None:
        self.imports.setdefault(module, set()).update(names)

    def call(self, before: str, arguments: Sequence[str], after: str = ")") -> None:
        """``before``, arguments and ``after``, over several lines where one is too long."""
        line = f"{before}{', '.join(arguments)}{after}"
        wrapped = [before, *_filled(arguments, "    "), after]
        self.body += [line] if len(line) <= WIDTH else wrapped

    def text(self) -> str:
        """All of it, as it runs."""
        head = [
            f"from {module} import {', '.join(sorted(names))}"
            for module, names in sorted(self.imports.items())
        ]
        return "\n".join([*self.plain, *sorted(head), "", *self.body])


def lines(form: Form, base: BaseReference, usage: Usage, folder: str, task_type: str | None) -> str:
    """Python that loads what is in a folder and asks it once.

    Args:
        form: of what is in it.
        base: of an adapter, its base model.
        usage: how it is asked.
        folder: as the reader would name it.
        task_type: of a PEFT adapter, as its configuration has it.

    Raises:
        UserError: nobody can have the base model.
    """
    code = _Code()
    code.body.append(f"folder = {literal(folder)}  # {THIS}")
    if form == "model":
        return _of_model(code, usage)
    code.plain.append("import torch")
    # PEFT would take the option of another head for one of the adapter's own tensors
    named = base.found and base.name and task_type and not usage.replaces
    _load(code, "auto" if form == "peft" and named else form, base, base.code, usage)
    _ask(code, usage)
    return code.text()


def offline_lines(base: BaseReference, usage: Usage, folder: str) -> str:
    """The same for a PEFT adapter whose base is in a package too, for those without the hub."""
    code = _Code(plain=["import torch"])
    code.body.append(f"folder = {literal(folder)}  # {THIS}")
    _load(code, "peft", base, base.offline, usage)
    _ask(code, usage)
    return code.text()


def with_folder(card: str, name: str) -> str:
    """A card whose lines load ``name``, a hub id, and no folder."""
    return FOLDER.sub(lambda _: f"folder = {literal(name)}", card)


def decoding_options(decoding: Decoding, seq2seq: bool) -> dict[str, int | float | bool]:
    """A decoding as transformers' generation settings.

    Its rules against repetition are for what is written alone. transformers holds a causal model's
    against its prompt too, where names stand that the answer is to repeat: there they are left out.
    """
    options: dict[str, int | float | bool] = {
        "max_new_tokens": decoding.max_new_tokens,
        "num_beams": decoding.beams,
        "do_sample": False,
    }
    if decoding.beams > 1:
        options |= {"length_penalty": decoding.length_penalty, "early_stopping": True}
    if seq2seq and decoding.no_repeat_ngram:
        options["no_repeat_ngram_size"] = decoding.no_repeat_ngram
    if seq2seq and decoding.repetition_penalty != 1:
        options["repetition_penalty"] = decoding.repetition_penalty
    return options


def _load(code: _Code, way: str, base: BaseReference, place: str | None, usage: Usage) -> None:
    """``model`` and ``tokenizer``."""
    suffix = _suffix(usage)
    options = _model_options(code, usage)
    if way == "auto":
        code.need("peft", f"AutoPeftModel{suffix}")
        code.call(
            f"model = AutoPeftModel{suffix}.from_pretrained(", ["folder", *options], ").eval()"
        )
    else:
        if place is None:
            raise UserError(f"nobody can have the base model: it is {base.words}")
        packaged = place.startswith("str(files(")
        if packaged:
            code.need("importlib.resources", "files")
        comment = "" if base.found or packaged else "  # the base model, where you have it"
        code.body.append(f"base = {place}{comment}")
        code.need("transformers", f"AutoModel{suffix}")
        if base.revision is not None and place == base.code:
            options.append(f"revision={literal(base.revision)}")
        code.call(f"model = AutoModel{suffix}.from_pretrained(", ["base", *options])
        if way in OWN:
            module, function = OWN[way]
            code.need(module, function)
            code.body.append(f"model = {function}(model, folder).eval()")
        else:
            code.need("peft", "PeftModel")
            code.body.append("model = PeftModel.from_pretrained(model, folder).eval()")
    code.need("transformers", "AutoTokenizer")
    code.body.append("tokenizer = AutoTokenizer.from_pretrained(folder)")


def _suffix(usage: Usage) -> str:
    kind = usage.answers.kind
    if kind == TEXT:
        return "ForSeq2SeqLM" if usage.seq2seq else "ForCausalLM"
    suffixes = {
        TAGS: "ForTokenClassification",
        SPANS: "ForQuestionAnswering",
        CHOICES: "ForMultipleChoice",
    }
    return suffixes.get(kind, "ForSequenceClassification")


def _model_options(code: _Code, usage: Usage) -> list[str]:
    """What the configuration of the base model does not know."""
    options = []
    names = usage.answers.names
    if names is not None and usage.answers.kind != CHOICES:
        listed = [literal(name) for name in names]
        code.call("id2label = dict(enumerate([", listed, "]))")
        options += [f"num_labels={len(names)}", "id2label=id2label"]
    elif usage.answers.kind not in (TEXT, CHOICES):
        options.append(f"num_labels={usage.answers.size}")
    if usage.pad is not None:
        options.append(f"pad_token_id={usage.pad}")
    if usage.replaces:
        options.append("ignore_mismatched_sizes=True")
    return [*options, f"dtype=torch.{usage.dtype}"]


def _ask(code: _Code, usage: Usage) -> None:
    """One question, and its answer printed."""
    kind = usage.answers.kind
    if kind == TEXT:
        _write(code, usage)
        return
    if kind == SPANS:
        _find(code, usage)
        return
    if kind == CHOICES:
        _choose(code, usage)
        return
    if kind == TAGS:
        space = '" " + ' if usage.spaced else ""
        code.body.append('words = ["One", "word", "after", "another", "."]')
        given = [f"[{space}word for word in words]" if space else "words"]
        options = ["is_split_into_words=True", *_cut(usage), 'return_tensors="pt"']
    else:
        given = ['["A text."]' if usage.second is None else '["The first text."]']
        if usage.second is not None:
            given.append(f"[{literal(usage.second + 'The second text.')}]")
        options = [*_cut(usage), "padding=True", 'return_tensors="pt"']
    code.call("batch = tokenizer(", [*given, *options])
    code.body += ["with torch.no_grad():", "    logits = model(**batch).logits"]
    if kind == NUMBER:
        code.body.append("print(logits[:, 0].tolist())")
    elif kind == LABELS:
        code.body += [
            "probabilities = logits[0].sigmoid().tolist()",
            f"print([id2label[i] for i, p in enumerate(probabilities) if p > {usage.threshold:g}])",
        ]
    elif kind == CLASSES:
        code.body += [
            "probabilities = logits.softmax(-1)",
            "print([id2label[i] for i in logits.argmax(-1).tolist()], probabilities)",
        ]
    else:  # the first token of a word speaks for it
        code.body += [
            "first = [batch.word_ids().index(i) for i in range(len(words))]",
            "print(list(zip(words, [id2label[i] for i in logits[0, first].argmax(-1).tolist()])))",
        ]


def _find(code: _Code, usage: Usage) -> None:
    """An answer in a text that fits the model at once."""
    code.body += [
        'question = "What is it?"',
        f"context = {literal((usage.second or '') + 'A text that says what it is.')}",
    ]
    longest = [] if usage.max_length is None else [f"max_length={usage.max_length}"]
    options = ['truncation="only_second"', *longest, "return_offsets_mapping=True"]
    code.call("batch = tokenizer(", ["question", "context", *options, 'return_tensors="pt"'])
    code.body += [
        'offsets = batch.pop("offset_mapping")[0]',
        "inside = torch.tensor([part == 1 for part in batch.sequence_ids()])",
        "with torch.no_grad():",
        "    found = model(**batch)",
        "scores = found.start_logits[0, :, None] + found.end_logits[0, None, :]",
        f"near = torch.ones_like(scores).triu().tril({usage.longest_answer - 1}).bool()",
        'allowed = scores.masked_fill(~(near & inside[:, None] & inside), float("-inf"))',
        "first, last = divmod(int(allowed.argmax()), len(scores))",
        "answer = context[offsets[first, 0] : offsets[last, 1]]",
    ]
    if usage.unanswerable:
        code.body += [
            "none = batch.input_ids[0].tolist().index(tokenizer.cls_token_id)",
            "if scores[none, none] > allowed.max():",
            '    answer = ""',
        ]
    code.body.append("print(answer)")


def _choose(code: _Code, usage: Usage) -> None:
    """One question, and the answers that it offers."""
    choices = [literal((usage.second or "") + text) for text in ("One answer.", "Another one.")]
    code.body += ['question = "A question?"', f"choices = [{', '.join(choices)}]"]
    options = [*_cut(usage), "padding=True", 'return_tensors="pt"']
    code.call("rows = tokenizer(", ["[question] * len(choices)", "choices", *options])
    code.body += [
        "batch = {name: tensor[None] for name, tensor in rows.items()}",
        "with torch.no_grad():",
        "    logits = model(**batch).logits",
        "print(choices[int(logits.argmax())], logits.softmax(-1))",
    ]


def _write(code: _Code, usage: Usage) -> None:
    decoding = usage.decoding or Decoding()
    options = [f"{k}={v!r}" for k, v in decoding_options(decoding, usage.seq2seq).items()]
    options += ["pad_token_id=tokenizer.pad_token_id", "eos_token_id=tokenizer.eos_token_id"]
    if usage.seq2seq:
        code.call(
            "batch = tokenizer(", [literal(usage.source), *_cut(usage), 'return_tensors="pt"']
        )
        given = ["input_ids=batch.input_ids", "attention_mask=batch.attention_mask"]
        code.call("tokens = model.generate(", [*given, *options])
        code.body.append("print(tokenizer.decode(tokens[0], skip_special_tokens=True))")
        return
    _prompt(code, usage)
    code.call(
        "tokens = model.generate(",
        ["input_ids=prompt", "attention_mask=torch.ones_like(prompt)", *options],
    )
    code.body.append(
        "print(tokenizer.decode(tokens[0, prompt.shape[1]:], skip_special_tokens=True))"
    )


def _prompt(code: _Code, usage: Usage) -> None:
    """``prompt``, token by token as it was trained: a source and what stands behind it."""
    if usage.chat:
        code.body.append(f"messages = {usage.source}")  # JSON of texts is Python too
        code.call(
            "text = tokenizer.apply_chat_template(",
            ["messages", "add_generation_prompt=True", "tokenize=False"],
        )
        code.body.append("ids = tokenizer(text, add_special_tokens=False).input_ids")
        code.body.append("prompt = torch.tensor([ids])")
        return
    last = "[:-1]" if usage.ends else ""
    code.body.append(f"source = {literal(usage.source)}")
    if usage.separator is None:
        behind = f" + [{usage.begin}]"
    elif usage.separator:
        code.body.append(f"separator = {literal(usage.separator)}")
        behind = " + tokenizer(separator, add_special_tokens=False).input_ids"
    else:
        behind = ""
    code.body.append(f"ids = tokenizer(source).input_ids{last}{behind}")
    code.body.append("prompt = torch.tensor([ids])")


def _of_model(code: _Code, usage: Usage) -> str:
    """A whole model, which pipelines load as it lies."""
    kind = usage.answers.kind
    if kind == TEXT and usage.seq2seq:
        # transformers 5 has no pipeline for an encoder with a decoder
        code.need("transformers", "AutoModelForSeq2SeqLM", "AutoTokenizer")
        code.body += [
            "model = AutoModelForSeq2SeqLM.from_pretrained(folder)",
            "tokenizer = AutoTokenizer.from_pretrained(folder)",
        ]
        code.call(
            "batch = tokenizer(", [literal(usage.source), *_cut(usage), 'return_tensors="pt"']
        )
        given = ["input_ids=batch.input_ids", "attention_mask=batch.attention_mask"]
        code.call("tokens = model.generate(", given, ")  # as generation_config.json says")
        code.body += [
            "print(tokenizer.decode(tokens[0], skip_special_tokens=True))",
        ]
        return code.text()
    if kind in (SPANS, CHOICES):  # no more one of transformers 5 either
        suffix = _suffix(usage)
        code.plain.append("import torch")
        code.need("transformers", f"AutoModel{suffix}", "AutoTokenizer")
        code.body += [
            f"model = AutoModel{suffix}.from_pretrained(folder).eval()",
            "tokenizer = AutoTokenizer.from_pretrained(folder)",
        ]
        _ask(code, usage)
        return code.text()
    code.need("transformers", "pipeline")
    options = [f'"{PIPELINES[kind]}"', "model=folder"]
    if kind == TAGS:
        options.append('aggregation_strategy="simple"')
    code.call("pipe = pipeline(", options)
    if kind == TAGS:
        code.body.append('print(pipe("One word after another."))')
    elif kind == TEXT:
        _pipe_text(code, usage)
    else:
        text = '"A text."'
        if usage.second is not None:
            second = literal(usage.second + "The second text.")
            text = f'{{"text": "The first text.", "text_pair": {second}}}'
        every = ["top_k=None"] if kind == LABELS else []
        code.call("answer = pipe(", [text, *_cut(usage), *every])
        code.body.append("print(answer)")
        if kind == LABELS:
            said = f'if one["score"] > {usage.threshold:g}'
            code.body.append(f'print([one["label"] for one in answer {said}])')
    return code.text()


def _pipe_text(code: _Code, usage: Usage) -> None:
    if usage.chat:
        code.body.append(f"messages = {usage.source}")  # JSON of texts is Python too
        code.call("print(pipe(", ["messages", "return_full_text=False"], "))")
        return
    code.body.append(f"source = {literal(usage.source)}")
    behind = f" + {literal(usage.separator)}" if usage.separator else ""
    if usage.separator is None:
        behind = f" + pipe.tokenizer.convert_ids_to_tokens({usage.begin})"
    code.call("print(pipe(", [f"source{behind}", "return_full_text=False"], "))")


def _cut(usage: Usage) -> list[str]:
    """Of an example longer than the longest that was learned, the tokenizer's options."""
    return [] if usage.max_length is None else ["truncation=True", f"max_length={usage.max_length}"]


def _filled(parts: Sequence[str], indent: str) -> list[str]:
    """Parts with commas between them, as many in a line as it holds."""
    rows: list[str] = []
    line = indent
    for number, part in enumerate(parts):
        piece = part + ("," if number + 1 < len(parts) else "")
        if line.strip() and len(line) + 1 + len(piece) > WIDTH:
            rows.append(line)
            line = indent
        line += (" " if line.strip() else "") + piece
    return [*rows, line]

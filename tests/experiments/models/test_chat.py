"""Conversations by chat templates: which tokens are the assistant's, by marks and by prefixes."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bilevel.errors import UserError
from experiments.models.chat import check_template, encode, prompt_tokens

HEAD = "{% for m in messages %}"
TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
TAIL = "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
CHATML = HEAD + TURN + TAIL
MARKED = (
    HEAD
    + "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    + "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    + "{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\n' }}"
    + TAIL
)
# As Qwen 3: a place to think in the last turn alone.
THINKING = (
    HEAD
    + "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}"
    + "<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n"
    + TAIL
)
NO_PROMPT = HEAD + "[{{ m.role }}] {{ m.content }}<|im_end|>" + "{% endfor %}"
STRICT = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    + CHATML
)
FORGETFUL = (
    HEAD
    + "<|im_start|>{{ m.role }}\n{% if m.role != 'assistant' or loop.last %}"
    + "{{ m.content }}{% endif %}<|im_end|>\n"
    + TAIL
)
TALK = [
    {"role": "user", "content": "one plus one?"},
    {"role": "assistant", "content": "two, I think"},
    {"role": "user", "content": "sure?"},
    {"role": "assistant", "content": "yes: two"},
]


def bytes_tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    """A token for each byte, and ChatML's marks."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        model_max_length=512,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|im_start|>"],
    )
    made.chat_template = template
    return made


def said(tokenizer, messages):
    """What is learned, as text, parted where it is not adjacent."""
    ids, marks = encode(tokenizer, messages)
    spans, last = [], None
    for i, (token, mark) in enumerate(zip(ids, marks, strict=True)):
        if mark:
            if last != i - 1:
                spans.append([])
            spans[-1].append(token)
            last = i
    assert marks[-1]
    return [tokenizer.decode(span) for span in spans]


@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_all_that_the_assistant_says_with_its_end(template):
    found = said(bytes_tokenizer(template), TALK)
    assert found == ["two, I think<|im_end|>", "yes: two<|im_end|>"]


def test_prefixes_are_as_transformers_marks():
    marked, plain = bytes_tokenizer(MARKED), bytes_tokenizer(CHATML)
    theirs = marked.apply_chat_template(
        TALK, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    ids, marks = encode(plain, TALK)
    assert ids == theirs["input_ids"][: len(ids)]
    assert [int(m) for m in marks] == theirs["assistant_masks"][: len(ids)]
    assert not any(theirs["assistant_masks"][len(ids) :])
    assert encode(marked, TALK) == (ids, marks)


@pytest.mark.parametrize("template", [CHATML, MARKED, THINKING])
def test_an_answer_stands_behind_its_prompt(template):
    """The very tokens that generation starts from."""
    tokenizer = bytes_tokenizer(template)
    ids, marks = encode(tokenizer, TALK)
    prompt = prompt_tokens(tokenizer, TALK[:-1])
    theirs = tokenizer.apply_chat_template(
        TALK[:-1], tokenize=True, add_generation_prompt=True, return_dict=True
    )
    assert prompt == theirs["input_ids"]
    assert ids[: len(prompt)] == prompt
    assert not marks[len(prompt) - 1]
    assert all(marks[len(prompt) :])


def test_a_template_that_writes_the_last_turn_otherwise():
    found = said(bytes_tokenizer(THINKING), TALK)
    assert found == ["two, I think<|im_end|>", "<think>\n\n</think>\n\nyes: two<|im_end|>"]


def test_without_a_generation_prompt_the_role_is_learned():
    tokenizer = bytes_tokenizer(NO_PROMPT)
    assert said(tokenizer, TALK)[-1] == "[assistant] yes: two<|im_end|>"


def test_text_of_two_alphabets():
    talk = [TALK[0], {"role": "assistant", "content": "zwölf 🙂 二"}]
    assert said(bytes_tokenizer(CHATML), talk) == ["zwölf 🙂 二<|im_end|>"]


@pytest.mark.parametrize(
    ("template", "messages", "words"),
    [
        (STRICT, [{"role": "system", "content": "x"}, *TALK], "no system here"),
        (FORGETFUL, TALK, "one answer each"),
        (CHATML.replace("{{ m.content }}", "{{ m.nothing.at.all }}"), TALK, "template"),
    ],
)
def test_templates_that_cannot_serve(template, messages, words):
    with pytest.raises(UserError, match=words):
        encode(bytes_tokenizer(template), messages)


def test_models_that_cannot_serve():
    check_template(bytes_tokenizer(CHATML), seq2seq=False)
    with pytest.raises(UserError, match="decoder"):
        check_template(bytes_tokenizer(CHATML), seq2seq=True)
    with pytest.raises(UserError, match="no chat template"):
        check_template(bytes_tokenizer(None), seq2seq=False)

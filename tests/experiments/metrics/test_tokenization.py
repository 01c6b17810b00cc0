"""Scores of text in other scripts: words are cut as the script has them, and equal texts score."""

import shutil
import unicodedata

import pytest

from bilevel.errors import UserError
from experiments.metrics.text import TEXT_METRICS, chosen, score_text
from experiments.metrics.text.drawn import drawn_text

TEXTS = {
    "intl": [
        ["Привет, мир!", "Погода сегодня очень хорошая, и мы идём в парк."],
        ["مرحبا، كيف حالك اليوم يا صديقي؟", "نعم، أنا بخير"],
        ["L'été est déjà là, n'est-ce pas ?", "où êtes-vous allés hier ?"],
        ["नमस्ते दुनिया, आप कैसे हैं?", "हाँ, मैं ठीक हूँ"],
        ["안녕하세요, 세계! 오늘 날씨가 좋네요.", "네, 그렇습니다"],
    ],
    "zh": [["今天天气很好，我们去公园。", "你好吗"]],
    "char": [
        ["今日は天気がいいですね。", "はい、そうです"],
        ["สวัสดีครับ ผมชื่อสมชาย", "ขอบคุณครับ"],
    ],
    "13a": [["The cat sat on the mat, at home.", "it was a very good film, and we liked it a lot"]],
}
CASES = [(name, texts) for name, several in TEXTS.items() for texts in several]
QUICK = [name for name, metric in TEXT_METRICS.items() if "java" not in metric.needs]
JAVA = [name for name in TEXT_METRICS if name not in QUICK]
BEST = {"bleu": 100, "rouge_l_coco": 100, "chrf": 100, "ter": 0, "meteor": 100, "meteor_coco": 100}
BEST |= dict.fromkeys(("rouge1", "rouge2", "rougeL", "rougeLsum"), 100)


@pytest.mark.parametrize(("name", "texts"), CASES)
def test_a_script_has_its_tokenization(name: str, texts: list[str]) -> None:
    assert chosen("auto", [[text] for text in texts]) == name
    assert chosen("13a", [[text] for text in texts]) == "13a"
    _, settings = score_text(["bleu", "nist"], texts, [[text] for text in texts])
    assert f"tok:{name}" in settings["bleu"]
    assert name in settings["nist"]


@pytest.mark.parametrize(("name", "texts"), CASES)
def test_equal_texts_score_best_and_others_do_not(name: str, texts: list[str]) -> None:
    references = [[text] for text in texts]
    scores, _ = score_text(QUICK, texts, references)
    for metric in QUICK:
        score = scores[metric]
        assert score is not None
        assert score == pytest.approx(BEST[metric]) if metric in BEST else score > 1, metric
    others, _ = score_text(QUICK, texts[::-1], references)
    for metric in QUICK:
        if metric == "ter":
            assert others[metric] > scores[metric]
        else:
            assert others[metric] < scores[metric], metric


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="METEOR is a Java program")
@pytest.mark.parametrize(("name", "texts"), [case for case in CASES if case[0] != "13a"])
def test_meteor_of_equal_texts(name: str, texts: list[str]) -> None:
    scores, settings = score_text(JAVA, texts, [[text] for text in texts])
    for metric in JAVA:
        assert scores[metric] == pytest.approx(100)
        assert f"-l other, sacrebleu's {name} tokens" in settings[metric]


def test_half_right_is_half_right() -> None:
    """Of four words two are right: a share that a score of letters a to z does not see."""
    scores, _ = score_text(["rouge1", "ter"], ["мы идём домой сейчас"], [["мы идём в парк"]])
    assert scores == {"rouge1": pytest.approx(50), "ter": pytest.approx(50)}
    scores, _ = score_text(["rouge1", "ter"], ["我们去家里"], [["我们去公园"]])
    assert scores == {"rouge1": pytest.approx(60), "ter": pytest.approx(40)}


def test_a_name_makes_no_text_of_another_script() -> None:
    english = "the poet visited the old town and all of its many churches before he left for home"
    assert chosen("auto", [[english] * 4, [f"{english} with Zoë"], [f"{english} 李白"]]) == "13a"


def test_accents_are_the_same_in_one_character_or_two() -> None:
    composed = "l\u00e9 caf\u00e9 est ferm\u00e9 ce soir"
    apart = "le\u0301 cafe\u0301 est ferme\u0301 ce soir"
    scores, _ = score_text(["rougeL", "nist", "ter"], [apart], [[composed]])
    equal, _ = score_text(["rougeL", "nist", "ter"], [composed], [[composed]])
    assert scores == equal


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ("intl", "l\u00e9 caf\u00e9 est ferm\u00e9 ce soir"),
        ("zh", "\u6211\u4eec\u53bb caf\u00e9 \u5403\u996d"),
        ("char", "\u304c\u3093\u3070\u3063\u3066\u306d"),
    ],
)
def test_bleu_takes_composed_characters(tokens: str, text: str) -> None:
    apart = unicodedata.normalize("NFD", text)
    assert apart != text
    for said, right in ((apart, text), (text, apart)):
        scores, _ = score_text(["bleu"], [said], [[right]], tokens)
        assert scores == {"bleu": pytest.approx(100)}
        drawn = drawn_text("bleu", [said], [[right]], tokens)
        assert drawn is not None
        assert drawn.value == pytest.approx(100)
    scores, _ = score_text(["bleu"], [apart], [[text, "x"]], "13a")  # as the papers' scripts do
    assert scores["bleu"] is None or scores["bleu"] < 50


@pytest.mark.parametrize("text", ["!!!", "\U0001f44d \U0001f44d", "привет"])
def test_a_text_without_english_words_still_equals_itself(text: str) -> None:
    """Beside English, where the tokenization is the papers'."""
    english = ["it was a good film"] * 50
    texts = [*english, text]
    scores, settings = score_text(["rouge1", "rougeL"], texts, [[each] for each in texts])
    assert scores == {"rouge1": pytest.approx(100), "rougeL": pytest.approx(100)}
    assert "Porter stems" in settings["rouge1"]


@pytest.mark.parametrize(
    ("metric", "texts"), [("bleu", ["yes", "no way"]), ("cider", ["a b c d"]), ("rouge2", ["no"])]
)
def test_what_is_zero_for_equal_texts_is_no_score(metric: str, texts: list[str]) -> None:
    scores, settings = score_text([metric], texts, [[text] for text in texts])
    assert scores == {metric: None}
    assert "equal" in settings[metric]


def test_nothing_right_is_zero() -> None:
    scores, _ = score_text(["bleu", "rougeL"], [""], [["the cat sat on the mat"]])
    assert scores == {"bleu": 0, "rougeL": 0}
    scores, _ = score_text(["bleu", "cider"], ["some text"], [["one"]])
    assert scores == {"bleu": 0, "cider": 0}


def test_another_name_is_refused() -> None:
    with pytest.raises(UserError, match=r"tokenization=zn.*zh"):
        score_text(["bleu"], ["a"], [["a"]], "zn")

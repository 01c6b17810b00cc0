"""Our conversation with METEOR's program: a stand-in everywhere, the real one where Java is."""

import shutil
import stat
import sys

import pytest

from bilevel.errors import UserError
from experiments.metrics.text import TEXT_METRICS, meteor

# Its protocol: an example's statistics are the lengths of its texts, its score the first one.
ANSWERS = """
for line in sys.stdin:
    kind, *texts = line.rstrip("\\n").split(" ||| ")
    print(kind, texts, file=log, flush=True)
    if kind == "SCORE":
        print(" ".join(str(len(text)) for text in texts), flush=True)
    else:
        for text in texts:
            print(text.split()[0])
        print(0.25, flush=True)
"""


@pytest.fixture
def java(tmp_path, monkeypatch):
    """Puts a Python program in Java's place; what it says to ``log`` is in the file returned."""

    def install(body):
        program = tmp_path / "java"
        log = tmp_path / "log"
        program.write_text(f"#!{sys.executable}\nimport sys\nlog = open({str(log)!r}, 'w')\n{body}")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        return log

    return install


def test_texts_are_cleaned_and_the_score_of_the_corpus_is_returned(java):
    log = java(ANSWERS)
    hypotheses, references = ["a\nb ||| c\u2028", ""], [["x  y\r\nz"], ["u", "é"]]
    assert TEXT_METRICS["meteor"].function(hypotheses, references) == pytest.approx(25)
    assert log.read_text(encoding="utf-8").splitlines() == [
        "SCORE ['x y z', 'a b c']",
        "SCORE ['u', 'é', '']",
        "EVAL ['5 5', '1 1 0']",
    ]


def test_of_coco_takes_words_alone(java):
    log = java(ANSWERS)
    TEXT_METRICS["meteor_coco"].function(["It's cheap."], [["A pub, cheap!"]])
    assert "SCORE ['a pub cheap', \"it 's cheap\"]" in log.read_text()


def test_a_program_that_fails_is_told_in_one_sentence(java):
    java("print('no such memory', file=sys.stderr)\nraise SystemExit(1)\n")
    with pytest.raises(UserError, match=r"METEOR.*no such memory"):
        TEXT_METRICS["meteor"].function(["a"] * 5000, [["b"]] * 5000)


def test_a_program_that_hangs_is_ended(java, monkeypatch):
    java("import time\ntime.sleep(600)\n")
    monkeypatch.setattr(meteor, "START_SECONDS", 0.5)
    with pytest.raises(UserError, match="no answer"):
        TEXT_METRICS["meteor"].function(["a"], [["b"]])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="there is no java on the PATH")
def test_the_real_program():
    hypotheses = ["the cat sat on the mat", "a big house", "", "cafés in the centre", "!!!"]
    references = [
        ["the cat sat on the mat"],
        ["a large home", "the house is large"],
        ["something"],
        ["a café near the centre", "coffee shops"],
        ["x"],
    ]
    # what pycocoevalcap 1.2's own class says of them, apart from the factor
    found = TEXT_METRICS["meteor"].function(hypotheses, references)
    assert found == pytest.approx(100 * 0.4148487171332136, rel=1e-12)

"""KenLM's perplexity, with a stand-in for the optional package where it is not installed."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bilevel import UserError
from experiments.metrics.ngrams import NgramModel, is_ngram_file
from experiments.metrics.perplexity import perplexity

# KenLM takes no model of single words alone; the pair here is in none of the texts.
ARPA = """\\data\\
ngram 1=5
ngram 2=1

\\1-grams:
-1.0\t<unk>\t0
0\t<s>\t0
-0.5\t</s>
-0.25\tgood\t0
-0.75\tbad\t0

\\2-grams:
-0.1\tbad bad

\\end\\
"""


class StandIn:
    """KenLM's ``Model`` as far as single words go."""

    def __init__(self, path: str) -> None:
        lines = Path(path).read_text().split("\\1-grams:\n")
        if len(lines) < 2:
            raise OSError(f"Cannot read model '{path}'")
        rows = [line.split("\t") for line in lines[1].splitlines() if "\t" in line]
        self.scores = {row[1]: float(row[0]) for row in rows}

    def score(self, sentence: str, bos: bool, eos: bool) -> float:
        assert bos
        assert eos
        words = [*sentence.split(), "</s>"]
        return sum(self.scores.get(word, self.scores["<unk>"]) for word in words)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small model; KenLM reads it where it is installed."""
    if importlib.util.find_spec("kenlm") is None:
        monkeypatch.setitem(sys.modules, "kenlm", SimpleNamespace(Model=StandIn))
    path = tmp_path / "model.arpa"
    path.write_text(ARPA)
    return path


def test_perplexity_is_of_words_and_ends_together(file: Path) -> None:
    model = NgramModel(str(file))
    found = model.surprises(["good  bad", "", "good strange\n"])
    assert [one.tokens for one in found] == [3, 0, 3]
    assert found[0].loss == pytest.approx(1.5 * math.log(10), rel=1e-5)
    assert perplexity(found) == pytest.approx(10 ** ((1.5 + 1.75) / 6), rel=1e-5)
    assert perplexity([found[1]]) is None


def test_without_the_package_it_is_told_how_to_get_it(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kenlm", None)
    with pytest.raises(UserError, match=r"language_model=.*pip install kenlm"):
        NgramModel(str(file))


def test_no_such_file_and_no_such_model(file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"language_model=none.arpa.*no such file"):
        NgramModel("none.arpa")
    broken = tmp_path / "broken.arpa"
    broken.write_text("nothing")
    with pytest.raises(UserError, match=r"broken.arpa cannot be read.*KenLM"):
        NgramModel(str(broken))


def test_the_suffix_tells_a_kenlm_model(tmp_path: Path) -> None:
    assert [is_ngram_file(n) for n in ("a.arpa", "b.BIN", "gpt2", "org/model")] == [1, 1, 0, 0]
    (tmp_path / "folder.bin").mkdir()
    assert not is_ngram_file(str(tmp_path / "folder.bin"))

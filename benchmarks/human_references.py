"""Every human reference of E2E against the others of its input, scored on two independent roads.

    python -m benchmarks.human_references data_dir=DIR [split=test] [examples=N] [meteor=no]

``data_dir`` holds the parquet files of the hub's e2e_nlg. Left: experiments.metrics.text. Right:
nltk's BLEU; NIST, ROUGE and CIDEr written out from their definitions; METEOR's own command line on
files (its program is the only implementation there is: what this checks is our conversation with
it); and for the three scores of MS-COCO, pycocoevalcap on the tokens of Stanford's Java program, as
the E2E script has them. ``meteor=no`` leaves METEOR out, which takes longest.
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pandas as pd

from experiments.metrics.text import TEXT_METRICS
from experiments.results.finished_run import take

Texts = list[list[str]]


def examples_of(path: Path, limit: int | None) -> tuple[list[str], Texts]:
    """Each reference and, for each, the others of its input."""
    rows = pd.read_parquet(path)
    hypotheses, references = [], []
    for _, group in rows.groupby("meaning_representation", sort=False):
        texts = group["human_reference"].tolist()
        for i, text in enumerate(texts):
            if len(texts) > 1:
                hypotheses.append(text)
                references.append(texts[:i] + texts[i + 1 :])
    return hypotheses[:limit], references[:limit]


def grams(text: list[str], n: int) -> Counter:
    return Counter(tuple(text[i : i + n]) for i in range(len(text) - n + 1))


def nist(hypotheses: Texts, references: list[Texts]) -> float:
    """Order by order, from the text of Doddington (2002)."""
    words = sum(len(text) for texts in references for text in texts)
    shorter, found = {(): words}, 0.0
    for n in range(1, 6):
        seen = Counter(g for ts in references for text in ts for g in grams(text, n).elements())
        gain = 0.0
        for hypothesis, texts in zip(hypotheses, references, strict=True):
            there = [grams(text, n) for text in texts]
            for gram, count in grams(hypothesis, n).items():
                allowed = max(counts[gram] for counts in there)
                if allowed:
                    gain += min(count, allowed) * math.log2(shorter[gram[:-1]] / seen[gram])
        found += gain / sum(max(len(text) - n + 1, 0) for text in hypotheses)
        shorter = seen
    mean = sum(sum(map(len, texts)) / len(texts) for texts in references)
    ratio = min(1.0, sum(map(len, hypotheses)) / mean)
    return found * 0.5 ** ((math.log(ratio) / math.log(1.5)) ** 2)


def lcs(a: list[str], b: list[str]) -> int:
    row = [0] * (len(b) + 1)
    for x in a:
        above, row = row, [0]
        for j, y in enumerate(b):
            row.append(above[j] + 1 if x == y else max(above[j + 1], row[j]))
    return row[-1]


def rouge(n: int | None, hypotheses: Texts, references: list[Texts]) -> float:
    """Mean F1 of the best reference, of n-grams, or of the longest common subsequence for None."""

    def f1(a: list[str], b: list[str]) -> float:
        if n is None:
            return 2 * lcs(a, b) / (len(a) + len(b))
        x, y = grams(a, n), grams(b, n)
        return 2 * (x & y).total() / max(x.total() + y.total(), 1)

    pairs = zip(hypotheses, references, strict=True)
    scores = [max(f1(hypothesis, text) for text in texts) for hypothesis, texts in pairs]
    return 100 * sum(scores) / len(scores)


def rouge_l_coco(hypotheses: Texts, references: list[Texts]) -> float:
    total = 0.0
    for hypothesis, texts in zip(hypotheses, references, strict=True):
        common = [lcs(hypothesis, text) for text in texts]
        p = max(common) / len(hypothesis)
        r = max(c / len(text) for c, text in zip(common, texts, strict=True))
        total += 2.44 * p * r / (r + 1.44 * p) if p else 0.0
    return 100 * total / len(hypotheses)


def cider(hypotheses: Texts, references: list[Texts]) -> float:
    total = 0.0
    for n in range(1, 5):
        seen = Counter(g for texts in references for g in {g for t in texts for g in grams(t, n)})

        def vector(text: list[str], n: int = n, seen: Counter = seen) -> dict:
            weight = {g: math.log(len(references) / max(1, seen[g])) for g in grams(text, n)}
            return {g: count * weight[g] for g, count in grams(text, n).items()}

        for hypothesis, texts in zip(hypotheses, references, strict=True):
            a = vector(hypothesis)
            for text in texts:
                b = vector(text)
                dot = sum(min(w, b[g]) * b[g] for g, w in a.items() if g in b)
                norm = math.hypot(*a.values()) * math.hypot(*b.values())
                decay = math.exp(-((len(hypothesis) - len(text)) ** 2) / 72)
                total += 10 / 4 * decay * dot / norm / len(texts) if norm else 0.0
    return total / len(references)


def document(system: str, segments: Iterable[tuple[int, str]]) -> str:
    """Numbered texts in NIST's SGML, which METEOR reads as lines: nothing in them is escaped."""
    lines = [f'<seg id="{number}">{text}</seg>' for number, text in segments]
    return "\n".join([f'<doc docid="all" sysid="{system}">', *lines, "</doc>", ""])


def meteor(hypotheses: list[str], references: Texts) -> float:
    """METEOR's program on two files, where a text may have any number of references."""
    place = metadata.distribution("pycocoevalcap").locate_file("pycocoevalcap/meteor")
    command = ["java", "-Xmx2G", "-jar", f"{place}/meteor-1.5.jar", "test", "reference"]
    columns = [
        document(f"r{i}", [(n, texts[i]) for n, texts in enumerate(references) if i < len(texts)])
        for i in range(max(map(len, references)))
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name, documents in (
            ("test", [document("h", enumerate(hypotheses))]),
            ("reference", columns),
        ):
            kind = "tstset" if name == "test" else "refset"
            text = (
                f'<{kind} setid="all" srclang="any" trglang="en">\n{"".join(documents)}</{kind}>\n'
            )
            Path(folder, name).write_text(text, encoding="utf-8")
        options = ["-sgml", "-l", "en", "-norm"]
        done = subprocess.run(
            command + options, cwd=folder, capture_output=True, check=True, encoding="utf-8"
        )
    return 100 * float(done.stdout.split("Final score:")[1])


def stanford(hypotheses: list[str], references: Texts, with_meteor: bool) -> dict[str, float]:
    """Pycocoevalcap's own tokeniser and scorers."""
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenise = PTBTokenizer().tokenize
    res = tokenise({i: [{"caption": text}] for i, text in enumerate(hypotheses)})
    gts = tokenise({i: [{"caption": t} for t in texts] for i, texts in enumerate(references)})
    found = {
        "rouge_l_coco": 100 * Rouge().compute_score(gts, res)[0],
        "cider": Cider().compute_score(gts, res)[0],
    }
    if with_meteor:
        found["meteor_coco"] = 100 * Meteor().compute_score(gts, res)[0]
    return found


def independent(hypotheses: list[str], references: Texts, with_meteor: bool) -> dict[str, float]:
    """The scores again; only the rules that make tokens are shared."""
    from nltk.stem.porter import PorterStemmer
    from nltk.translate.bleu_score import corpus_bleu
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    from experiments.metrics.text.coco import words

    of_13a, stem = Tokenizer13a(), PorterStemmer().stem
    ways = {
        "13a": lambda text: of_13a(text.lower()).split(),
        "coco": lambda text: words(text).split(),
        "rouge": lambda text: [
            stem(w) if len(w) > 3 else w for w in re.findall("[a-z0-9]+", text.lower())
        ],
    }
    made = {}
    for name, way in ways.items():
        tokens = {text: way(text) for text in {*hypotheses, *(t for ts in references for t in ts)}}
        made[name] = [tokens[t] for t in hypotheses], [[tokens[t] for t in ts] for ts in references]
    found = {
        "bleu": 100 * corpus_bleu(made["13a"][1], made["13a"][0]),
        "nist": nist(*made["13a"]),
        "rouge_l_coco": rouge_l_coco(*made["coco"]),
        "cider": cider(*made["coco"]),
        "rouge1": rouge(1, *made["rouge"]),
        "rouge2": rouge(2, *made["rouge"]),
        "rougeL": rouge(None, *made["rouge"]),
    }
    if with_meteor:
        found["meteor"] = meteor(hypotheses, references)
        joined = [" ".join(text) for text in made["coco"][0]]
        found["meteor_coco"] = meteor(joined, [[" ".join(t) for t in ts] for ts in made["coco"][1]])
    return found


def main() -> None:
    own, rest = take(sys.argv[1:], data_dir=None, split="test", examples=None, meteor="yes")
    if rest or not own["data_dir"]:
        sys.exit(__doc__)
    limit = int(own["examples"]) if own["examples"] else None
    data = examples_of(Path(own["data_dir"]) / f"{own['split']}.parquet", limit)
    java = shutil.which("java") is not None
    with_meteor = java and own["meteor"] == "yes"
    again = independent(*data, with_meteor)
    official = stanford(*data, with_meteor) if java else {}
    print(f"{len(data[0])} texts, {sum(map(len, data[1]))} references")
    print("| metric | ours | independently | Stanford's tokens, pycocoevalcap | seconds |")
    print("|---|---|---|---|---|")
    for name in again:
        start = time.perf_counter()
        ours = TEXT_METRICS[name].function(*data)
        seconds = time.perf_counter() - start
        others = [f"{d[name]:.4f}" if name in d else "" for d in (again, official)]
        print(f"| {name} | {ours:.4f} | {' | '.join(others)} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()

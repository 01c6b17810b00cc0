"""The pages of runs, taken apart as a browser would."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from experiments import figures, report
from experiments.pages import one_run, predictions, several
from experiments.pages.page import link
from tests.experiments.pages.runs import CLASSES, NAMES, NASTY, Parsed, class_line, run, values


def page(folder: Path) -> Parsed:
    return Parsed((folder / "report.html").read_text(encoding="utf-8"))


def assert_nothing_from_elsewhere(parsed: Parsed) -> None:
    """Links are of the page itself, or go to files beside it; nothing is loaded but data."""
    ids = parsed.attributes("id")
    assert len(ids) == len(set(ids))
    for name in ("src", "href", "xlink:href", "action", "srcset", "data", "poster"):
        for value in parsed.attributes(name):
            if value.startswith("#"):
                assert value[1:] in ids
            else:
                assert re.match(r"(\./|data:image/png;base64,)", value)
    assert not [tag for tag, _ in parsed.elements if tag in ("link", "iframe", "object", "base")]
    for value in parsed.attributes("style"):
        assert re.sub(r"url\(#[^)]+\)", "", value).count("url(") == 0
    policies = [
        found["content"] for tag, found in parsed.elements if found.get("http-equiv") is not None
    ]
    assert len(policies) == 1
    assert "default-src 'none'" in (policies[0] or "")
    assert not [key for _, found in parsed.elements for key in found if key.startswith("on")]


@pytest.fixture(autouse=True)
def no_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of the time, and two tests look at them."""
    monkeypatch.setattr(figures, "draw_several", lambda results, runs, out, compared: [])
    monkeypatch.setattr(one_run, "drawn", lambda drawings, title: [])
    if "compared" not in request.fixturenames:
        monkeypatch.setattr(several, "drawn", lambda drawings, title: [])


@pytest.fixture
def compared() -> None:
    """The page of several runs has its figures."""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a page, all of whose words are somebody's who means harm."""
    folder = tmp_path_factory.mktemp("runs") / 'a & b\'<i>"c"#?%41'
    labels = [NASTY, "good"]
    rows = [{**r, "label": NASTY if r["label"] == "bad" else "good"} for r in CLASSES]
    rows = [{**r, "prediction": NASTY if r["prediction"] == "bad" else "good"} for r in rows]
    result = values(
        method=f"auto{NASTY}",
        task=NASTY,
        model=NASTY,
        labels=labels,
        configuration={NASTY: {NASTY: NASTY}},
        warnings=[NASTY],
        decided={"words": NASTY, "decided": None, "near": None, "components": 4},
        update={f"{NASTY}.layer.0.{NASTY}": {"cosine": 0.99, "relative_norm": 0.1}},
        ranks={f"{NASTY}.layer.{i}.{NASTY}": i for i in range(3)},
    )
    texts = [{**rows[1], "texts": [NASTY, "second"]}, {**rows[3], "texts": ["first", NASTY]}]
    run(folder, result, rows, texts)
    report.main([str(folder)])
    return folder


def test_what_a_folder_says_is_text(alone: Path) -> None:
    parsed = page(alone)
    assert_nothing_from_elsewhere(parsed)
    (script,) = (found for tag, found in parsed.elements if tag == "script")
    assert script == {}
    raw = (alone / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in raw
    assert "\u202e" not in raw
    assert "\x1b" not in raw
    assert "<script>alert('x')</script>" in parsed.text
    assert "\\u202ereversed\\x1b[31m" in parsed.text


def test_parts_of_a_page_of_classes(alone: Path) -> None:
    parsed = page(alone)
    wanted = ("scores", "ranks", "predictions", "more", "how")
    assert [found["id"] for tag, found in parsed.elements if tag == "section"] == list(wanted)
    assert "2 of 4 test examples are not right" in parsed.text
    # the worst first: 1 - p is 0.875 of the second example and 0.625 of the fourth
    worst = re.findall(r"example (\d)", parsed.text)
    assert worst == ["1", "3"]
    figures = [found for tag, found in parsed.elements if tag == "svg"]
    assert len(figures) == 5  # losses, scores, gates, values, cosine
    assert all(found["aria-label"] for found in figures)


def test_verdicts_come_first_with_what_to_change(tmp_path: Path) -> None:
    verdict = {"about": "learned", "words": f"nothing learned {NASTY}", "advice": "raise train.lr"}
    result = values(verdict=[verdict], warnings=["a constant prediction"])
    run(tmp_path / "r", result, CLASSES)
    report.main([str(tmp_path / "r")])
    parsed = page(tmp_path / "r")
    assert parsed.text.index("nothing learned <script>") < parsed.text.index("; raise train.lr")
    assert parsed.text.index("raise train.lr") < parsed.text.index("a constant prediction")
    report.main([str(tmp_path)])
    text = page(tmp_path).text
    assert "autolora on films, tiny, seed 0: nothing learned <script>" in text
    assert "raise train.lr" in text


def test_what_a_run_measured_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the figures beside the table, the page of all runs and each run's own."""
    for seed in (0, 1):
        run(tmp_path / f"r{seed}", values(seed=seed), CLASSES)
    seen, read = [], figures.read_metrics
    monkeypatch.setattr(figures, "read_metrics", lambda folder: seen.append(folder) or read(folder))
    report.main([str(tmp_path)])
    assert sorted(folder.name for folder in seen) == ["r0", "r1"]


def test_methods_are_compared_with_intervals(tmp_path: Path) -> None:
    """As the tables beside it say: experiments.comparing.compare."""
    for seed in (0, 1, 2):
        half = values("lora", seed, ranks=None, metrics={"accuracy": 0.5})
        run(tmp_path / f"lora{seed}", half, CLASSES)
        more = values("autolora", seed, ranks=None, metrics={"accuracy": 0.75})
        lines = [*CLASSES[:3], class_line(3, "good", "good", 0.125)]
        run(tmp_path / f"auto{seed}", more, lines)
    report.main([str(tmp_path)])
    text = page(tmp_path).text
    found = json.loads((tmp_path / "comparison.json").read_text())["comparisons"][0]
    (difference,) = found["families"][0]["differences"]
    assert f"{difference['mean']:+.4f}" in text
    assert f"{difference['low']:+.4f} to {difference['high']:+.4f}" in text
    assert "no difference shown" in text
    own = next(r for m in found["methods"] if m["method"] == "lora" for r in m["runs"])
    interval = f"95 %: {own['low']:.4g} to {own['high']:.4g}, 4 examples"
    assert interval in page(tmp_path / "lora0").text
    assert "In accuracy, against lora" in text


def test_a_page_of_a_report_of_another_metric_keeps_the_interval(tmp_path: Path) -> None:
    scores = {"accuracy": 0.5, "macro_f1": 0.5}
    for name in ("a", "b"):
        run(tmp_path / name, values(name, metrics=scores), CLASSES)
    report.report([tmp_path], tmp_path / "out", metric="macro_f1")
    pages = sorted((tmp_path / "out" / "runs").glob("*.html"))
    assert len(pages) == 2
    assert all("95 %" in page.read_text(encoding="utf-8") for page in pages)


def test_how_far_seeds_agree_is_said_of_constant_ranks_too(tmp_path: Path) -> None:
    every = []
    for seed in (0, 1):
        result = values("lora", seed, ranks=dict.fromkeys(NAMES, 4))
        every.append({**result, "folder": str(run(tmp_path / str(seed), result, CLASSES))})
    text = several.html(every, [], [], ["cut to one size they agree"], [], tmp_path / "p.html", {})
    assert "cut to one size they agree" in text
    assert '<section id="ranks">' in text


def test_links_lead_to_files(alone: Path) -> None:
    found = [value for value in page(alone).attributes("href") if value.startswith("./")]
    assert {(alone / unquote(value)).resolve().name for value in found} >= {
        alone.name,
        "result.json",
        "predictions.jsonl",
    }
    assert all((alone / unquote(value)).exists() for value in found)


def test_a_link_is_no_address(tmp_path: Path) -> None:
    assert (
        link(tmp_path / "javascript:alert(1)", tmp_path / "p.html") == "./javascript%3Aalert%281%29"
    )
    assert link(tmp_path / "http:" / "x", tmp_path / "out" / "p.html") == "./../http%3A/x"


@pytest.mark.usefixtures("compared")
def test_several_runs(tmp_path: Path) -> None:
    for seed in (0, 1):
        run(tmp_path / f"auto <{seed}>", values(seed=seed), CLASSES)
    run(tmp_path / "lora", values("lora", ranks=dict.fromkeys(NAMES, 4)), CLASSES)
    failed = tmp_path / "failed" / ".hydra"
    failed.mkdir(parents=True)
    (failed / "config.yaml").write_text("{}")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "result.json").write_text(NASTY)
    report.main([str(tmp_path)])
    parsed = page(tmp_path)
    assert_nothing_from_elsewhere(parsed)
    assert "3 runs" in parsed.text
    assert "not finished" in parsed.text
    assert "is damaged" in parsed.text
    found = [value for value in parsed.attributes("href") if value.endswith("/report.html")]
    pages = {(tmp_path / unquote(value)).parent.name for value in found}
    assert pages == {"auto <0>", "auto <1>", "lora"}
    for folder in pages:
        assert_nothing_from_elsewhere(page(tmp_path / folder))
    # ranks of the runs that chose some, by module
    assert "Ranks on films, tiny: query" in parsed.text
    assert "autolora, seed 1" in parsed.text
    assert "lora, seed 0 4 4 4" not in parsed.text
    sortable = [found for tag, found in parsed.elements if found.get("class") == "sort"]
    assert len(sortable) >= 2


def test_pages_of_runs_elsewhere_are_put_beside_the_report(tmp_path: Path) -> None:
    for seed in (0, 1):
        run(tmp_path / "runs" / f"s{seed}", values(seed=seed), CLASSES)
    before = sorted(tmp_path.rglob("*"))
    report.main(
        [
            str(tmp_path / "runs" / "s0"),
            str(tmp_path / "runs" / "s1"),
            "--out",
            str(tmp_path / "out"),
        ]
    )
    assert sorted(p for p in tmp_path.rglob("*") if "out" not in p.parts) == before
    written = sorted(path.name for path in (tmp_path / "out" / "runs").iterdir())
    assert [name.partition("_")[0] for name in written] == ["s0", "s1"]
    assert f"./runs/{written[0]}" in page(tmp_path / "out").attributes("href")


def test_a_page_of_another_run_of_that_name_is_not_kept(tmp_path: Path) -> None:
    for sweep, task in (("a", "first"), ("b", "second")):
        for seed in (0, 1):
            run(tmp_path / sweep / f"s{seed}", values(seed=seed, task=task), CLASSES)
    for sweep in ("a", "b"):  # the second is older than the pages of the first
        folders = [str(tmp_path / sweep / f"s{seed}") for seed in (0, 1)]
        report.main([*folders, "--out", str(tmp_path / "out")])
    links = [href for href in page(tmp_path / "out").attributes("href") if "/runs/s" in href]
    assert len(links) == 2
    assert all("second" in (tmp_path / "out" / href).read_text() for href in links)


def test_a_new_page_is_left_and_an_old_one_written_anew(tmp_path: Path) -> None:
    for seed in (0, 1):
        run(tmp_path / f"s{seed}", values(seed=seed), CLASSES)
    report.main([str(tmp_path)])
    own = tmp_path / "s0" / "report.html"
    own.write_text("kept")
    (tmp_path / "s1" / "result.json").write_text(json.dumps(values(seed=1, task="other")))
    report.main([str(tmp_path)])
    assert own.read_text() == "kept"
    assert "other" in page(tmp_path / "s1").text


def test_a_damaged_run_has_no_page_and_costs_the_others_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "good", values(), CLASSES)
    run(tmp_path / "bad", values(seed=1), [{**CLASSES[0], "label": "neither"}])
    report.main([str(tmp_path)])
    said = capsys.readouterr()
    assert "no page of" in said.err
    assert "predictions.jsonl, line 1" in said.err
    assert (tmp_path / "good" / "report.html").is_file()
    assert not (tmp_path / "bad" / "report.html").exists()
    assert "no page of its own" in page(tmp_path).text


def test_no_page_is_written_through_a_link(tmp_path: Path) -> None:
    run(tmp_path / "sweep" / "s0", values(), CLASSES)
    target = run(tmp_path / "target", values(seed=1), CLASSES)
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    (tmp_path / "sweep" / "s1").symlink_to(target)
    (tmp_path / "sweep" / "s0" / "report.html").symlink_to(victim)
    report.main([str(tmp_path / "sweep"), str(tmp_path / "sweep" / "s1")])
    assert victim.read_text() == "mine"
    assert not (target / "report.html").exists()
    (tmp_path / "elsewhere").mkdir()
    other = tmp_path / "other"
    other.mkdir()
    (other / "runs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SystemExit):
        report.main([str(tmp_path / "sweep"), str(target), "--out", str(other)])
    assert not list((tmp_path / "elsewhere").iterdir())


# ---- what is said of predictions


def read(folder: Path, result: dict[str, Any], lines: list[dict[str, Any]]) -> Any:
    return predictions.read(run(folder, result, lines), result)


def test_confusion_and_scores_of_classes(tmp_path: Path) -> None:
    lines = [*CLASSES, class_line(4, "good", "good", 0.1), class_line(5, "good", "good", 0.1)]
    found = read(tmp_path / "r", values(), lines)
    assert found.confusion == [[1, 1], [1, 3]]
    bad, good = found.shares
    assert (bad.name, bad.support, bad.precision, bad.recall, bad.f1) == ("bad", 2, 0.5, 0.5, 0.5)
    assert (good.support, good.precision, good.recall) == (4, 0.75, 0.75)
    assert [row["index"] for row in found.worst] == [1, 3]


def test_many_classes_are_told_in_pairs(tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(30)]
    even = [1 / 30] * 30
    lines = [
        {"test": "test", "index": i, "label": "c0", "prediction": said, "probabilities": even}
        for i, said in enumerate(["c1", "c1", "c2", "c0"])
    ]
    found = read(tmp_path / "r", values(labels=names), lines)
    assert found.pairs == [("c0", "c1", 2), ("c0", "c2", 1)]
    assert not found.confusion


def test_several_labels(tmp_path: Path) -> None:
    rows: list[tuple[list[str], list[str], list[float]]] = [
        (["a", "b"], ["a"], [0.9, 0.25]),
        ([], ["b"], [0.0, 1.0]),
        (["a"], ["a"], [0.9, 0.0]),
    ]
    keys = ("label", "prediction", "probabilities")
    lines = [
        {"test": "test", "index": i, **dict(zip(keys, row, strict=True))}
        for i, row in enumerate(rows)
    ]
    result = values(kind="labels", labels=["a", "b"])
    found = read(tmp_path / "r", result, lines)
    assert found.wrong == 2
    assert [(s.name, s.support, s.precision, s.recall) for s in found.shares] == [
        ("a", 2, 1.0, 1.0),
        ("b", 1, 0.0, 0.0),
    ]
    assert [row["index"] for row in found.worst] == [1, 0]  # 1.0, and 0.1 + 0.75
    report.main([str(tmp_path / "r")])
    assert "no label" in page(tmp_path / "r").text


def test_numbers_have_residuals(tmp_path: Path) -> None:
    lines = [
        {"test": "test", "index": i, "label": 1.0, "prediction": said}
        for i, said in enumerate([1.0, 3.0, 0.5])
    ]
    result = values(kind="number", labels=None, metrics={"pearson": 0.5}, primary_metric="pearson")
    found = read(tmp_path / "r", result, lines)
    assert found.numbers.tolist() == [[1, 1], [1, 3], [1, 0.5]]
    assert [row["index"] for row in found.worst] == [1, 2]
    report.main([str(tmp_path / "r")])
    parsed = page(tmp_path / "r")
    assert_nothing_from_elsewhere(parsed)
    assert "kept no texts" in parsed.text


def test_tags_are_shown_in_their_sentences(tmp_path: Path) -> None:
    words = ["Ada", "met", NASTY]
    line = {"test": "test", "words": words, "tags": ["B-PER", "O", "O"]}
    lines = [{**line, "prediction": ["B-PER", "O", "B-ORG"]}, {**line, "prediction": line["tags"]}]
    entities = {"PER": {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 2.0}}
    result = values(
        kind="tags", labels=["O", "B-PER", "B-ORG"], entities=entities,
        metrics={"f1": 0.8}, primary_metric="f1",
    )  # fmt: skip
    run(tmp_path / "r", result, lines)
    report.main([str(tmp_path / "r")])
    parsed = page(tmp_path / "r")
    assert_nothing_from_elsewhere(parsed)
    assert "1 of 2 test examples are not right" in parsed.text
    assert sum(tag == "mark" for tag, _ in parsed.elements) == 1
    assert "O, said B-ORG" in parsed.text
    assert "PER 2 1.0000 1.0000 1.0000" in parsed.text


def test_written_texts_are_shown(tmp_path: Path) -> None:
    line = {"test": "test", "source": NASTY, "target": "t", "references": ["t", "u"]}
    lines = [{**line, "prediction": f"said {i}"} for i in range(40)]
    result = values(kind="text", labels=None, metrics={"bleu": 30.0}, primary_metric="bleu")
    found = read(tmp_path / "r", result, lines)
    assert len(found.samples) == predictions.SAMPLES
    report.main([str(tmp_path / "r")])
    parsed = page(tmp_path / "r")
    assert_nothing_from_elsewhere(parsed)
    assert "said 0" in parsed.text
    assert "said 36" in parsed.text


def test_a_run_of_before_has_a_page(tmp_path: Path) -> None:
    """Without predictions, kind, labels, update and the like."""
    result = values()
    for key in ("kind", "labels", "update", "data", "configuration", "versions", "warnings"):
        del result[key]
    run(tmp_path / "r", {**result, "ranks": None})
    report.main([str(tmp_path / "r")])
    assert_nothing_from_elsewhere(page(tmp_path / "r"))

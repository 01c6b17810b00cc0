"""What ``experiments.predict`` refuses before a model loads, and how an interrupted one goes on."""

import json
import shutil
import signal
from pathlib import Path

import pandas as pd
import pytest

from experiments import predict
from experiments.predicting.saved import Asking
from tests.experiments.predicting.conftest import lines
from tests.experiments.refusals import refused

OLDER = Path(__file__).parent.parent / "older_runs"
GOOD = '{"text": "the film was good"}\n'


@pytest.fixture
def unloaded(monkeypatch):
    """No model may load."""

    def load(self):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(Asking, "load", load)


FILES = {
    "no rows": ("new.csv", "text\n", "no rows"),
    "nothing": ("new.csv", "", "no rows|no column"),
    "nothing in lines": ("new.jsonl", "", "no rows"),
    "no line": ("new.txt", "", "no rows"),
    "another column": ("new.csv", "comment\ngood\n", "no column 'text'.*'comment'"),
    "an empty text": ("new.csv", 'n,text\n1,good\n2,""\n', r"line 3 of .*'text'.*empty=skip"),
    "a blank line": ("new.txt", "good\n\ngood\n", r"line 2 of .*'text'.*empty=skip"),
    "nothing but empty texts": ("new.csv", "n,text\n1,\n", r"line 2 .*'text'"),
    "no text": ("new.jsonl", GOOD + '{"text": null}\n', r"line 2 .*'text'"),
    "no such key": ("new.jsonl", GOOD + '{"txt": "good"}\n', r"line 2 .*'text'"),
    "another encoding": ("new.csv", "text\ncafé\n".encode("latin-1"), r"UTF-8.*task\.encoding"),
    "numbers": ("new.jsonl", '{"text": 1}\n{"text": 2.5}\n', "numbers alone.*'text'"),
    "an object": ("new.jsonl", GOOD + '{"text": {"a": 1}}\n', "line 2 .*an object.*'text'"),
    "a list": ("new.jsonl", GOOD + '{"text": ["a"]}\n', "line 2 .*a list.*'text'"),
    "a ragged row": ("new.csv", "n,text\n1,good\n2,so,so\n", "line 3 .*3 fields.*header has 2"),
    "a semicolon": ("new.csv", "n;text\n1;good\n", "task.delimiter=semicolon"),
    "no JSON": ("new.jsonl", GOOD + "{]\n", "line 2 .*not JSON"),
    "no Parquet": ("new.parquet", GOOD, "parquet"),
    "another ending": ("new.xlsx", GOOD, r"\.csv.*format="),
    "a column of ours": ("new.csv", "text,prediction\ngood,bad\n", "'prediction'.*keep="),
    "a column of ours that is more": (
        *("new.csv", "text,probability_so so\ngood,bad\n"),
        "'probability_so so'.*keep=",
    ),
}


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_wrong(name, kinds, tmp_path, capsys):
    file, content, said = FILES[name]
    data = tmp_path / file
    data.write_bytes(content if isinstance(content, bytes) else content.encode())
    text = refused(
        predict.main,
        [f"run={kinds('classes').run}", f"data={data}", f"out={tmp_path / 'o.csv'}"],
        capsys,
    )
    assert pd.Series([text]).str.contains(said, regex=True).all(), text
    assert list(tmp_path.iterdir()) == [data]


WORDS = {
    "no run": ({"run": None}, "run=DIR"),
    "no such run": ({"run": "nowhere"}, "no finished run"),
    "an unfinished run": ({"run": str(OLDER / "interrupted")}, "no finished run"),
    "no data": ({"data": None}, "data=FILE"),
    "no such file": ({"data": "nothing.csv"}, "data=nothing.csv.*no such file"),
    "a folder": ({"data": "."}, "folder"),
    "no out": ({"out": None}, "out=FILE"),
    "an ending that is not written": ({"out": "o.xlsx"}, r"out=o\.xlsx.*\.csv, \.jsonl, \.parquet"),
    "a folder that is missing": ({"out": "no/o.csv"}, "out=no/o.csv.*no folder no"),
    "a file that is there": ({"data": "empty", "out": "there.csv"}, "out=there.csv.*there already"),
    "a name that is taken": ({"out": "taken.csv"}, "taken.csv.parts"),
    "in and out alike": ({"data": "there.csv", "out": "./there.csv"}, "same file"),
    "an unknown option": ({"batchsize": "3"}, "'batchsize=3'.*batch_size"),
    "no batch": ({"batch_size": "0"}, "batch_size=0"),
    "another way with empty texts": ({"empty": "drop"}, "empty=drop.*refuse, skip"),
    "a column to keep that is not there": ({"keep": "[txt]"}, "keep.*'txt'.*'text'"),
    "words a line for texts": ({"format": "conll"}, "format=conll"),
    "another form": ({"format": "excel"}, "format=excel.*csv"),
    "an option of the task that is none": ({"task.text_colums": "[a]"}, "text_colums"),
    "no adapter": ({"adapter": "empty"}, "empty holds no adapter"),
}


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize("name", WORDS)
def test_words_that_are_wrong(name, kinds, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("there.csv").write_text("text\nsomebody's\n")
    Path("taken.csv.parts").mkdir()
    Path("empty").mkdir()
    before = sorted(p.name for p in tmp_path.iterdir())
    change, said = WORDS[name]
    words = {"run": str(kinds("classes").run), "data": "there.csv", "out": "o.csv", **change}
    text = refused(predict.main, [f"{k}={v}" for k, v in words.items() if v is not None], capsys)
    assert pd.Series([text]).str.contains(said, regex=True).all(), text
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert Path("there.csv").read_text() == "text\nsomebody's\n"


@pytest.mark.usefixtures("unloaded")
def test_two_texts_are_no_line(kinds, tmp_path, capsys):
    (tmp_path / "new.txt").write_text("the film\n")
    words = [f"run={kinds('pairs').run}", f"data={tmp_path / 'new.txt'}", f"out={tmp_path}/o.csv"]
    assert "'a', 'b'" in refused(predict.main, words, capsys)


@pytest.mark.usefixtures("unloaded")
def test_types_that_have_no_place(kinds, tmp_path, capsys):
    rows = [{"text": "good", "x": 1}, {"text": "good", "x": "one"}]
    (tmp_path / "new.jsonl").write_text(lines(rows))
    words = [f"run={kinds('classes').run}", f"data={tmp_path / 'new.jsonl'}"]
    assert "'x'" in refused(predict.main, [*words, f"out={tmp_path / 'o.parquet'}"], capsys)
    pd.DataFrame({"text": ["good"], "x": [b"\xff"]}).to_parquet(tmp_path / "new.parquet")
    words = [f"run={kinds('classes').run}", f"data={tmp_path / 'new.parquet'}"]
    for form in ("csv", "jsonl"):
        assert "'x'" in refused(predict.main, [*words, f"out={tmp_path / 'o.'}{form}"], capsys)


def test_empty_rows_are_skipped_if_asked_for(kinds, tmp_path, capsys):
    run, asked, told, _ = kinds("classes")
    rows = [asked[0], {"n": -1, "text": " "}, asked[1], {"n": -2, "text": None}, {"n": -3}]
    (tmp_path / "new.jsonl").write_text(lines(rows))
    words = [f"run={run}", f"data={tmp_path / 'new.jsonl'}", "empty=skip", "keep=[n]"]
    for form in ("jsonl", "csv", "parquet"):
        predict.main([*words, f"out={tmp_path / 'o.'}{form}"])
    assert "5 rows, 3 of them without an answer" in capsys.readouterr().out
    said = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [row["n"] for row in said] == [asked[0]["n"], -1, asked[1]["n"], -2, -3]
    names = [row.get("prediction") for row in said]
    assert names == [told[0]["prediction"], None, told[1]["prediction"], None, None]
    for table in (pd.read_csv(tmp_path / "o.csv"), pd.read_parquet(tmp_path / "o.parquet")):
        assert table["prediction"].isna().tolist() == [False, True, False, True, True]
        assert list(table.columns[:2]) == ["n", "prediction"]


@pytest.fixture
def short(monkeypatch):
    """Windows of three rows."""
    monkeypatch.setattr(predict, "rows_at_once", lambda kind: 3)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_what_is_interrupted_goes_on(form, kinds, tmp_path, monkeypatch, capsys):
    run, asked, told, _ = kinds("classes")
    data, out = tmp_path / "new.jsonl", tmp_path / f"o.{form}"
    data.write_text(lines(asked))
    words = [f"run={run}", f"data={data}", f"out={out}"]
    add = predict.Parts.add

    def interrupted(self, number, rows):
        if number == 2:
            signal.raise_signal(signal.SIGTERM)
        add(self, number, rows)

    monkeypatch.setattr(predict.Parts, "add", interrupted)
    with pytest.raises(SystemExit) as stop:
        predict.main(words)
    assert stop.value.code == 128 + signal.SIGTERM
    assert "6 of 20 rows are done" in capsys.readouterr().err
    assert not out.exists()
    kept = {p: p.read_bytes() for p in (tmp_path / f"{out.name}.parts").glob(f"0*.{form}")}
    assert len(kept) == 2

    numbers = []

    def counted(self, number, rows):
        numbers.append(number)
        assert all(path.read_bytes() == content for path, content in kept.items())
        add(self, number, rows)

    monkeypatch.setattr(predict.Parts, "add", counted)
    predict.main(words)
    assert numbers == [2, 3, 4, 5, 6]
    readers = {"csv": pd.read_csv, "parquet": pd.read_parquet}
    table = pd.read_json(out, lines=True) if form == "jsonl" else readers[form](out)
    assert table["prediction"].tolist() == [t["prediction"] for t in told]
    assert table["n"].tolist() == [row["n"] for row in asked]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new.jsonl", out.name]
    capsys.readouterr()
    assert "there already" in refused(predict.main, words, capsys)


@pytest.mark.usefixtures("short", "unloaded")
@pytest.mark.parametrize("what", ["data", "run", "keep"])
def test_others_do_not_go_on_with_it(what, kinds, tmp_path, monkeypatch, capsys):
    run, asked, _, _ = kinds("classes")
    data, out = tmp_path / "new.jsonl", tmp_path / "o.csv"
    data.write_text(lines(asked))
    words = [f"run={run}", f"data={data}", f"out={out}"]
    with monkeypatch.context() as patched:

        class Asked:
            def answers(self, examples, batch_size):
                if len(list(tmp_path.glob("o.csv.parts/0*"))) == 2:
                    raise KeyboardInterrupt
                return [{"prediction": "bad", "probabilities": {}}] * len(examples)

        patched.setattr(Asking, "load", lambda self: Asked())
        with pytest.raises(SystemExit):
            predict.main(words)
    capsys.readouterr()
    kept = {p.name: p.read_bytes() for p in (tmp_path / "o.csv.parts").glob("0*")}
    assert len(kept) == 2
    if what == "data":
        data.write_text(lines(asked[:-1]))
    elif what == "run":
        other = shutil.copytree(run, tmp_path / "other")
        weights = other / "adapter" / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"x")
        words[0] = f"run={other}"
    else:
        words.append("keep=[n]")
    text = refused(predict.main, words, capsys)
    assert "o.csv.parts" in text
    assert {"data": "data", "run": "adapter", "keep": "keep="}[what] in text
    assert {p.name: p.read_bytes() for p in (tmp_path / "o.csv.parts").glob("0*")} == kept


@pytest.mark.usefixtures("short")
def test_a_run_that_has_moved_goes_on(kinds, tmp_path, monkeypatch):
    run, asked, told, _ = kinds("classes")
    data, out = tmp_path / "new.jsonl", tmp_path / "o.jsonl"
    data.write_text(lines(asked))
    join = predict.Parts.join
    monkeypatch.setattr(predict.Parts, "join", lambda self: None)
    predict.main([f"run={run}", f"data={data}", f"out={out}"])
    monkeypatch.setattr(predict.Parts, "join", join)
    monkeypatch.setattr(Asking, "load", lambda self: pytest.fail("all is done"))
    predict.main([f"run={shutil.copytree(run, tmp_path / 'moved')}", f"data={data}", f"out={out}"])
    said = [json.loads(line)["prediction"] for line in out.read_text().splitlines()]
    assert said == [t["prediction"] for t in told]

"""Training rows know the source that the user gives them, by a column or by their file."""

import csv
import json
import logging
from collections import Counter

import pytest

from bilevel import UserError
from experiments.tasks.classification import Classification
from experiments.tasks.glue import Glue
from experiments.tasks.instructions import Instructions
from experiments.tasks.sources import sizes
from experiments.tasks.tagging import Tagging
from experiments.tasks.text_to_text import TextToText


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def rows_of(name, count):
    return [{"text": f"{name} {i}", "label": "ab"[i % 2], "site": name} for i in range(count)]


@pytest.fixture
def folder(tmp_path):
    """Three sources in train.csv, and each in a file of its own; a test without their names."""
    every = {"clean": 8, "web": 12, "7": 4}
    for name, count in every.items():
        write_csv(tmp_path / f"{name}.csv", rows_of(name, count))
    write_csv(tmp_path / "train.csv", [r for n, c in every.items() for r in rows_of(n, c)])
    write_csv(tmp_path / "test.csv", [{"text": f"t{i}", "label": "ab"[i % 2]} for i in range(6)])
    return tmp_path


def task(folder, **options):
    return Classification(data_dir=str(folder), text_columns=["text"], **options)


def by_file(folder):
    return {name: f"{name}.csv" for name in ("clean", "web", "7")}


@pytest.mark.parametrize("way", ["column", "files"])
def test_column_and_files_say_the_same(folder, way, caplog):
    options = {"source_column": "site"} if way == "column" else {"sources": by_file(folder)}
    with caplog.at_level(logging.INFO):
        data = task(folder, **options).load()
    assert sizes(data.train) == {"clean": 8, "web": 12, "7": 4}
    assert "clean 8, web 12, 7 4" in caplog.text
    for example in data.train:  # each knows its source, and its line in its own file
        assert example.texts[0].split()[0] == example.origin.source
        if way == "files":
            assert example.origin.file == str(folder / f"{example.origin.source}.csv")
            assert example.origin.number == int(example.texts[0].split()[1]) + 2


def test_without_names_nothing_is_new(folder):
    plain = task(folder).load()
    named = task(folder, source_column="site").load()
    assert sizes(plain.train) is None
    assert [(e.texts, e.label) for e in plain.train] == [(e.texts, e.label) for e in named.train]


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"keep_sources": ["clean"]}, {"clean": 8}),
        ({"keep_sources": ["7", "web"]}, {"web": 12, "7": 4}),
        ({"keep_sources": [7]}, {"7": 4}),
        ({"drop_sources": ["web"]}, {"clean": 8, "7": 4}),
    ],
)
def test_some_sources_alone(folder, options, left):
    data = task(folder, source_column="site", **options).load()
    assert sizes(data.train) == left
    assert len(data.tests["test"]) == 6


def test_holding_out_comes_before_dropping(folder):
    """What is tested on does not depend on the sources that are trained on."""
    file = folder / "train.csv"
    kept, all_of_it = (
        Classification(
            data_dir=str(file), text_columns=["text"], holdout=0.25, source_column="site", **more
        ).load()
        for more in ({"keep_sources": ["web"]}, {})
    )
    assert kept.tests == all_of_it.tests
    assert [e for e in all_of_it.train if e.origin.source == "web"] == kept.train


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sources": {"clean": "clean.csv"}, "source_column": "site"}, "source_column.*both"),
        ({"sources": {"clean": "none.csv"}}, r"none\.csv.*'clean'"),
        ({"sources": {"clean": "clean.csv", "web": "clean.csv"}}, "'clean'.*'web'.*one source"),
        ({"sources": {"clean": "clean.csv", "web": "link.csv"}}, "'clean'.*'web'.*one source"),
        ({"sources": {"clean": "inside"}}, r"inside.*'clean'.*is a folder"),
        ({"sources": {}}, r"task\.sources"),
        ({"sources": {" ": "clean.csv"}}, r"task\.sources"),
        ({"sources": {"empty": "empty.csv"}}, r"empty\.csv has no rows"),
        (
            {"sources": {"a": "clean.csv", "b": "bare.csv"}},
            r"bare\.csv has no text.*'txt'",
        ),
        ({"sources": {"a": "clean.csv", "b": "mute.csv"}}, r"mute\.csv is unlabelled.*'site'"),
        ({"sources": {"odd": "odd.xyz"}}, r"odd\.xyz.*must end"),
        ({"source_column": "cite"}, "no column 'cite'.*site"),
        ({"source_column": "gaps"}, "line 3 .*'gaps'"),
        ({"keep_sources": ["web"]}, "name no sources"),
        ({"source_column": "site", "keep_sources": ["wep"]}, "'wep'.*'web'"),
        ({"source_column": "site", "drop_sources": ["web", "clean", "7"]}, "nothing to train"),
        ({"source_column": "site", "keep_sources": ["web"], "drop_sources": ["7"]}, "exclude"),
        ({"source_column": "site", "max_train": 2}, r"max_train=2.*no row of source"),
    ],
)
def test_what_is_refused(folder, options, said):
    (folder / "empty.csv").write_text("text,label,site\n")
    (folder / "odd.xyz").write_text("x")
    (folder / "inside").mkdir()
    (folder / "bare.csv").write_text("txt,label\nx,a\n")
    (folder / "mute.csv").write_text("text,site\nx,a\n")
    (folder / "link.csv").symlink_to(folder / "clean.csv")
    if options.get("source_column") == "gaps":
        rows = [
            {"text": f"x{i}", "label": "ab"[i % 2], "gaps": "u" if i != 1 else ""}
            for i in (0, 1, 2)
        ]
        write_csv(folder / "train.csv", rows)
    with pytest.raises(UserError, match=said):
        task(folder, **options).load()


def test_glue_names_sources_too(tmp_path):
    for name in ("train", "other", "validation"):
        rows = [{"sentence": f"{name}{i}", "label": i % 2, "of": name} for i in range(4)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = {"a": "train.jsonl", "b": str(tmp_path / "other.jsonl")}
    data = Glue("sst2", data_dir=str(tmp_path), sources=files).load()
    assert sizes(data.train) == {"a": 4, "b": 4}
    assert sizes(Glue("sst2", data_dir=str(tmp_path), source_column="of").load().train) == {
        "train": 4
    }
    with pytest.raises(UserError, match=r"task\.sources.*data_dir"):
        Glue("sst2", sources=files)


def test_tagged_words_by_file_and_by_column(tmp_path):
    for name in ("news", "web", "test"):
        (tmp_path / f"{name}.conll").write_text(f"{name} B-X\nis O\n\nit O\n")
    sources = {"news": "news.conll", "web": "web.conll"}
    data = Tagging(data_dir=str(tmp_path), sources=sources).load()
    assert [(e.origin.source, e.origin.number) for e in data.train] == [
        ("news", 1),
        ("news", 4),
        ("web", 1),
        ("web", 4),
    ]
    with pytest.raises(UserError, match=r"task\.source_column=x.*a word a line"):
        Tagging(data_dir=str(tmp_path / "news.conll"), source_column="x", holdout=0.5).load()
    rows = [{"tokens": ["a"], "tags": ["B-X"], "of": name} for name in "xyx"]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    one = Tagging(
        data_dir=str(tmp_path / "rows.jsonl"), tags_column="tags", source_column="of", holdout=0.3
    ).load()
    assert set(sizes(one.train)) <= {"x", "y"}


def test_texts_to_write_have_domains(tmp_path):
    """`source_column` is what they read, so their sources' column is `domain_column`."""
    for name in ("train", "more", "test"):
        rows = [{"source": f"{name}{i}", "target": "t", "of": name} for i in range(3)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = {"data_dir": str(tmp_path)}
    named = TextToText(**options, domain_column="of").load()
    assert sizes(named.train) == {"train": 3}
    files = {"a": "train.jsonl", "b": "more.jsonl"}
    assert sizes(TextToText(**options, sources=files).load().train) == {"a": 3, "b": 3}
    assert sizes(TextToText(**options, sources=files, drop_sources=["a"]).load().train) == {"b": 3}
    with pytest.raises(UserError, match=r"task\.domain_column=of and task\.sources"):
        TextToText(**options, domain_column="of", sources=files)


def test_instructions_have_domains(tmp_path):
    rows = [
        {"instruction": f"i{i}", "input": "", "output": "o", "of": "pq"[i % 2]} for i in range(8)
    ]
    file = tmp_path / "all.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    data = Instructions(data_dir=str(file), domain_column="of", test_share=0.25).load()
    found = Counter(e.origin.source for e in data.train)
    assert sum(found.values()) == 6
    assert set(found) == {"p", "q"}
    with pytest.raises(UserError, match=r"task\.sources"):
        Instructions(data_dir=str(file), sources={"a": str(file)}).load()


@pytest.mark.parametrize("way", ["column", "files"])
def test_a_model_is_scored_without_the_sources(folder, way):
    """Elsewhere, where the training files are not."""
    options = {"source_column": "site"} if way == "column" else {"sources": by_file(folder)}
    made = task(folder, **options, keep_sources=["web"])
    for name in ("train", "clean", "web", "7"):
        (folder / f"{name}.csv").unlink()
    assert len(made.to_score(["a", "b"]).tests["test"]) == 6


@pytest.mark.parametrize("kind", ["holdout", "trusted", "texts", "instructions"])
def test_a_source_that_a_share_takes_whole_is_told(tmp_path, kind):
    """Of a source with one row, for the seeds that hold this row out."""
    rows = [{"text": f"common {i}", "label": "ab"[i % 2], "site": "common"} for i in range(20)]
    write_csv(tmp_path / "train.csv", [*rows, {"text": "rare", "label": "b", "site": "rare"}])
    if kind == "trusted":
        write_csv(tmp_path / "test.csv", rows)

    def of(seed):
        options = {"data_dir": str(tmp_path), "subset_seed": seed}
        options |= {
            "domain_column" if kind in ("texts", "instructions") else "source_column": "site"
        }
        if kind == "trusted":
            return Classification(**options, text_columns=["text"], trusted=8, noise_seed=seed)
        if kind == "holdout":
            return Classification(**options, text_columns=["text"], holdout=0.4)
        if kind == "texts":
            return TextToText(**options, source_column="text", target_column="label", holdout=0.4)
        columns = {"instruction_column": "text", "input_column": None, "output_column": "label"}
        return Instructions(**options, **columns, test_share=0.4)

    option = {"trusted": "task.trusted=8", "instructions": "task.test_share=0.4"}
    left = []
    for seed in range(8):
        try:
            left.append(sizes(of(seed).load().train)["rare"])
        except UserError as error:
            left.append(str(error).partition(" to train on")[0])
    assert set(left) == {
        1,
        f"{option.get(kind, 'task.holdout=0.4')} leaves no row of source 'rare'",
    }


def test_a_source_that_is_left_out_may_be_held_out_whole(tmp_path):
    """It can be left out by name, and the run can be scored again."""
    write_csv(tmp_path / "a.csv", rows_of("a", 20))
    write_csv(tmp_path / "b.csv", rows_of("b", 1))
    options = {"sources": {"a": "a.csv", "b": "b.csv"}, "holdout": 0.3}
    for seed in range(8):
        for more in ({"keep_sources": ["a"]}, {"drop_sources": ["b"]}):
            made = task(tmp_path, **options, **more, subset_seed=seed)
            assert set(sizes(made.load().train)) == {"a"}
            assert len(made.to_score(["a", "b"]).tests["test"]) == 6


def test_other_data_of_a_run_on_sources_are_scored_whole(tmp_path):
    for name in ("a", "b"):
        write_csv(tmp_path / f"{name}.csv", rows_of(name, 20))
    (tmp_path / "new").mkdir()
    write_csv(tmp_path / "new" / "train.csv", rows_of("new", 5))
    write_csv(tmp_path / "mine.csv", rows_of("mine", 7))
    sources = {name: str(tmp_path / f"{name}.csv") for name in ("a", "b")}
    columns = {"instruction_column": "text", "input_column": None, "output_column": "label"}
    for place, count in (("new", 5), ("mine.csv", 7)):
        made = Instructions(data_dir=str(tmp_path / place), sources=sources, **columns)
        found = texts_tested(made.scored_whole().to_score(None))
        assert len(found) == count
        assert all(place[:3] in text for text in found)


def texts_tested(data):
    """What the rows of the test set say, which are all different."""
    return [getattr(example, "texts", None) or example.source for example in data.tests["test"]]


@pytest.mark.parametrize("way", ["column", "files"])
@pytest.mark.parametrize("kind", ["classification", "texts", "instructions"])
def test_a_share_of_the_sources_files_is_scored_again(tmp_path, kind, way):
    """The very rows that the run was tested on, whatever else lies in the folder."""
    for name, start in (("clean", 0), ("web", 30), ("train", 60)):
        rows = [{"text": f"{name} {i}", "label": "ab"[i % 2]} for i in range(start, start + 30)]
        made = [{**row, "site": "ab"[i // 2 % 2]} for i, row in enumerate(rows)]
        if name == "train" and way == "files":
            continue
        write_csv(tmp_path / f"{name}.csv", made)
    if way == "files":
        options = {"sources": {"clean": "clean.csv", "web": "web.csv"}, "keep_sources": ["web"]}
    else:
        for name in ("clean", "web"):
            (tmp_path / f"{name}.csv").unlink()
        options = {"keep_sources": ["a"]}
        options |= {"domain_column" if kind != "classification" else "source_column": "site"}
    options |= {"data_dir": str(tmp_path), "subset_seed": 3}
    if kind == "classification":
        made = Classification(**options, text_columns=["text"], holdout=0.2)
    elif kind == "texts":
        made = TextToText(**options, source_column="text", target_column="label", holdout=0.2)
    else:
        columns = {"instruction_column": "text", "input_column": None, "output_column": "label"}
        made = Instructions(**options, **columns, test_share=0.2)
    labels = ["a", "b"] if kind == "classification" else None
    tested = texts_tested(made.load())
    assert len(tested) == (12 if way == "files" else 6)
    if way == "files":  # alone in the folder, it would be taken for what was trained on
        (tmp_path / "other.csv").write_text((tmp_path / "web.csv").read_text())
    assert texts_tested(made.to_score(labels)) == tested


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (None, "no such file"),
        ({"weights": {"clean": 1, "web": 2}}, "no weight for the source '7'"),
        ({"weights": {"clean": 0, "web": 0, "7": 0}}, "weight 0"),
        ({"weights": {"clean": -1, "web": 0, "7": 1}}, "numbers from 0"),
        ({"weights": [1, 2]}, "numbers from 0"),
        ({"other": 1}, "'weights'"),
    ],
)
def test_wrong_files_of_weights(folder, written, said):
    path = folder / "weights.json"
    if written is not None:
        path.write_text(json.dumps(written))
    made = task(folder, source_column="site", source_weights=str(path))
    with pytest.raises(UserError, match=said):
        made.draw_weights(made.load().train)


@pytest.mark.parametrize("large", [int("9" * 400), 1e308])
def test_a_weight_whose_sums_would_be_infinite_is_told(folder, large):
    path = folder / "weights.json"
    weights = {"clean": 1, "web": 0, "7": large}
    path.write_text(json.dumps({"weights": weights}))
    made = task(folder, source_column="site", source_weights=str(path))
    with pytest.raises(UserError, match=r"source_weights.*numbers"):
        made.draw_weights(made.load().train)


def test_weights_are_each_examples(folder):
    path = folder / "weights.json"
    path.write_text(json.dumps({"weights": {"clean": 0.5, "web": 0, "7": 2, "spare": 1}}))
    made = task(folder, source_column="site", source_weights=str(path))
    assert Counter(made.draw_weights(made.load().train)) == {0.5: 8, 0.0: 12, 2.0: 4}
    even = task(folder, source_column="site", source_weights="uniform")
    weights = even.draw_weights(even.load().train)
    assert [sum(weights[:8]), sum(weights[8:20]), sum(weights[20:])] == pytest.approx([1, 1, 1])
    none = task(folder, source_weights="uniform")
    with pytest.raises(UserError, match="name no sources"):
        none.draw_weights(none.load().train)


def test_sources_that_look_alike_are_told(folder, caplog):
    rows = [*rows_of("Web", 4), *rows_of("web", 4), *rows_of("clean", 4)]
    write_csv(folder / "train.csv", rows)
    data = task(folder, source_column="site").load()
    assert sizes(data.train) == {"Web": 4, "web": 4, "clean": 4}
    (said,) = [message for message in caplog.messages if "differ in capitals" in message]
    assert "sources 'Web', 'web'" in said
    assert "clean" not in said


def test_sources_without_a_label_in_common_are_told(folder, caplog):
    write_csv(
        folder / "words.csv", [{"text": f"w{i}", "label": ["pos", "neg"][i % 2]} for i in (0, 1)]
    )
    data = task(
        folder, sources={"clean": "clean.csv", "web": "web.csv", "words": "words.csv"}
    ).load()
    assert data.answers.size == 4
    (said,) = [r.message for r in caplog.records if "in common" in r.message]
    assert "'words'" in said
    assert "clean" not in said


def test_true_and_1_are_told_to_look_alike(folder, caplog):
    write_csv(folder / "a.csv", [{"text": f"a{i}", "label": i % 2} for i in range(4)])
    rows = [{"text": f"b{i}", "label": i % 2 == 0} for i in range(4)]
    (folder / "b.jsonl").write_text("\n".join(map(json.dumps, rows)))
    write_csv(folder / "test.csv", [{"text": f"t{i}", "label": i % 2} for i in range(4)])
    assert task(folder, sources={"a": "a.csv", "b": "b.jsonl"}).load().answers.size == 4
    assert "labels '1', 'true' differ" in caplog.text
    assert "labels '0', 'false' differ" in caplog.text


def test_a_class_that_the_kept_sources_have_no_example_of_is_told(folder, caplog):
    write_csv(
        folder / "train.csv",
        [{"text": f"x{i}", "label": "ab"[i % 2], "site": "pq"[i % 2]} for i in range(6)],
    )
    task(folder, source_column="site", keep_sources=["p"]).load()
    assert "no example of 1 of the model's 2 classes (b)" in caplog.text


@pytest.mark.parametrize("option", ["keep_sources", "drop_sources"])
def test_a_source_may_be_a_number(folder, option):
    rows = [
        {**row, "site": {"web": "1.5"}.get(row["site"], row["site"])} for row in rows_of("web", 6)
    ]
    write_csv(folder / "train.csv", [*rows_of("7", 4), *rows])
    found = task(folder, source_column="site", **{option: [7]}).load()
    assert set(sizes(found.train)) == ({"7"} if option == "keep_sources" else {"1.5"})
    found = task(folder, source_column="site", **{option: [1.5]}).load()
    assert set(sizes(found.train)) == ({"1.5"} if option == "keep_sources" else {"7"})

"""Trusted examples apart, wrong labels for benchmarks, right ones kept for the report."""

import dataclasses
import json

import pytest

from bilevel.errors import UserError
from experiments.tasks.classification import Classification
from experiments.tasks.demo_noisy import DemoNoisy
from experiments.tasks.glue import Glue
from experiments.tasks.label_trust import LabelTrust
from experiments.tasks.tagging import Tagging
from tests.experiments.placed import said


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(LabelTrust):
    """Nothing but the options."""

    name: str = "options"

    def load(self):
        raise NotImplementedError


def files(folder, rows=40, label=lambda i: "ab"[i % 2], **splits):
    """A train and a test file as jsonl, and other splits with so many rows."""
    for split, count in {"train": rows, "test": 6, **splits}.items():
        made = [{"text": f"{split} {i}", "label": label(i), "gold": "a"} for i in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, made)))
    return str(folder)


def own(folder, **options):
    return Classification(folder, text_columns=["text"], **options).load()


def wrong(data):
    return [e.label != e.origin.truth for e in data.train]


@pytest.mark.parametrize("noise", [0.2, 0.4])
def test_symmetric_noise_is_of_training_labels_alone(tmp_path, noise):
    folder = files(tmp_path, validation=10, label=lambda i: "abc"[i % 3])
    clean, noisy = own(folder), own(folder, label_noise=noise)
    assert sum(wrong(noisy)) == round(40 * noise)
    assert [e.origin.truth for e in noisy.train] == [e.label for e in clean.train]
    assert noisy.tests == clean.tests
    assert noisy.validation == clean.validation
    assert own(folder, label_noise=noise).train == noisy.train
    assert own(folder, label_noise=noise, noise_seed=1).train != noisy.train


def test_one_sided_noise_makes_the_last_class_the_one_before(tmp_path):
    noisy = own(files(tmp_path), label_noise=0.5, noise_kind="one_sided")
    assert sum(wrong(noisy)) == 10
    assert {(e.origin.truth, e.label) for e in noisy.train} == {(0, 0), (1, 1), (1, 0)}


def test_trusted_ones_are_apart_right_and_of_both_classes():
    whole, data = DemoNoisy(trusted=None, label_noise=0).load(), DemoNoisy().load()
    assert (len(data.train), len(data.validation)) == (600, 50)
    assert sum(wrong(data)) == 240
    assert sum(e.label for e in data.validation) == 25
    right = {e.origin.number: e for e in whole.train}
    assert said(data.validation) == said([right[e.origin.number] for e in data.validation])
    places = {e.origin.number for e in [*data.train, *data.validation]}
    assert places == set(range(650))


def test_a_trusted_file_is_the_validation_split(tmp_path):
    folder = files(tmp_path)
    made = [{"text": f"trusted {i}", "label": "ab"[i % 2]} for i in range(4)]
    file = tmp_path / "checked" / "by_hand.jsonl"
    file.parent.mkdir()
    file.write_text("\n".join(map(json.dumps, made)))
    data = own(folder, trusted_file=str(file))
    assert [e.texts[0] for e in data.validation] == [row["text"] for row in made]
    with pytest.raises(UserError, match=r"trusted_file=.*no file"):
        own(folder, trusted_file=str(tmp_path / "none.jsonl"))
    with pytest.raises(UserError, match=r"task\.trusted=4.*trusted_file"):
        own(folder, trusted_file=str(file), trusted=4)
    files(tmp_path, validation=5)
    with pytest.raises(UserError, match=r"trusted_file=.*validation file"):
        own(folder, trusted_file=str(file))
    with pytest.raises(UserError, match=r"task\.trusted=4.*validation split"):
        own(folder, trusted=4)


def test_a_column_of_right_labels_is_kept_for_the_report_alone(tmp_path):
    folder = files(tmp_path)
    data, plain = own(folder, true_label_column="gold"), own(folder)
    assert said(data.train) == said(plain.train)
    assert {e.origin.truth for e in data.train} == {0}
    with pytest.raises(UserError, match=r"no column 'golden'"):
        own(folder, true_label_column="golden")
    with pytest.raises(UserError, match=r"true_label_column=label is task\.label_column"):
        own(folder, true_label_column="label")
    with pytest.raises(UserError, match=r"label_noise.*true labels"):
        own(folder, true_label_column="gold", label_noise=0.2)


CONLL = "EU B-ORG\nin O\nNew B-LOC\nYork I-LOC\n\nno O\n\nPeter B-PER\n\nParis B-LOC\n"


@pytest.mark.parametrize("kind", ["symmetric", "one_sided"])
def test_sentences_are_re_tagged_with_their_entities_in_place(tmp_path, kind):
    for split in ("train", "test"):
        (tmp_path / f"{split}.conll").write_text(CONLL)
    clean = Tagging(str(tmp_path)).load()
    noisy = Tagging(str(tmp_path), label_noise=0.99, noise_kind=kind).load()
    changed = [i for i, e in enumerate(noisy.train) if e.tags != e.origin.truth]
    assert changed == ([0, 2, 3] if kind == "symmetric" else [2])
    for mine, right in zip(noisy.train, clean.train, strict=True):
        assert mine.origin.truth == right.tags
        assert [tag == "O" for tag in mine.tags] == [tag == "O" for tag in right.tags]
        for (left, tag), truth in zip(
            zip(("O", *mine.tags), mine.tags, strict=False), right.tags, strict=True
        ):
            assert tag in noisy.tag_names
            if tag.startswith("I-"):
                assert left[2:] == tag[2:]
            if kind == "symmetric" and mine.tags != right.tags and tag != "O":
                assert tag[2:] != truth[2:]


def test_what_cannot_be_made_wrong_is_refused(tmp_path):
    for split in ("train", "validation"):
        rows = [{"sentence1": "a", "sentence2": "b", "label": 1.5}] * 9
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=r"label_noise=0\.2.*classes and tags"):
        Glue("stsb", data_dir=str(tmp_path), label_noise=0.2).load()
    assert len(Glue("stsb", data_dir=str(tmp_path), trusted=4).load().validation) == 4
    with pytest.raises(UserError, match=r"task\.trusted=9 leaves none"):
        Glue("stsb", data_dir=str(tmp_path), trusted=9).load()
    (tmp_path / "one").mkdir()
    for split in ("train", "test"):
        (tmp_path / "one" / f"{split}.conll").write_text("EU B-ORG\nx O\n")
    with pytest.raises(UserError, match="one type"):
        Tagging(str(tmp_path / "one"), label_noise=0.5).load()


@pytest.mark.parametrize("value", [-0.1, 1.0])
def test_a_share_is_a_share(value):
    with pytest.raises(UserError, match=r"label_noise=.*in \[0, 1\)"):
        Options(label_noise=value)

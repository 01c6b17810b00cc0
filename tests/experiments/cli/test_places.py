"""Folders with any name can be named on the command line, and are named so in hints."""

import errno
import shlex
import shutil
import tempfile
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from bilevel.errors import UserError
from experiments import evaluate, figures, report
from experiments.cli import places
from experiments.cli.command_line import CommandLine
from experiments.cli.words import check_place
from experiments.config.composition import compose_config
from experiments.results.finished_run import take
from experiments.run import main

OLDER = Path(__file__).parents[1] / "older_runs" / "finished"
# What a file system takes, but for what YAML does not bring back: control signs, line separators.
SIGNS = st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp", "Cn"])
NAMES = st.text(SIGNS, min_size=1, max_size=12) | st.text("a1~\\\"'${}()[],=#:;& é%*!", min_size=1)
HARD = (
    *("a,b", "a=b", "a(b)", "a'b", 'a"b', "a{b}", "a[b]", "a b", "a#b", "a;b", "фильмы", "été"),
    *(
        "2026",
        "1e5",
        "true",
        "null",
        "a\\",
        "a\\'b",
        "${seed}",
        "\\${seed}",
        "~a",
        "'a'",
        " a ",
        "a%b",
    ),
)


def hydra(word: str) -> str:
    """What Hydra's configuration has for ``x=...``, in a single run and in a sweep."""
    override = OverridesParser.create().parse_override(word)
    again = f"x={override.get_value_element_as_str()}"  # what a sweep hands to its runs
    values = [OverridesParser.create().parse_override(w).value() for w in (word, again)]
    stored = [OmegaConf.create(OmegaConf.to_yaml(OmegaConf.create({"x": v}))).x for v in values]
    assert stored[0] == stored[1]
    return str(stored[0])


@settings(max_examples=50, deadline=None, derandomize=True)
@given(NAMES)
def test_written_and_read_by_every_reader(name: str) -> None:
    word = places.word("run.resume", name)
    value = word.partition("=")[2]
    expected = f"./{name}" if name.startswith("~") else name
    assert hydra(f"x={value}") == expected
    assert places.read(value) == expected
    assert shlex.split(places.shell_line([word])) == ["python", "-m", "experiments.run", word]
    assert places.settled([word]) == places.settled([word], sweep=True) == [word]
    line = CommandLine.parse([word])
    assert (line.overrides, line.value("run.resume")) == ([word], expected)
    assert take([f"run={value}"], run=None)[0]["run"] == expected


@settings(max_examples=50, deadline=None, derandomize=True)
@given(NAMES)
def test_typed_as_it_is(name: str) -> None:
    """Without any quoting of Hydra's: what a person types first."""
    typed = f"/data/{name}"
    if "\\" in name or "$" in name:  # Hydra's own ways to write a sign and to name an option
        return
    (word,) = places.settled([f"task.data_dir={typed}"])
    assert hydra(f"x={word.partition('=')[2]}") == typed


@pytest.mark.parametrize("name", HARD)
def test_composed(name: str) -> None:
    config = compose_config([places.word("task.data_dir", f"/x/{name}"), "task=sst2"])
    assert config.task.data_dir == f"/x/{name}"


def test_what_hydra_reads_stays() -> None:
    words = [
        "hydra.run.dir=out/${seed}",
        "task.data_dir=null",
        "method.rank=2",
        "model.pretrained=a/b",
    ]
    assert places.settled(words) == words
    assert places.settled(["model.pretrained=a,b c"], sweep=True) == ['model.pretrained=a,"b c"']
    assert places.settled(['task.data_dir="a,b"'], sweep=True) == ['task.data_dir="a,b"']


def test_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann b")
    for typed in ("~/d", '"~/d"', "'~/d'"):
        assert places.settled([f"task.data_dir={typed}"]) == ['task.data_dir="/home/ann b/d"']
        assert take([f"run={typed}"], run=None)[0]["run"] == "/home/ann b/d"
    assert places.settled(["task.data_dir=~/d,~/e"], sweep=True) == [
        'task.data_dir="/home/ann b/d","/home/ann b/e"'
    ]
    assert CommandLine.parse(["--config-dir", "~/own"]).config_dir == "/home/ann b/own"


EMPTY = ["task.data_dir=", "run.resume=", "hydra.run.dir=", "run=", "adapter=", "out=", "data="]


@pytest.mark.parametrize("typed", EMPTY)
def test_a_place_without_a_name(typed: str) -> None:
    """As of ``run.resume=$DIR`` where DIR is not set: it is neither here nor the default."""
    with pytest.raises(UserError, match=rf"{typed}.* empty"):
        CommandLine.parse([typed])
    assert CommandLine.parse(["task.label_column=", "run.resume=null"])


@pytest.mark.parametrize("words", [["DIR", "--out", ""], ["DIR", "--out="], ["", "DIR"]])
def test_a_folder_without_a_name(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [str(OLDER) if word == "DIR" else word for word in words]
    with pytest.raises(SystemExit):
        report.main(given)
    with pytest.raises(SystemExit):
        figures.main([""])
    assert capsys.readouterr().err.count("without a name") == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "typed", ["task.label_column=a#b", "task.label_column=it's", "model.lr=a=b"]
)
def test_hint_for_other_options_is_a_command_that_works(
    typed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["run", "task=sst2", typed])
    with pytest.raises(SystemExit):
        main()
    hint = capsys.readouterr().err.strip().partition("python -m ")[2]
    words = shlex.split(hint)
    assert words[:2] == ["experiments.run", "task=sst2"]
    value = OverridesParser.create().parse_override(words[2]).value()
    assert f"{words[2].partition('=')[0]}={value}" == typed


def test_one_value_for_a_configuration_that_is_there() -> None:
    assert places.value("task.max_test=3") == 3
    with pytest.raises(UserError, match="one value"):
        places.value("task.max_test=3,4")


SHORT = ["method=lora", "train.max_steps=1", "task.max_test=8", "run.figures=false"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, quick: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    main([*quick, *SHORT, f"hydra.run.dir={folder}"])
    return folder


# Without "${": Hydra itself resolves the name of the folder that it is to write to.
@pytest.mark.parametrize("name", ["a,b=c(d) {e}#;é", "it's", "2026", "~a\\"])
def test_runs_in_folders_of_any_name(
    name: str,
    finished: Path,
    quick: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / name
    shutil.copytree(finished, folder)
    typed = [f"run.resume={folder}"] if "\\" not in name else []
    for words in ([places.word("run.resume", folder)], typed):
        if words:
            main(words)
            assert f"{folder} is finished" in capsys.readouterr().err
    evaluate.main([places.word("run", folder)])
    auto = ["run.resume=auto", places.word("hydra.run.dir", folder)]
    main([*quick, *SHORT, *auto])
    assert f"{folder} is finished" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(auto)
    assert "holds another run" in capsys.readouterr().err
    assert len(list(tmp_path.iterdir())) == 1


def test_a_place_where_nothing_may_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_place(str(tmp_path / "new" / "run"))

    def refuse(dir: Path) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(dir))

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(UserError, match=r"hydra\.run\.dir.*written"):
        check_place(str(tmp_path / "new" / "run"))
    with pytest.raises(UserError, match=r"hydra\.sweep\.dir.*written"):
        check_place(str(tmp_path / "new"), "hydra.sweep.dir")

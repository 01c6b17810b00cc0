"""Completion in a shell: asked as bash asks, and by bash itself."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import console

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("line", "wanted", "unwanted"),
    [
        ("bilevel-finetune ", "predict", "method="),
        ("bilevel-finetune ra", "ranks", "run"),
        ("bilevel-finetune run method=lin", "method=linear_probe", "method=lora"),
        ("bilevel-finetune run method=lora method.ra", "method.rank=", "method.unroll"),
        ("bilevel-finetune check-hypergradient hyperg", "hypergradient=", "method="),
    ],
)
def test_what_a_word_may_be(line, wanted, unwanted, capsys):
    console.main(["--complete", line])
    found = capsys.readouterr().out.split()
    assert wanted in found
    assert unwanted not in found


def test_other_programs_complete_files_by_the_shell(capsys):
    console.main(["--complete", "bilevel-finetune report D"])
    assert capsys.readouterr().out == ""


def test_an_unknown_shell_is_told(capsys):
    with pytest.raises(SystemExit):
        console.main(["--completion", "fish"])
    assert "allowed are bash, zsh" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("breaks", ["", "COMP_WORDBREAKS=' '; "])
def test_bash_completes_a_value_behind_its_equals_sign(breaks, tmp_path):
    """Where bash parts words at = it wants the value alone."""
    command = tmp_path / "bilevel-finetune"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m experiments.console "$@"\n')
    command.chmod(0o755)
    line = "bilevel-finetune run method=linear"
    asked = (
        f"PATH={tmp_path}:$PATH; COMP_WORDBREAKS=' ='; {breaks}"
        'eval "$(bilevel-finetune --completion bash)"; '
        f"COMP_LINE='{line}'; COMP_POINT={len(line)}; _bilevel_finetune; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    found = subprocess.run(
        ["bash", "--norc", "-c", asked], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    assert found.stdout.split() == ["method=linear_probe" if breaks else "linear_probe"]

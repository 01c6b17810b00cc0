"""A column that a file lacks: the option that names it is told with the columns that there are."""

import json
from pathlib import Path

import pytest

from bilevel import UserError
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.training.fine_tuning_job import load_task


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["task=tagging"], r"'tokens'.*task\.tokens_column=NAME"),
        (["task=question_answering"], r"'question'.*task\.question_column=NAME"),
        (["task=multiple_choice", "task.question_column=said"], r"task\.choices_column=NAME"),
        (["task=text_to_text", "model=demo_causal"], r"'source'.*task\.source_column=NAME"),
        (
            ["task=classification", "task.text_columns=[said,told]", "task.label_column=stars"],
            r"'told'.*task\.text_columns=\[said,NAME\]",
        ),
        (
            ["task=classification", "task.text_columns=[said]", "task.label_column=label"],
            r"'label'.*task\.label_column=NAME",
        ),
    ],
)
def test_the_option_is_told(words: list[str], option: str, tmp_path: Path) -> None:
    rows = [json.dumps({"said": f"good {i}", "stars": i % 2}) for i in range(20)]
    (tmp_path / "train.jsonl").write_text("\n".join(rows))
    asked = ["model=demo", *words, f"task.data_dir={tmp_path}", "task.holdout=0.2"]
    with pytest.raises(UserError, match=option) as told:
        load_task(Plan.of(compose_config(asked)))
    assert "'stars'" in str(told.value)

"""Every recipe runs for a few steps, as tests/recipes/*.csv says.

The tables have SpeechBrain's columns. `test_debug_flags` are the options of
the run; ``tests/tmp`` in them stands for a folder in which
``tests/integration/tiny_world.py`` has made a corpus and a backbone.
`test_debug_checks` says what the run must leave in its output folder:

* ``file_exists=[log.txt,save]``
* ``performance_check=[train_log.txt, train loss, <5.0, epoch: 2]``: the value
  on the last line with ``epoch: 2``.
"""

import csv
import operator
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml
from speechbrain.utils.run_opts import RunOptions
from tiny_iemocap import make_iemocap
from tiny_world import REPOSITORY

TABLES = sorted((REPOSITORY / "tests" / "recipes").glob("*.csv"))
COLUMNS = [
    "Task",
    "Dataset",
    "Script_file",
    "Hparam_file",
    "Data_prep_file",
    "Readme_file",
    "Result_url",
    "HF_repo",
    "test_debug_flags",
    "test_debug_checks",
    "performance",
]
#: Relations that a performance check may state, the longer sign first.
RELATIONS = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}


def read_table(path):
    """Rows of a table, by column."""
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        assert reader.fieldnames == COLUMNS, path
        return list(reader)


ROWS = [row for table in TABLES for row in read_table(table)]


def check_list(checks, name):
    """The items of ``name=[...]``."""
    found = re.search(rf"{name}=\[(.*?)\]", checks)
    return [item.strip() for item in found[1].split(",")] if found else []


def check_files(output, checks):
    """All files that the run promises are there."""
    missing = [
        name
        for name in check_list(checks, "file_exists")
        if not (output / name).exists()
    ]
    assert not missing, f"{output} has no {', '.join(missing)}"


def check_performance(output, checks):
    """The value in the log keeps its bound."""
    check = check_list(checks, "performance_check")
    if not check:
        return
    log, variable, bound, epoch = check
    lines = (output / log).read_text().splitlines()
    lines = [line for line in lines if re.search(rf"{epoch}\b", line)]
    assert lines, f"{output / log} has no line with {epoch!r}"
    value = float(re.search(rf"{variable}: ([-+.e\d]+)", lines[-1])[1])
    sign = next(sign for sign in RELATIONS if bound.startswith(sign))
    limit = float(bound[len(sign) :])
    assert RELATIONS[sign](value, limit), f"{variable} is {value}, not {bound}"


@pytest.mark.parametrize("table", TABLES, ids=lambda path: path.stem)
def test_recipe_runs(table, pristine_world, tmp_path, request):
    for folder in ("esd", "backbone"):
        (tmp_path / folder).symlink_to(pristine_world / folder)
    if "tests/tmp/pretraining" in table.read_text():
        corpus = request.getfixturevalue("pristine_pretraining")
        shutil.copytree(corpus, tmp_path / "pretraining")
    if "tests/tmp/cosyvoice2" in table.read_text():
        snapshot = request.getfixturevalue("pristine_snapshot")
        (tmp_path / "cosyvoice2").symlink_to(snapshot)
    if "tests/tmp/IEMOCAP" in table.read_text():
        make_iemocap(tmp_path / "IEMOCAP")
    for number, row in enumerate(read_table(table)):
        output = tmp_path / f"{table.stem}_{number}"
        # Included files are sought from the hparams file's folder.
        flags = re.sub(
            r"(\.\./)*tests/tmp", str(tmp_path), row["test_debug_flags"]
        )
        command = [sys.executable, row["Script_file"], row["Hparam_file"]]
        command += [f"--output_folder={output}", *shlex.split(flags)]
        run = subprocess.run(
            command,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
        check_files(output, row["test_debug_checks"])
        check_performance(output, row["test_debug_checks"])


#: It needs speech that can be recognised: test_demo.py runs it.
RUN_ELSEWHERE = {
    "recipes/ESD/emotional_tts/hparams/evaluate_mini.yaml",
}


@pytest.mark.parametrize(
    "hparams_file",
    sorted((REPOSITORY / "recipes").rglob("hparams/*.yaml")),
    ids=lambda path: str(path.relative_to(REPOSITORY / "recipes")),
)
def test_hparams_file_is_listed(hparams_file):
    name = str(hparams_file.relative_to(REPOSITORY))
    assert name in {row["Hparam_file"] for row in ROWS} | RUN_ELSEWHERE


@pytest.mark.parametrize(
    "column", ["Script_file", "Hparam_file", "Data_prep_file", "Readme_file"]
)
def test_listed_files_exist(column):
    for row in ROWS:
        assert (REPOSITORY / row[column]).is_file(), row[column]


@pytest.mark.parametrize(
    "hparams_file", sorted({row["Hparam_file"] for row in ROWS})
)
def test_every_hyperparameter_is_used(hparams_file):
    text = (REPOSITORY / hparams_file).read_text()
    scripts = [
        REPOSITORY / row["Script_file"]
        for row in ROWS
        if row["Hparam_file"] == hparams_file
    ]
    # What the recipes of a dataset share stands in the dataset's folder.
    dataset = (REPOSITORY / hparams_file).parents[2]
    # The Brain base reads what every training has.
    base = REPOSITORY / "speechbrain_emofilm" / "core.py"
    sources = [*scripts, *dataset.glob("*.py"), base]
    code = "".join(path.read_text() for path in sources)
    document = yaml.compose(text)
    keys = [key.value for key, _ in document.value]
    unused = [
        key
        for key in keys
        if not key.startswith("__")
        and key not in RunOptions()
        and not re.search(rf"<{key}[\[.>]", text)
        and not re.search(rf"hparams\.{key}\b|[\"']{key}[\"']", code)
    ]
    assert not unused


def test_failed_checks_are_noticed(tmp_path):
    (tmp_path / "train_log.txt").write_text("epoch: 1 - train loss: 2.50\n")
    check_files(tmp_path, "file_exists=[train_log.txt]")
    with pytest.raises(AssertionError, match="has no save"):
        check_files(tmp_path, "file_exists=[train_log.txt,save]")
    check = "performance_check=[train_log.txt, train loss, {}, epoch: 1]"
    check_performance(tmp_path, check.format("<=2.5"))
    with pytest.raises(AssertionError, match="is 2.5, not <2.5"):
        check_performance(tmp_path, check.format("<2.5"))
    with pytest.raises(AssertionError, match="no line"):
        check_performance(tmp_path, check.format("<3").replace(": 1", ": 2"))

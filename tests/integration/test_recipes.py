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
from pathlib import Path

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


class TableRun:
    """Rows of one table, run in their order in one folder.

    A row may read what an earlier one has made, so that the rows before it
    are run first wherever they have not been. The first row is run by Python
    itself, the others by `python`, which has imported much before.
    """

    def __init__(self, table, folder, python=sys.executable):
        self.python = python
        self.table = table
        self.folder = folder
        self.rows = read_table(table)
        self.errors = []

    def error_of(self, number):
        """What a row died of; None if it did what its checks say."""
        while len(self.errors) <= number:
            try:
                self._run(len(self.errors))
            except AssertionError as error:
                self.errors.append(str(error))
            else:
                self.errors.append(None)
        return self.errors[number]

    def failed_before(self, number):
        """Numbers of the earlier rows that have failed."""
        return [n for n, error in enumerate(self.errors[:number]) if error]

    def _run(self, number):
        row = self.rows[number]
        output = self.folder / f"{self.table.stem}_{number}"
        # Included files are sought from the hparams file's folder.
        flags = re.sub(
            r"(\.\./)*tests/tmp", str(self.folder), row["test_debug_flags"]
        )
        python = self.python if number else sys.executable
        command = [python, row["Script_file"], row["Hparam_file"]]
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


@pytest.fixture(scope="session")
def table_runs():
    """The runs of all tables, each made when its first row is asked for."""
    return {}


@pytest.fixture
def table_run(table, table_runs, tmp_path_factory, warm_python, request):
    """The run of one table, with all that its flags name."""
    if table not in table_runs:
        folder = tmp_path_factory.mktemp(table.stem)
        world = request.getfixturevalue("pristine_world")
        for name in ("esd", "backbone"):
            (folder / name).symlink_to(world / name)
        if "tests/tmp/pretraining" in table.read_text():
            corpus = request.getfixturevalue("pristine_pretraining")
            shutil.copytree(corpus, folder / "pretraining")
        if "tests/tmp/cosyvoice2" in table.read_text():
            snapshot = request.getfixturevalue("pristine_snapshot")
            (folder / "cosyvoice2").symlink_to(snapshot)
        if "tests/tmp/IEMOCAP" in table.read_text():
            make_iemocap(folder / "IEMOCAP")
        table_runs[table] = TableRun(table, folder, warm_python)
    return table_runs[table]


@pytest.mark.parametrize(
    "table, number",
    [
        pytest.param(
            table,
            number,
            id=f"{table.stem}-{number}-{Path(row['Hparam_file']).stem}",
        )
        for table in TABLES
        for number, row in enumerate(read_table(table))
    ],
)
def test_recipe_runs(table_run, number):
    fail_as_the_row(table_run, number)


def fail_as_the_row(table_run, number):
    """Fails if the row fails; names the earlier rows that may be why."""
    error = table_run.error_of(number)
    if error is not None:
        earlier = table_run.failed_before(number)
        names = ", ".join(f"row {n}" for n in earlier)
        pytest.fail(
            f"{table_run.table.name}, row {number} failed"
            + (f" (as {names} did before it)" if earlier else "")
            + f": {table_run.rows[number]['Script_file']}\n{error}",
            pytrace=False,
        )


def test_a_failed_row_does_not_hide_the_later_ones(tmp_path):
    scripts = {"good": "", "bad": "raise SystemExit('no such corpus')"}
    table = tmp_path / "toy.csv"
    lines = [",".join(COLUMNS)]
    for number, name in enumerate(["bad", "good", "bad"]):
        script = tmp_path / f"{number}.py"
        script.write_text(
            f"open({str(tmp_path / 'order')!r}, 'a').write('{number}')\n"
            + scripts[name]
        )
        fields = {"Script_file": str(script), "Hparam_file": "toy.yaml"}
        lines.append(",".join(fields.get(column, "") for column in COLUMNS))
    table.write_text("\n".join(lines))
    toy = TableRun(table, tmp_path)
    fail_as_the_row(toy, 1)
    assert (tmp_path / "order").read_text() == "01"  # what it may need, first
    for number, message in {
        0: "toy.csv, row 0 failed: .*no such corpus",
        2: r"toy.csv, row 2 failed \(as row 0 did before it\)",
    }.items():
        with pytest.raises(pytest.fail.Exception, match=f"(?s){message}"):
            fail_as_the_row(toy, number)
    assert (tmp_path / "order").read_text() == "012"  # each row once


#: The first needs speech that can be recognised: test_demo.py runs it. The
#: others need a trained model: test_emotional_tts_recipe.py (pointer),
#: test_preference_recipe.py and test_cosyvoice2_evaluation.py run them.
RUN_ELSEWHERE = {
    "recipes/ESD/emotional_tts/hparams/train_pointer.yaml",
    "recipes/ESD/emotional_tts/hparams/prefer_mini.yaml",
    "recipes/ESD/emotional_tts/hparams/prefer_cosyvoice2.yaml",
    "recipes/ESD/emotional_tts/hparams/evaluate_mini.yaml",
    "recipes/ESD/emotional_tts/hparams/evaluate_cosyvoice2.yaml",
    "recipes/FEDD/hparams/evaluate_cosyvoice2.yaml",
    "recipes/FEDD/hparams/synthesise_cosyvoice2.yaml",
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

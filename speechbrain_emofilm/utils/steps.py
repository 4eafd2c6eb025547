"""Long work as steps: each is a script's own command, and is done once.

Authors
 * speechbrain-emofilm contributors, 2026
"""

import hashlib
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from speechbrain_emofilm.dataio.speech_tokens import file_fingerprint
from speechbrain_emofilm.utils.files import read_json, write_json

#: Long CPU work: page faults cost more than arithmetic on virtual machines,
#: so freed memory stays in the process; idle threads sleep.
ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "500000000",
    "OMP_WAIT_POLICY": "PASSIVE",
}


class StepFailed(RuntimeError):
    """A step's command ended with an error."""


@dataclass(frozen=True)
class Step:
    """A part of the work.

    Arguments
    ---------
    name : str
        What it does, for the reader.
    command : list of str
        A Python script and its arguments, from the working folder.
    folder : Path
        Where its results go. It holds nothing else, and is removed before
        the step is done with other options.
    outputs : list of str
        Files in it that are there when the step is done.
    inputs : list of Path
        Files that it needs beside the results of the steps before.
    threads : int
        Threads of each of its processes.
    """

    name: str
    command: list[str]
    folder: Path
    outputs: list[str]
    inputs: Sequence[Path] = ()
    threads: int = 1


def run_steps(
    steps: Sequence[Step],
    log_file: Path,
    working_folder: Path,
    output_file: Path | None = None,
) -> dict:
    """Does what has not been done.

    A step is done again, in an empty folder, when its command or its inputs
    or a step before it have changed; an interrupted one goes on.

    Arguments
    ---------
    steps : list of Step
        In order; each needs those before.
    log_file : Path
        JSON file that remembers what was done, with which options.
    working_folder : Path
        Where the commands are run.
    output_file : Path, optional
        Takes what the commands print, added to its end; the terminal if
        None.

    Returns
    -------
    dict
        Step to what the log holds: `seconds`, `peak_memory_mb`.

    Raises
    ------
    StepFailed
        If a command ends with an error.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> script = "import os; os.mkdir('made'); open('made/out', 'w').close()"
    >>> _ = (folder / "make.py").write_text(script)
    >>> step = Step("Make", ["make.py"], folder / "made", ["out"])
    >>> log = run_steps([step], folder / "steps.json", folder)
    [1/1] Make
    > python make.py
    [1/1] Make: done in ... s
    >>> log = run_steps([step], folder / "steps.json", folder)
    [1/1] Make: ...made is there
    """
    log = read_json(log_file) if log_file.is_file() else {}
    key = ""
    for number, step in enumerate(steps, start=1):
        # A step's key holds those of the steps before it.
        inputs = [file_fingerprint(path) for path in step.inputs]
        content = json.dumps([key, step.command, inputs])
        key = hashlib.sha256(content.encode()).hexdigest()[:16]
        heading = f"[{number}/{len(steps)}] {step.name}"
        entry = log.get(step.name)
        if entry is None or entry["key"] != key:
            shutil.rmtree(step.folder, ignore_errors=True)
            entry = {"key": key, "done": False, "seconds": 0.0}
        whole = all((step.folder / name).is_file() for name in step.outputs)
        if entry["done"] and whole:
            print(f"{heading}: {step.folder} is there", flush=True)
            continue
        print(f"{heading}\n> python {shlex.join(step.command)}", flush=True)
        log[step.name] = entry
        _run_timed(step, log, log_file, working_folder, output_file)
        print(f"{heading}: done in {entry['seconds']:.0f} s\n", flush=True)
    return {step.name: log[step.name] for step in steps}


def _run_timed(
    step: Step,
    log: dict,
    log_file: Path,
    working_folder: Path,
    output_file: Path | None,
) -> None:
    """Does a step; the log also counts the time before an interrupt."""
    started = time.monotonic()
    entry = log[step.name]
    entry["done"] = False
    write_json(log_file, log)
    try:
        run_command(step.command, step.threads, working_folder, output_file)
        entry["done"] = True
    finally:
        entry["seconds"] += round(time.monotonic() - started, 1)
        entry["peak_memory_mb"] = _peak_memory_mb()
        write_json(log_file, log)


def run_command(
    command: Sequence[str],
    threads: int,
    working_folder: Path,
    output_file: Path | None = None,
) -> None:
    """Runs a Python script.

    Arguments
    ---------
    command : list of str
        The script and its arguments.
    threads : int
        Threads of each of its processes.
    working_folder : Path
        Where it runs.
    output_file : Path, optional
        Takes what it prints, added to its end; the terminal if None.

    Raises
    ------
    StepFailed
        If it ends with an error.
    """
    environment = {**ENVIRONMENT, **os.environ}
    environment["OMP_NUM_THREADS"] = str(threads)
    options = {"cwd": working_folder, "env": environment}
    arguments = [sys.executable, *command]
    if output_file is None:
        done = subprocess.run(arguments, **options)
    else:
        output_file.parent.mkdir(parents=True, exist_ok=True)
        with open(output_file, "ab") as file:
            done = subprocess.run(
                arguments, stdout=file, stderr=subprocess.STDOUT, **options
            )
    if done.returncode:
        place = f" ({output_file} says why)" if output_file else ""
        raise StepFailed(
            f"python {shlex.join(command)} ended with code "
            f"{done.returncode}{place}"
        )


def _peak_memory_mb() -> int:
    """Of the largest process that has ended so far."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))

"""Resumable pipeline of commands: each step runs a script, and runs once."""

import hashlib
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechbrain_emofilm.utils.files import (
    file_fingerprint,
    read_json,
    write_json,
)

from tqdm import tqdm

#: Settings for long CPU work. Page faults are expensive on virtual machines,
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
    """One command of a pipeline, with its inputs and outputs.

    Arguments
    ---------
    name : str
        Name shown to the user.
    command : list of str
        A Python script and its arguments, from the working folder.
    folder : Path
        Output folder. It holds nothing else, and is removed before the step
        runs with other options.
    outputs : list of str
        Files in the folder that exist once the step is done.
    inputs : list of Path
        Files that it needs besides the results of other steps.
    threads : int
        Threads of each of its processes.
    needs : list of str, optional
        Names of the steps, among those before, whose results it needs; all
        of them if None.
    """

    name: str
    command: list[str]
    folder: Path
    outputs: list[str]
    inputs: Sequence[Path] = ()
    threads: int = 1
    needs: Sequence[str] | None = None


def run_steps(
    steps: Sequence[Step],
    log_file: Path,
    working_folder: Path,
    output_file: Path | None = None,
    jobs: int = 1,
) -> dict:
    """Run the steps whose results are missing or out of date.

    A step runs again, in an empty folder, when its command, its inputs or a
    step that it needs have changed; an interrupted step resumes.

    Arguments
    ---------
    steps : list of Step
        Steps in an order in which each follows those that it needs.
    log_file : Path
        JSON file that records the finished steps and their options.
    working_folder : Path
        Folder in which the commands run.
    output_file : Path, optional
        File to which the output of the commands is appended. If None, it
        goes to the terminal; with several jobs, the terminal shows the last
        line of each running step, and the full output goes to a text file
        named after the step, in the folder ``logs`` next to the log file.
    jobs : int
        Number of steps that run in parallel.

    Returns
    -------
    dict
        Log entry of each step: `seconds`, `spans` (start and end times in
        seconds since 1970; several if it was interrupted), `peak_memory_mb`
        (of this process and all its descendants while the step ran, sampled
        every second; outside Linux, of the largest process only).

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
    run = _Run(steps, log_file, working_folder, output_file, jobs)
    waiting, running = list(steps), {}
    with ThreadPoolExecutor(jobs) as pool:
        while waiting or running:
            unfinished = {step.name for step in (*waiting, *running.values())}
            ready = [
                step
                for step in waiting
                if unfinished.isdisjoint(run.needs[step.name])
            ]
            for step in ready[: jobs - len(running)]:
                waiting.remove(step)
                running[pool.submit(run.do, step)] = step
            ended, _ = wait(running, 1.0, return_when=FIRST_COMPLETED)
            run.watch_memory()
            for future in ended:
                del running[future]
                future.result()  # raises what the step has raised
    return {step.name: run.log[step.name] for step in steps}


class _Run:
    """State of one call of `run_steps`."""

    def __init__(self, steps, log_file, working_folder, output_file, jobs):
        self.log_file = log_file
        self.log = read_json(log_file) if log_file.is_file() else {}
        self.working_folder = working_folder
        self.output_file = output_file
        self.has_bars = jobs > 1 and output_file is None
        self.lock = threading.Lock()
        names = [step.name for step in steps]
        self.headings = {
            name: f"[{number}/{len(steps)}] {name}"
            for number, name in enumerate(names, start=1)
        }
        self.needs = {
            step.name: names[:place] if step.needs is None else step.needs
            for place, step in enumerate(steps)
        }
        self.keys = {}
        self.peaks: dict[str, int] = {}  # MiB, of the running steps

    def watch_memory(self) -> None:
        """Update the peak memory of the running steps."""
        used = used_memory_mb()
        with self.lock:
            self.peaks = {n: max(p, used) for n, p in self.peaks.items()}

    def do(self, step: Step) -> None:
        """Run a step unless its results are up to date."""
        key, heading = self._make_key(step), self.headings[step.name]
        entry = self.log.get(step.name)
        if entry is None or entry["key"] != key:
            shutil.rmtree(step.folder, ignore_errors=True)
            entry = {"key": key, "done": False, "spans": []}
        whole = all((step.folder / name).is_file() for name in step.outputs)
        if entry["done"] and whole:
            tqdm.write(f"{heading}: {step.folder} is there")
            return
        tqdm.write(f"{heading}\n> python {shlex.join(step.command)}")
        self._do_timed(step, entry)
        tqdm.write(f"{heading}: done in {entry['seconds']:.0f} s\n")

    def _make_key(self, step: Step) -> str:
        """Return a digest of everything that a step's results depend on.

        It covers the keys of the steps that this one needs.
        """
        inputs = [file_fingerprint(path) for path in step.inputs]
        needed = [self.keys[name] for name in self.needs[step.name]]
        content = json.dumps([needed, step.command, inputs])
        key = hashlib.sha256(content.encode()).hexdigest()[:16]
        self.keys[step.name] = key
        return key

    def _do_timed(self, step: Step, entry: dict) -> None:
        """Run a step and log its time, including that before an interrupt."""
        started = time.time()
        entry["done"] = False
        with self.lock:
            self.peaks[step.name] = entry.get("peak_memory_mb", 0)
        self._note(step, entry)
        options = (step.command, step.threads, self.working_folder)
        try:
            if self.has_bars:
                file = self.log_file.parent / "logs" / f"{step.name}.txt"
                with tqdm(
                    bar_format="{desc}", dynamic_ncols=True, leave=False
                ) as bar:
                    run_command(*options, file, bar)
            else:
                run_command(*options, self.output_file)
            entry["done"] = True
        finally:
            entry["spans"].append([round(started, 1), round(time.time(), 1)])
            seconds = sum(end - start for start, end in entry["spans"])
            entry["seconds"] = round(seconds, 1)
            with self.lock:
                sampled = self.peaks.pop(step.name)
            # A short step may start and end between two samples.
            entry["peak_memory_mb"] = max(sampled, _largest_process_mb())
            self._note(step, entry)

    def _note(self, step: Step, entry: dict) -> None:
        """Write the entry of a step to the log."""
        with self.lock:
            self.log[step.name] = entry
            write_json(self.log_file, self.log)


def busy_seconds(log: Mapping[str, Mapping]) -> float:
    """Return the time during which at least one step ran.

    Arguments
    ---------
    log : dict
        Result of `run_steps`.

    Returns
    -------
    float
        Seconds; the time of parallel steps counts once.

    Example
    -------
    >>> log = {"a": {"spans": [[0, 4], [10, 12]]}, "b": {"spans": [[3, 5]]}}
    >>> busy_seconds(log)
    7.0
    """
    seconds = busy_until = 0.0
    for start, end in sorted(s for e in log.values() for s in e["spans"]):
        seconds += max(0.0, end - max(start, busy_until))
        busy_until = max(busy_until, end)
    return seconds


def run_command(
    command: Sequence[str],
    threads: int,
    working_folder: Path,
    output_file: Path | None = None,
    bar: tqdm | None = None,
) -> None:
    """Run a Python script.

    Arguments
    ---------
    command : list of str
        The script and its arguments.
    threads : int
        Threads of each of its processes.
    working_folder : Path
        Folder in which it runs.
    output_file : Path, optional
        File to which its output is appended; the terminal if None.
    bar : tqdm, optional
        Progress bar that shows the last line of the output.

    Raises
    ------
    StepFailed
        If it ends with an error.
    """
    environment = {**ENVIRONMENT, **os.environ}
    environment["OMP_NUM_THREADS"] = str(threads)
    options: dict[str, Any] = {"cwd": working_folder, "env": environment}
    arguments = [sys.executable, *command]
    if output_file is None:
        code = subprocess.run(arguments, **options).returncode
    else:
        output_file.parent.mkdir(parents=True, exist_ok=True)
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with (
            open(output_file, "ab", buffering=0) as file,
            subprocess.Popen(arguments, **options) as process,
        ):
            while printed := os.read(process.stdout.fileno(), 1 << 16):
                file.write(printed)
                if bar is not None:
                    _show_last_line(bar, output_file.stem, printed)
        code = process.returncode
    if code:
        place = f" ({output_file} says why)" if output_file else ""
        raise StepFailed(
            f"python {shlex.join(command)} ended with code {code}{place}"
        )


def _show_last_line(bar: tqdm, name: str, printed: bytes) -> None:
    """Show the last line that a step has printed."""
    lines = re.split(r"[\r\n]+", printed.decode(errors="replace").strip())
    if lines[-1]:
        bar.set_description_str(f"{name} | {lines[-1].strip()}")


def used_memory_mb() -> int:
    """Measure the memory of this process and all its descendants, in MiB.

    Shared pages count once; 0 outside Linux.

    Example
    -------
    >>> import mmap
    >>> before, block = used_memory_mb(), mmap.mmap(-1, 1 << 29)
    >>> _ = [block.write(bytes(1 << 20)) for _ in range(512)]
    >>> used_memory_mb() - before >= 256 or sys.platform != "linux"
    True
    """
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:  # "pid (name) state parent ...", and a name may hold anything
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    kilobytes, processes = 0, [os.getpid()]
    while processes:
        process = processes.pop()
        processes += children.get(process, [])
        try:
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:
            continue
        found = re.search(r"^Pss:\s+(\d+)", rollup, re.MULTILINE)
        kilobytes += int(found[1]) if found else 0
    return kilobytes // 1024


def _largest_process_mb() -> int:
    """Return the peak memory of finished child processes, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))

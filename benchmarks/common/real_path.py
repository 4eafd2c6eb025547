"""Run the README's CosyVoice2 commands in order, as a new user would.

Called by ``benchmarks/real_path.sh``. Needs nothing but Python and pip; what
writes the snapshot and the corpus runs in the environment that is tested.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
#: Packages that carry the vocabulary, and that tokenize with it.
VOCABULARY = ("dashscope==2.0.2", "tiktoken>=0.7")
#: Short speech: random weights never end an utterance themselves.
SHORT = "--backbone='{generation: {min_ratio: 2.0, max_ratio: 3.0}}'"
#: A short evaluation with tools that download nothing.
SHORT_EVALUATION = (
    f" {SHORT} --max_utterances=2 --n_classifier=0 --batch_size=2"
    " --scores='[emo_sim, dtw, f0_dtw, energy_dtw]'"
    " --emotion_features='!name:speechbrain_emofilm.integrations"
    ".emotion_features.whisper_prosody.WhisperProsody []'"
    " --asr='!name:speechbrain_emofilm.integrations"
    ".whisper.FasterWhisperASR []'"
)
N_LINES = 30  # of the output of a command that failed
RESULTS = "results/emotional_tts"
PAPER = f"{RESULTS}/cosyvoice2/1986"
#: What emofilm speaks: name, arguments.
SPOKEN = {
    "marks": [
        "<happy=0.7 surprise=0.3>Oh!</> We <sad intensity=0.4>lost</sad> it.",
        "--seed=3",
        "--guidance=1.5",
        "--unmarked=neutral",
        "--intensity=0.5",
    ],
    "voice 0011": ["<angry>Come here!</angry>", "--voice=0011"],
    "Mandarin": ["<happy>我们赢了!</happy><sad>但是他走了。</sad>"],
    "numbers": ["On May 3rd, 2021 it cost $21.50, or 5% more."],
    "laughter": [
        "<happy>We won [laughter] again!</happy>",
        "--prompting=cross_lingual",
    ],
    "instruction": ["We won.", "--instruction=Speak softly."],
}
PYTHON_SPEAKS = """
import soundfile
from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer

tts = EmoFiLMSynthesizer.from_hparams("{model}")
voice = tts.add_voice("guest", "{reference}", "{text}")
assert "guest" in tts.speakers and "me" in tts.speakers, tts.speakers
speech = tts.synthesize("<happy>We won!</happy> <sad>He left.</sad>", "guest")
assert [word.text for word in speech.words] == ["We", "won", "He", "left"]
assert speech.wav.isfinite().all() and len(speech.wav)
soundfile.write("guest.wav", speech.wav.numpy(), speech.sample_rate)
"""


class FailedCommand(Exception):
    """A command has failed; its report is printed."""


class Runner:
    """Runs commands of bash, and prints one line for each.

    Arguments
    ---------
    work : Path
        Folder of everything that is made.
    """

    def __init__(self, work: Path):
        self.work = work
        self.logs = work / "logs"
        self.logs.mkdir(parents=True)
        # As in the Makefile, unless the caller sets them.
        settings = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        self.env = {**settings, **os.environ}
        # No other copy of the package, and no environment but the one asked.
        for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
            self.env.pop(name, None)
        # The commands are many processes: what they import is compiled once.
        self.env.pop("PYTHONDONTWRITEBYTECODE", None)
        self.env["PYTHONPYCACHEPREFIX"] = str(work / "pycache")
        self.state = ["set -eo pipefail"]
        self.number = 0

    def remember(self, line: str) -> None:
        """Keep a `cd`, variable or function for all later commands."""
        self.state.append(line)

    def run(self, name: str, command: str, expect: str = "") -> None:
        """Run a command; `expect` is text that its output has to hold."""
        self.number += 1
        slug = re.sub(r"\W+", "_", name).strip("_")
        log = self.logs / f"{self.number:02d}_{slug}.log"
        script = "\n".join([*self.state, command])
        start = time.perf_counter()
        with open(log, "wb") as file:
            code = subprocess.run(
                ["bash", "-c", script],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            ).returncode
        seconds = time.perf_counter() - start
        output = log.read_text(encoding="utf-8", errors="replace")
        failed = code != 0 or expect not in output
        status = "FAILED" if failed else "ok"
        print(f"{status:<6} {seconds:7.1f} s  {name}", flush=True)
        if failed:
            print(f"\n{command}\n")
            print("\n".join(output.splitlines()[-N_LINES:]))
            reason = f"exit code {code}" if code else f"no {expect!r}"
            print(f"\n{reason}; the whole output is in {log}")
            raise FailedCommand

    def skip(self, name: str, reason: str) -> None:
        """Tell that a command is not run."""
        print(f"{'-':<6} {'':9}  {name}: {reason}", flush=True)


def readme_commands(heading: str, text: str) -> Iterator[str]:
    """Yield the commands of the first shell block below a heading."""
    _, _, section = text.partition(f"\n## {heading}\n")
    block = re.search(r"```shell\n(.*?)```", section, re.DOTALL)
    if block is None:
        raise ValueError(f"README.md has no commands below {heading!r}.")
    joined = re.sub(r"\\\n\s*", "", block[1])
    for line in joined.splitlines():
        if line.strip() and not line.startswith("#"):
            yield line


def changes_state(line: str) -> bool:
    """Tell whether a command is a `cd` or sets a variable."""
    return bool(re.match(r"cd |\w+=", line))


def name_of(line: str) -> str:
    """Name a command by its program and first arguments."""
    words = [word for word in line.split() if word != "python"]
    ends = [i for i, word in enumerate(words) if word[0] in "-$\"'"]
    return " ".join(words[: min([*ends, 3])])[:60]


def make_environment(runner: Runner, python: str | None) -> None:
    """Choose an environment, or make one; its `python` is found first."""
    if python is None:
        folder = runner.work / "environment"
        runner.run(
            "python -m venv",
            f"{sys.executable} -m venv {shlex.quote(str(folder))}",
        )
        path = folder / "bin"
    else:
        # Not resolved: the link says to which environment it belongs.
        path = Path(python).absolute()
        path = path / "bin" if path.is_dir() else path.parent
        runner.env["PYTHONPATH"] = str(runner.work / "checkout")
        runner.remember('emofilm() { python -m speechbrain_emofilm "$@"; }')
    runner.env["PATH"] = f"{path}{os.pathsep}{runner.env['PATH']}"


def copy_checkout(runner: Runner) -> None:
    """Copy the files that git would commit, so that results go elsewhere."""
    target = runner.work / "checkout"
    target.mkdir()
    runner.run(
        "copy of the checkout",
        f"cd {shlex.quote(str(ROOT))}\n"
        "git ls-files -coz --exclude-standard --deduplicate"
        " | tar --null --ignore-failed-read -cT -"
        f" | tar -xC {shlex.quote(str(target))}",
    )
    runner.remember(f"cd {shlex.quote(str(target))}")


def make_stand_ins(runner: Runner, layers: int, corpus_options: str) -> None:
    """Write the snapshot, the corpus and the labels."""
    packages = runner.work / "packages"
    runner.run(
        "Qwen2's vocabulary (dashscope)",
        f"python -m pip install --quiet --no-deps --target {packages} "
        + shlex.join(VOCABULARY),
    )
    runner.run(
        f"snapshot of {layers} layers",
        f"PYTHONPATH=$PYTHONPATH:{packages} python {HERE}/fake_snapshot.py"
        f" {runner.work}/CosyVoice2-0.5B"
        f" {packages}/dashscope/resources/qwen.tiktoken --layers {layers}",
    )
    recipe = runner.work / "checkout/recipes/ESD/word_emotion_labeling"
    runner.run(
        "corpus in ESD's layout",
        f"python {HERE}/fake_esd.py {runner.work}/ESD"
        f" {runner.work}/textgrids"
        f" {recipe}/results/word_emotion_labeling/labels/word_labels.json"
        f" {runner.work}/reference.wav {corpus_options}",
    )


def label(runner: Runner, readme: str, wanted: bool) -> None:
    """Run the README's commands that label the words, if asked to."""
    before = list(runner.state)
    recipe = runner.work / "checkout/recipes/ESD/word_emotion_labeling"
    labels = recipe / "results/word_emotion_labeling/labels/word_labels.json"
    stand_ins = json.loads(labels.read_text(encoding="utf-8"))
    for line in readme_commands("On ESD", readme):
        line = line.replace("/data/", f"{runner.work}/")
        if line.startswith("cd ../"):
            break
        if changes_state(line):
            runner.remember(line)
        elif wanted:
            # No model that aligns Mandarin is at hand.
            short = " --language=en"
            if " train.py " in f" {line}":
                short += " --number_of_epochs=2"
            runner.run(name_of(line), line + short)
        else:
            runner.skip(name_of(line), "not asked for (--labelling)")
    # Mandarin keeps the labels that came with the corpus.
    made = json.loads(labels.read_text(encoding="utf-8"))
    labels.write_text(json.dumps({**stand_ins, **made}), encoding="utf-8")
    runner.state = before


def train(runner: Runner, readme: str, fresh: bool, steps: int) -> None:
    """Run the README's commands from the corpus to speech and its scores."""
    source = f" --backbone_source={runner.work}/CosyVoice2-0.5B"
    added = {
        "extract_speech_tokens.py": source,
        "extract_speaker_embeddings.py": source,
        "train.py": f"{source} --number_of_steps={steps} {SHORT}",
        "evaluate.py": source + SHORT_EVALUATION,
    }
    recipe = runner.work / "checkout/recipes/ESD/emotional_tts"
    shutil.copy(runner.work / "reference.wav", recipe / "ref.wav")
    for line in readme_commands("With CosyVoice2-0.5B", readme):
        line = line.replace("/data/", f"{runner.work}/")
        script = next((name for name in added if f" {name} " in line), None)
        if changes_state(line):
            runner.remember(line)
        elif "fetch_files" in line:
            runner.skip("fetch_files", "the random snapshot takes its place")
        elif line.startswith("pip ") and not fresh:
            runner.skip("pip install", "the environment was given")
        elif line.startswith("pip "):
            runner.run(name_of(line), line.replace("pip", "python -m pip", 1))
        else:
            wav = re.search(r"-o (\S+)", line)
            expect = f"{wav[1]}: " if wav else ""
            runner.run(name_of(line), line + added.get(script, ""), expect)
    options = f"hparams/cosyvoice2.yaml $options{source}"
    runner.run(
        "extract_speaker_embeddings.py cosyvoice2.yaml (neutral)",
        f"python extract_speaker_embeddings.py {options}",
        "voices (neutral)",
    )
    runner.run(
        "train.py cosyvoice2.yaml",
        f"python train.py {options} --number_of_steps={steps} {SHORT}",
    )
    both = (
        f"hparams/cosyvoice2.yaml{source} --data_folder={runner.work}/ESD"
        f" --prepared_folder={runner.work}/ESD_both"
        " --prepare_opts='{language: both}' --label_source=sentence"
        f" --alignment_folder={runner.work}/textgrids"
    )
    for script in ("extract_speech_tokens", "extract_speaker_embeddings"):
        runner.run(
            f"{script}.py (both languages)", f"python {script}.py {both}"
        )
    runner.run(
        "train.py (both languages, sentence labels)",
        f"python train.py {both} --output_folder={RESULTS}/both"
        f" --number_of_steps={steps} {SHORT}",
    )


def speak(runner: Runner, text: str) -> None:
    """Speak with the trained models on the command line and in Python."""
    model = f"--model={PAPER}"
    for number, (name, arguments) in enumerate(SPOKEN.items()):
        wav = f"said_{number}.wav"
        runner.run(
            f"emofilm say ({name})",
            f"emofilm say {shlex.join(arguments)} -o {wav} {model}\n"
            f"test -s {wav}",
            f"{wav}: ",
        )
    reference = runner.work / "reference.wav"
    runner.run(
        "emofilm voice add",
        f"emofilm voice add me {reference} --text {shlex.quote(text)} {model}",
        "me: ",
    )
    runner.run("emofilm voice list", f"emofilm voice list {model}", "\nme\n")
    runner.run(
        "emofilm say (added voice)",
        f"emofilm say 'We won.' --voice me -o me.wav {model}",
        "me.wav: ",
    )
    runner.run(
        "emofilm say (recording)",
        f"emofilm say 'We won.' --voice {reference} -o guest.wav"
        f" --voice-text {shlex.quote(text)} {model}",
        "guest.wav: ",
    )
    runner.run("emofilm tags", f"emofilm tags {model}", "[laughter]")
    runner.run(
        "emofilm say (both languages)",
        "emofilm say '<happy>我们赢了!</happy> He left.' -o both.wav"
        f" --voice=0001 --model={RESULTS}/both",
        "both.wav: ",
    )
    code = PYTHON_SPEAKS.format(model=PAPER, reference=reference, text=text)
    runner.run("add_voice in Python", f"python -c {shlex.quote(code)}")


def main(arguments: list[str] | None = None) -> int:
    """Run all commands; return 1 if one has failed."""
    parser = argparse.ArgumentParser(
        prog="real_path.sh", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument(
        "--python",
        metavar="ENV",
        help="environment to use, or its python (default: a new one with the "
        "extra cosyvoice alone)",
    )
    parser.add_argument(
        "--work",
        type=Path,
        metavar="FOLDER",
        help="new folder of everything that is made, which is kept (default: "
        "a temporary one, kept where a command fails)",
    )
    parser.add_argument(
        "--layers", type=int, default=2, help="of the language model, of 24"
    )
    parser.add_argument(
        "--sentences", type=int, default=4, help="of each speaker and emotion"
    )
    parser.add_argument(
        "--steps", type=int, default=3, help="updates of each training"
    )
    parser.add_argument(
        "--labelling",
        action="store_true",
        help="also run the commands that label the words, in English",
    )
    options = parser.parse_args(arguments)
    work = options.work or Path(tempfile.mkdtemp(prefix="real_path_"))
    work = work.absolute()
    runner = Runner(work)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    sys.path.insert(0, str(HERE.parent))
    from common.sentences import SENTENCES

    start = time.perf_counter()
    try:
        copy_checkout(runner)
        make_environment(runner, options.python)
        if options.python is None:
            runner.run(
                'pip install -c constraints.txt -e ".[cosyvoice]"',
                "python -m pip install --no-compile -c constraints.txt"
                ' -e ".[cosyvoice]"',
            )
        make_stand_ins(
            runner,
            options.layers,
            f"--sentences={options.sentences} --held_out",
        )
        label(runner, readme, options.labelling)
        train(
            runner,
            readme,
            options.python is None,
            options.steps,
        )
        speak(runner, " ".join(SENTENCES["en"][:2]))
    except FailedCommand:
        return 1
    print(f"{'':6} {time.perf_counter() - start:7.1f} s  everything")
    if options.work is None:
        shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())

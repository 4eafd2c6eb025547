"""Every extra of setup.py brings all that its commands import.

The imports are read from the sources, also those inside of functions, and
followed from the commands to the project's modules and through the hparams
to the classes that they name.
"""

import ast
import re
import runpy
import sys
from functools import cache
from importlib.metadata import distributions, packages_distributions
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "speechbrain_emofilm"
ESD = "recipes/ESD"
TTS = f"{ESD}/emotional_tts"
LABELING = f"{ESD}/word_emotion_labeling"
COMMAND = f"{PACKAGE}/cli.py"

#: What each extra is for: scripts and the hparams they are run with. The
#: empty one is what ``pip install speechbrain-emofilm`` alone promises.
COMMANDS = {
    "": [
        COMMAND,
        f"{TTS}/extract_speech_tokens.py",
        f"{LABELING}/extract_features.py",
        f"{LABELING}/train.py",
        f"{LABELING}/label.py",
        "recipes/IEMOCAP/prepare.py",
    ],
    "cosyvoice": [
        COMMAND,
        f"{PACKAGE}/integrations/cosyvoice2/hub.py",
        *(
            f"{TTS}/{script}.py"
            for script in (
                "extract_speech_tokens",
                "extract_speaker_embeddings",
                "train",
                "evaluate",
            )
        ),
        f"{TTS}/hparams/cosyvoice2.yaml",
        f"{TTS}/hparams/evaluate_cosyvoice2.yaml",
        f"{TTS}/hparams/cosyvoice2_robust.yaml",
    ],
    "emotion2vec": [
        f"{LABELING}/extract_features.py",
        f"{LABELING}/train.py",
        f"{LABELING}/label.py",
        "hparams/emotion_features/emotion2vec_base.yaml",
        "hparams/emotion_features/emotion2vec_plus_large.yaml",
    ],
    "suggest": [COMMAND, f"{PACKAGE}/inference/suggester.py"],
    "serve": [COMMAND, *(f"{PACKAGE}/serve/{n}.py" for n in ("app", "server"))],
    "demo": [
        COMMAND,
        f"{PACKAGE}/assets/mini/synthesizer.yaml",
        f"{PACKAGE}/assets/labeler/labeler.yaml",
        f"{PACKAGE}/integrations/whisper.py",
        *(
            str(path.relative_to(ROOT))
            for folder in ("MiniESD", "FEDD", "ESD")
            for path in (ROOT / "recipes" / folder).rglob("*")
            if path.suffix == ".py" or path.match("hparams/*mini*.yaml")
        ),
    ],
}
#: What is optional elsewhere (below), but comes with these extras.
BROUGHT = {
    "suggest": ["vader"],
    "serve": ["vader"],
    "demo": ["vader", "wetext"],
    "cosyvoice": ["wetext"],
}
#: Used where it is installed, done without (with a warning) where it is not.
OPTIONAL = {
    # word times of the command, else proportional ones
    (f"{PACKAGE}/inference/synthesizer.py", "pocketsphinx"),
    # normalisation of text, if the model's hparams name it
    (f"{PACKAGE}/dataio/normalization.py", "wetext"),
    (f"{PACKAGE}/dataio/normalization.py", "Normalizer"),
    # commands of other extras, which their errors name
    (f"{PACKAGE}/inference/labeling.py", "pocketsphinx"),
    (f"{PACKAGE}/inference/labeling.py", "whisper"),
    (f"{PACKAGE}/inference/labeling.py", "FasterWhisperASR"),
    (f"{PACKAGE}/inference/suggester.py", "vader"),
    *(
        (COMMAND, name)
        for name in (
            "app",
            "server",
            "service",
            "Settings",
            "check_address",
            "check_token",
            "serve",
        )
    ),
}


def text_of(path):
    """A file's text; a YAML file's comments are left out."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".yaml":
        text = re.sub(r"(^|\s)#.*", "", text)
    return text


@cache
def imported_by(path):
    """Names of the modules that a file imports, wherever it does."""
    text = text_of(path)
    if path.suffix == ".yaml":
        return [
            name.rpartition(".")[0]
            for name in re.findall(r"!(?:new|name|apply):([\w.]+)", text)
        ]
    names = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module)
            # A module of a package may be imported by its own name.
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def file_of(name, importer):
    """The project's file of a module, None for one from elsewhere."""
    place = Path(*name.split("."))
    # Scripts put their own and their dataset's folder on the path.
    recipes = ROOT / "recipes"
    folders = [f for f in importer.parents if f.is_relative_to(recipes)]
    for folder in [ROOT, *folders]:
        for path in (
            (folder / place).with_suffix(".py"),
            folder / place / "__init__.py",
        ):
            if place.parts and path.is_file():
                return path
    return None


def is_foreign(name):
    """Neither of Python nor of this repository."""
    return bool(name) and name not in {*sys.stdlib_module_names, PACKAGE}


def reached_from(starts):
    """The files that commands use, and their imports from elsewhere.

    Returns a dict of an imported top-level name to the files that import it.
    """
    waiting = [ROOT / start for start in starts]
    seen, foreign = set(), {}
    while waiting:
        path = waiting.pop().resolve()
        if path in seen:
            continue
        seen.add(path)
        if path.suffix == ".yaml":
            for name in re.findall(r"!include:([\w./-]+)", text_of(path)):
                waiting.append(path.parent / name)
        here = str(path.relative_to(ROOT))
        for name in imported_by(path):
            if (here, name.split(".")[-1]) in OPTIONAL:
                continue
            file, top = file_of(name, path), name.split(".")[0]
            if file is not None:
                waiting.append(file)
            elif file_of(top, path) is None and is_foreign(top):
                foreign.setdefault(top, set()).add(here)
    return foreign


def declared():
    """Names of the distributions that setup.py asks for, by extra."""
    with mock.patch("setuptools.setup") as setup:
        runpy.run_path(str(ROOT / "setup.py"))
    options = setup.call_args.kwargs
    return {
        extra: {canonical(re.match(r"[\w.-]+", line)[0]) for line in lines}
        for extra, lines in {
            "": options["install_requires"],
            **options["extras_require"],
        }.items()
    }


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def installed():
    """Distributions by the names of what they let one import."""
    found = dict(packages_distributions())
    # Python 3.10 reads only a file that not every distribution has.
    for distribution in distributions():
        for file in distribution.files or ():
            name = file.parts[0]
            if len(file.parts) == 2 and file.name == "__init__.py":
                found.setdefault(name, []).append(distribution.metadata["Name"])
    return found


def not_brought(imports, extras):
    """Those imports that no distribution of some extras gives."""
    given = installed()
    asked = declared()
    brought = set().union(*(asked[extra] for extra in extras))
    return {
        name: sorted(files)
        for name, files in imports.items()
        if not brought & set(map(canonical, given.get(name, [name])))
    }


@pytest.mark.parametrize("extra", COMMANDS)
def test_an_extra_brings_what_its_commands_import(extra):
    imports = reached_from(COMMANDS[extra])
    imports.update({name: {extra} for name in BROUGHT.get(extra, ())})
    assert not not_brought(imports, {"", extra})


def test_all_extras_bring_what_tests_and_benchmarks_import():
    folders = ("tests", "benchmarks")
    own = {
        path.stem
        for folder in (*folders, "recipes")
        for path in (ROOT / folder).rglob("*")
        if path.suffix == ".py" or path.is_dir()
    }
    imports = {}
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            for name in imported_by(path):
                top = name.split(".")[0]
                if top not in own and is_foreign(top):
                    imports.setdefault(top, set()).add(path.name)
    # An independent implementation, compared with where it is installed.
    imports.pop("stepaudio2")
    assert not not_brought(imports, declared())


def test_what_no_extra_brings_is_noticed():
    imports = reached_from(["hparams/emotion_features/emotion2vec_base.yaml"])
    assert list(not_brought(imports, {""})) == ["funasr"]

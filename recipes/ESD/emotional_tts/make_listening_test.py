#!/usr/bin/env python3
"""Write a listening test as one web page that works without a server.

> python make_listening_test.py results/listening_test \
      --items results/emotional_tts/mini/1986/evaluation/utterances.csv \
      --system original=/path/to/wavs --system efilm=/path/to/other/wavs

Listeners rate emotion (EMOS) and naturalness (NMOS) of each recording from 1
to 5. The test is blind: `listening_test.html` names no system; `key.json`,
which stays with you, tells which recording is whose. Each listener hears all
recordings in an order of their own, among them checks that ask for certain
answers. Answers are saved as CSV, for score_listening_test.py.

Items are the rows of a CSV file with the columns `id` (or `utterance`) and
`asked`, the text with its marks (`<happy>We won</> <sad>but he left</>`), as
evaluate.py writes it. A system is a folder of `<id>.wav`.
"""

import argparse
import base64
import hashlib
import io
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from speechbrain_emofilm.dataio.audio import load_audio
from speechbrain_emofilm.dataio.markup import parse_markup
from speechbrain_emofilm.dataio.tables import read_table
from speechbrain_emofilm.utils.files import atomic_path, write_json

import soundfile

TEMPLATE = Path(__file__).with_name("listening_test.html")
EMOTIONS = ("neutral", "angry", "happy", "sad", "surprise")
SAMPLE_RATE = 24000
#: Files of the test.
PAGE, KEY = "listening_test.html", "key.json"


def read_items(
    path: str | Path, emotions: Sequence[str]
) -> dict[str, list[tuple[str, str]]]:
    """Read the items: id to words, each with its emotion ("" for none)."""
    items = {}
    for number, row in read_table(path, ["asked"]):
        name = row.get("id") or row.get("utterance")
        if not name or not row.get("asked"):
            raise ValueError(
                f"{path} line {number}: id (or utterance) and asked are "
                "needed; asked is the text with its marks."
            )
        try:
            marked = parse_markup(row["asked"], list(emotions))
        except ValueError as error:
            raise ValueError(f"{path} line {number}: {error}") from error
        items[name] = _words(marked, emotions)
    if not items:
        raise ValueError(f"{path}: the list is empty; add items.")
    return items


def _words(marked, emotions):
    """List the words with adjacent punctuation, and their emotions."""
    words = []
    starts = [word.start for word in marked.words] + [len(marked.text)]
    for word, start, end in zip(marked.words, starts, starts[1:]):
        heaviest = max(word.probs)
        emotion = emotions[word.probs.index(heaviest)] if heaviest else ""
        words.append((marked.text[start:end].strip(), emotion))
    return words


def find_recordings(
    names: Sequence[str], systems: Mapping[str, str | Path]
) -> dict[str, dict[str, Path]]:
    """Find each utterance in every system: id to system to file."""
    found = {
        name: {s: Path(folder) / f"{name}.wav" for s, folder in systems.items()}
        for name in names
    }
    missing = [
        path
        for files in found.values()
        for path in files.values()
        if not path.is_file()
    ]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} recordings are missing, the first: {missing[0]}. "
            "Every system must have spoken every item."
        )
    return found


def as_audio_url(path: str | Path) -> str:
    """Encode a recording losslessly as a data URL."""
    content = io.BytesIO()
    wav = load_audio(path, SAMPLE_RATE).numpy()
    soundfile.write(content, wav, SAMPLE_RATE, "PCM_16", format="FLAC")
    encoded = base64.b64encode(content.getvalue()).decode("ascii")
    return f"data:audio/flac;base64,{encoded}"


def make_listening_test(
    folder: str | Path,
    items: Mapping[str, Sequence[tuple[str, str]]],
    systems: Mapping[str, str | Path],
    n_items: int = 20,
    n_checks: int = 3,
    seed: int = 0,
) -> Path:
    """Write the page and its key; return the page's path."""
    if len(systems) < 2:
        raise ValueError(
            f"{len(systems)} system(s): a test compares two at least."
        )
    rng = random.Random(seed)
    names = sorted(rng.sample(sorted(items), min(n_items, len(items))))
    recordings = find_recordings(names, systems)
    test = hashlib.sha256(
        json.dumps([names, sorted(systems), seed]).encode()
    ).hexdigest()[:8]
    trials, key = [], {}
    pairs = [(name, system) for name in names for system in systems]
    rng.shuffle(pairs)  # their places would tell the systems
    for name, system in pairs:
        code = _code(trials, rng)
        key[code] = {"item": name, "system": system}
        audio = as_audio_url(recordings[name][system])
        trials.append({"code": code, "words": items[name], "audio": audio})
    for _ in range(n_checks):
        code = _code(trials, rng)
        check = {"emos": rng.randint(1, 5), "nmos": rng.randint(1, 5)}
        key[code] = {"check": check}
        audio = rng.choice(trials)["audio"]
        trials.append({"code": code, "check": check, "audio": audio})
    # A script element ends at the first "</", wherever it stands.
    data = json.dumps({"test": test, "trials": trials}).replace("</", "<\\/")
    page = TEMPLATE.read_text(encoding="utf-8").replace("__DATA__", data)
    folder = Path(folder)
    write_json(folder / KEY, {"test": test, "trials": key})
    with atomic_path(folder / PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return folder / PAGE


def _code(trials, rng):
    """Make a name for the next trial that reveals nothing."""
    return f"{len(trials):04d}{rng.getrandbits(32):08x}"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", help="where the page and its key go")
    parser.add_argument("--items", required=True, help="CSV: id, asked")
    parser.add_argument(
        "--system",
        action="append",
        required=True,
        metavar="NAME=FOLDER",
        help="a system and its folder of <id>.wav; give two or more",
    )
    parser.add_argument("--emotions", nargs="+", default=list(EMOTIONS))
    parser.add_argument("--n_items", type=int, default=20)
    parser.add_argument("--n_checks", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    systems = {}
    for option in args.system:
        name, equals, folder = option.partition("=")
        if not equals or name in systems:
            parser.error(f"--system {option}: give NAME=FOLDER, each once")
        systems[name] = folder
    page = make_listening_test(
        args.folder,
        read_items(args.items, args.emotions),
        systems,
        args.n_items,
        args.n_checks,
        args.seed,
    )
    print(f"{page} (send it to the listeners; keep {KEY})")


if __name__ == "__main__":
    main()

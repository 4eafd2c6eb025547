"""Create MiniESD, a small corpus in ESD's layout with true word labels.

python make_corpus.py OUTPUT_FOLDER

The styles are rules applied to one synthetic voice (``styles.py``), not acted
emotion. In addition to the kind of data that ESD has, the corpus holds the
truth about every word:

* ``0011/Angry/train/0011_000041.wav``, ``0011/0011.txt``: parallel sentences
  in five emotions per speaker, in ESD's layout. The words of a sentence carry
  its emotion to different degrees, and a share of them is neutral.
* ``transitions/0011/0011_t00001.wav``, ``transitions/0011.txt``: sentences
  whose emotion switches at a known word, as in FEDD;
  ``transitions/splits.json`` gives their splits.
* ``word_labels.json`` and ``textgrids/``: emotion, intensity, start and end
  of every word. ``asked.json``: the change of F0, level and duration that was
  asked for each word.

The same options give the same bytes. Evaluation and test sentences never occur
in training.
"""

import argparse
import multiprocessing
import random
from pathlib import Path

from speechbrain_emofilm.dataio.labels import (
    UtteranceLabels,
    WordLabel,
    write_label_textgrid,
    write_word_labels,
)
from speechbrain_emofilm.utils.files import atomic_path, read_json, write_json

from sentences import (
    EVALUATION,
    TEST,
    SentenceMaker,
    plain_words,
    spoken_words,
)
from styles import (
    ACTORS,
    EMOTIONS,
    SPEAKERS,
    asked_change,
    draw_sentence_words,
    draw_transition_words,
    emotion_prosody,
)
from tqdm import tqdm
from voice import shared_voice, write_speech

README = """# MiniESD

Speech of one synthetic English voice (hibari-tts 0.2.1, Apache-2.0), made
into {n_speakers} speakers by resampling, with rule-made prosodic styles that
stand for emotions. It is a test bed: nothing measured on it says anything
about human emotion. Made by `recipes/MiniESD/make_corpus.py`.

Options: `{options}`
"""
SPLITS = ("evaluation", "test", "train")  # ESD's order of file numbers
#: n_train, n_evaluation, n_test: sentences per speaker and emotion;
#: n_transitions: training sentences per speaker in the transitions part, which
#: also has the evaluation and test sentences; actor: see ``styles.ACTORS``.
DEFAULTS = {
    "n_train": 60,
    "n_evaluation": 15,
    "n_test": 40,
    "n_transitions": 150,
    "speakers": list(SPEAKERS),
    "actor": "first",
    "seed": 1986,
}


def plan_corpus(options):
    """List all utterances to synthesise, in a fixed order.

    Each has an id, a relative path, speaker, emotion (None for transitions),
    split, text, and the (emotion, intensity) of its words.
    """
    rng = random.Random(options["seed"])
    make = SentenceMaker(seed=rng.randrange(2**31))
    n_drawn = max(options["n_train"], options["n_transitions"])
    drawn = [make() for _ in range(n_drawn)]
    texts = {
        "evaluation": EVALUATION[: options["n_evaluation"]],
        "test": TEST[: options["n_test"]],
    }
    plan = []

    def add(uid, folder, speaker, emotion, split, text, words):
        plan.append(
            {
                "id": uid,
                "path": f"{folder}/{uid}.wav",
                "speaker": speaker,
                "emotion": emotion,
                "split": split,
                "text": text,
                "words": words,
            }
        )

    for speaker in options["speakers"]:
        number = 0
        for emotion in EMOTIONS:
            for split in SPLITS:
                for text in texts.get(split, drawn[: options["n_train"]]):
                    number += 1
                    n_words = len(plain_words(text))
                    words = draw_sentence_words(rng, emotion, n_words)
                    folder = f"{speaker}/{emotion.capitalize()}/{split}"
                    uid = f"{speaker}_{number:06d}"
                    add(uid, folder, speaker, emotion, split, text, words)
        number = 0
        for split in SPLITS:
            for text in texts.get(split, drawn[: options["n_transitions"]]):
                number += 1
                words = draw_transition_words(rng, len(plain_words(text)))
                folder = f"transitions/{speaker}"
                uid = f"{speaker}_t{number:05d}"
                add(uid, folder, speaker, None, split, text, words)
    return plan


def make_utterance(job):
    """Synthesise an utterance; return its duration and word times."""
    entry, root, actor = job
    prosody = [emotion_prosody(*word, actor) for word in entry["words"]]
    # A sentence has the same noise whenever the speaker says it.
    seed = random.Random(entry["speaker"] + entry["text"]).randrange(2**31)
    spoken = shared_voice().speak(
        spoken_words(entry["text"]), prosody, SPEAKERS[entry["speaker"]], seed
    )
    if spoken is None:
        return None
    return write_speech(Path(root) / entry["path"], spoken.wav), spoken.words


def _labels(entry, times):
    return UtteranceLabels(
        words=[
            WordLabel(
                word=word,
                start=round(start, 4),
                end=round(end, 4),
                emotion=emotion,
                intensity=intensity,
            )
            for word, (start, end), (emotion, intensity) in zip(
                plain_words(entry["text"]), times, entry["words"]
            )
        ],
        source={"labels": "truth of MiniESD"},
    )


def write_lists(root, made, actor):
    """Write transcripts, the splits of the transitions, and the truth."""
    transcripts, labels, asked, splits = {}, {}, {}, {}
    for entry, (duration, times) in made:
        uid, speaker = entry["id"], entry["speaker"]
        if entry["emotion"] is None:
            path = f"transitions/{speaker}.txt"
            line = f"{uid}\t{entry['text']}"
            splits[uid] = entry["split"]
        else:
            path = f"{speaker}/{speaker}.txt"
            line = f"{uid}\t{entry['text']}\t{entry['emotion'].capitalize()}"
        transcripts.setdefault(path, []).append(line)
        labels[uid] = _labels(entry, times)
        asked[uid] = [
            asked_change(emotion_prosody(*word, actor))
            for word in entry["words"]
        ]
        write_label_textgrid(
            root / "textgrids" / speaker / f"{uid}.TextGrid",
            labels[uid],
            duration,
        )
    for path, lines in transcripts.items():
        with atomic_path(root / path) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_word_labels(root / "word_labels.json", labels, EMOTIONS)
    write_json(root / "asked.json", asked)
    write_json(root / "transitions" / "splits.json", splits)


def make_corpus(root, workers=2, **options):
    """Create the corpus in a folder, unless it exists; return the folder.

    The options replace those of :data:`DEFAULTS`. Raises ValueError for an
    unknown option, speaker or actor, or if `root` holds a corpus, finished or
    not, that was created with other options.
    """
    root, options = Path(root), _complete(options)
    begun, done = root / "corpus.unfinished.json", root / "corpus.json"
    for record in (begun, done):
        if record.exists() and read_json(record) != options:
            raise ValueError(
                f"{root} holds MiniESD created with other options ({record}): "
                "choose another folder, or remove it."
            )
    if done.exists():
        return root
    write_json(begun, options)
    plan = plan_corpus(options)
    jobs = [(entry, str(root), options["actor"]) for entry in plan]
    with multiprocessing.Pool(workers) as pool:
        results = list(
            tqdm(
                pool.imap(make_utterance, jobs, chunksize=8),
                total=len(jobs),
                desc="MiniESD",
            )
        )
    made = [(entry, out) for entry, out in zip(plan, results) if out]
    lost = len(plan) - len(made)
    if lost > 0.1 * len(plan):
        raise RuntimeError(
            f"{lost} of {len(plan)} sentences cannot be synthesised: install "
            "hibari-tts 0.2.1."
        )
    write_lists(root, made, options["actor"])
    with atomic_path(root / "README.md") as temporary:
        temporary.write_text(
            README.format(n_speakers=len(options["speakers"]), options=options),
            encoding="utf-8",
        )
    begun.replace(done)
    return root


def _complete(options):
    """Add the default options; raise ValueError for unknown ones."""
    known = {"speakers": SPEAKERS, "actor": ACTORS, "options": DEFAULTS}
    options = {**DEFAULTS, **options}
    for what, names in (
        ("speakers", options["speakers"]),
        ("actor", [options["actor"]]),
        ("options", options),
    ):
        unknown = sorted(set(names) - set(known[what]))
        if unknown:
            raise ValueError(
                f"MiniESD has no {what} {', '.join(unknown)}: choose from "
                f"{', '.join(known[what])}."
            )
    return options


def main():
    """Create the corpus with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output_folder", type=Path)
    for name, default in DEFAULTS.items():
        if name == "speakers":
            parser.add_argument("--speakers", nargs="+", default=default)
        else:
            parser.add_argument(
                f"--{name}", type=type(default), default=default
            )
    parser.add_argument("--workers", type=int, default=2)
    options = vars(parser.parse_args())
    root = make_corpus(options.pop("output_folder"), **options)
    print(f"MiniESD is in {root}")


if __name__ == "__main__":
    main()

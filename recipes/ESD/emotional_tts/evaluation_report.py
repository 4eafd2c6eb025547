"""HTML page and table of the scores that evaluate.py computed."""

import platform
import re
from pathlib import Path

import speechbrain_emofilm  # noqa: F401  first: makes torchaudio importable on CPU
from speechbrain_emofilm.dataio.audio import load_audio
from speechbrain_emofilm.dataio.markup import parse_markup
from speechbrain_emofilm.evaluation.report import (
    INK,
    AskedWord,
    Estimate,
    Finding,
    Picture,
    Report,
    Sample,
    Score,
    Take,
    figure_png,
    write_report,
    write_score_table,
)
from speechbrain_emofilm.evaluation.scores import score_rows
from speechbrain_emofilm.evaluation.systems import split_kind
from speechbrain_emofilm.metrics.intelligibility import rate_of_language
from speechbrain_emofilm.processing.mel import SAMPLE_RATE
from speechbrain_emofilm.utils.colors import emotion_colors

import numpy as np
import speechbrain
import torch
import transformers

SYSTEMS = {
    "original": "Original",
    "copy_synthesis": "Copy synthesis (ceiling)",
    "backbone": "Frozen backbone (floor)",
    "efilm": "E-FiLM",
}
CAPTIONS = {
    **SYSTEMS,
    "per_span": "E-FiLM, voice of each span's emotion",
    "neutral_reading": "Neutral reading, natural",
    "neutral_copy": "Neutral reading, copy synthesis",
}
#: Kinds of voices behind the names of systems, where there are several.
VOICES = {
    "neutral": "neutral voice",
    "matched": "voice in the emotion asked for",
    "same": "voice of the utterance itself",
}
TITLE = "Words that change emotion: E-FiLM on held-out sentences"
TITLE_SENTENCES = "Sentences in several emotions: E-FiLM on held-out sentences"
INTRODUCTION = (
    "Each word is given an emotion, and E-FiLM makes a frozen speech language "
    "model speak it that way. All sentences on this page are held out: neither "
    "the backbone nor E-FiLM has been trained on them.",
    "Original: the corpus's own speech. Copy synthesis: its speech tokens "
    "decoded into speech, the best that the tokens allow. Frozen "
    "backbone: the same text without emotions, the floor. Further trainings "
    "of E-FiLM, if there are any, are asked for the same.",
)
SCORES_NOTE = (
    "Small print: 95 % intervals, by resampling the utterances. Changes are "
    "measured against the same speaker's neutral reading of the sentence; "
    "within-utterance correlations have the mean of each utterance removed. "
    "An utterance whose words cannot be found in the sound counts as a "
    "failure in every score, but is left out of the spread and the distance "
    "of F0; their number is given at the end of the page."
)
SENTENCES_NOTE = (
    "Small print: 95 % intervals, by resampling the utterances. References "
    "are the speaker's own readings of the same sentence in the emotion asked "
    "for. The corpus does not tell the emotion of each word, so that control "
    "of single words is not measured."
)
FINDINGS_NOTE = (
    "Four failures that trainings of this kind are known for, each with the "
    "scores that reveal it and their limits; the hyperparameters to change are "
    "named where one is found. Limits are relative to copy synthesis and, for "
    "the word error rate and f0_distance, to the frozen backbone. "
    "transition_accuracy: transitions as asked; f0_control: control of F0 "
    "within a sentence; f0_spread and f0_distance: spread of F0 and its "
    "distance from the original."
)
SAMPLES_NOTE = (
    "Chosen by their place in the test set, not by how they sound: first "
    "sentences whose emotion changes, then sentences of one emotion."
)
DIMENSIONS = {"f0": "F0", "energy": "energy", "duration": "duration"}
#: Curves of the training, by the panel that shows them: names in the log.
CURVES = {
    "loss": ("train loss", "valid loss"),
    "speech tokens: loss": ("valid speech_loss",),
    "emotion of words: accuracy": ("valid emotion_accuracy",),
    "modulation relative to the text": ("valid modulation_ratio",),
}
PANEL_WIDTH = 2.75  # inches, of a system in the pictures
UNITS = {"f0": "log F0", "energy": "dB", "duration": "log duration"}


def write_evaluation_report(
    path, scores, utterances, wavs, word_rows, synthesizer, hparams
):
    """Write the HTML page and the table of scores."""
    emotions = hparams["emotions"]
    systems = name_systems(scores, hparams["captions"])
    shown = choose_shown(utterances, hparams["n_shown"])
    aligner = hparams["aligner"]()
    samples = [demo_sample(synthesizer, hparams)]
    samples += [make_sample(u, wavs, aligner) for u in shown]
    model_folder = Path(hparams["model_folder"])
    curves = read_train_log(model_folder / "train_log.txt")
    rows = table(scores)
    write_score_table(Path(path).parent, rows, systems)
    control = all("transitions_as_asked" in s for s in scores.values())
    report = Report(
        title=TITLE if control else TITLE_SENTENCES,
        introduction=INTRODUCTION,
        systems=systems,
        emotions=emotions,
        scores=rows,
        samples=samples,
        pictures=[
            *(
                control_pictures(scores, word_rows, emotions, systems)
                if control
                else []
            ),
            Picture(
                "How it was trained",
                curves_png(curves),
                "By updates of the parameters. The accuracy is that of the "
                "auxiliary classifier, which tells little about how well the "
                "emotion is heard. Modulation far below 0.01 cannot be "
                "heard; around 1 and above it hides the text. "
                f"{last_diagnosis(model_folder / 'train_log.txt')}",
            ),
            *modulation_picture(Path(hparams["modulation_picture"])),
        ],
        findings=findings(scores, systems),
        findings_note=FINDINGS_NOTE,
        details=details(scores, utterances, hparams, systems),
        note=hparams["corpus_note"],
        scores_note=SCORES_NOTE if control else SENTENCES_NOTE,
        samples_note=SAMPLES_NOTE,
    )
    return write_report(path, report)


def control_pictures(scores, word_rows, emotions, systems):
    """Draw how single words were controlled."""
    return [
        Picture(
            "Asked and measured change of every word",
            scatter_png(word_rows, emotions, systems),
            "Words of the sentences whose emotion switches; across: the "
            "change that was asked for, upwards: the change that was "
            "measured, both without the mean of the utterance. The line "
            "is what was asked; rare outliers stand at the edge.",
        ),
        Picture(
            "Which emotion each word is heard as",
            confusion_png(scores, systems),
            "Rows: the emotion asked of a word; columns: the emotion "
            "that a classifier hears, which was trained on natural words "
            "of training sentences; last: the word was not found.",
        ),
    ]


def name_systems(names, captions):
    """Name the systems by `captions`, `SYSTEMS` or themselves."""
    known = {**CAPTIONS, **captions}
    named = {}
    for name in names:
        system, kind = split_kind(name)
        named[name] = known.get(name, name)
        if kind and name not in known:
            named[name] = f"{known.get(system, system)}, {VOICES[kind]}"
    return named


# --- Scores ---------------------------------------------------------------


def table(scores):
    """Make the rows of the table of scores."""

    def row(name, meaning, find, value, **options):
        values = {}
        for system, entry in scores.items():
            found = find(entry)
            if found is not None and found[value] is not None:
                values[system] = Estimate(
                    found[value], found["low"], found["high"]
                )
        return Score(name, meaning, values, **options)

    percent = {"format": "{:.1%}"}
    semitones = {"format": "{:.2f} st", "highest": 12.0}
    rows = [
        row(
            "Word error rate",
            "Words that Whisper misunderstands; lower is better.",
            lambda e: rate_of_language(e["wer"], "en"),
            "wer",
            **percent,
        ),
        row(
            "Character error rate, Mandarin",
            "Chinese characters that Whisper misunderstands; lower is better.",
            lambda e: rate_of_language(e["wer"], "zh"),
            "cer",
            **percent,
        ),
        row(
            "Word emotion accuracy",
            "Words heard as the emotion they were given; chance is one in "
            "the number of emotions.",
            lambda e: e.get("word_emotion_accuracy"),
            "accuracy",
            **percent,
        ),
        row(
            "Transitions as asked",
            "Switches of emotion at which F0, energy and duration move in "
            "the asked direction; chance is 50 %.",
            lambda e: e.get("transitions_as_asked"),
            "share",
            **percent,
        ),
    ]
    for key, name in DIMENSIONS.items():
        rows.append(
            row(
                f"Control of {name} within a sentence",
                "Correlation of asked and measured change from word to word.",
                lambda e, key=key: e.get(
                    "within_utterance_correlation", {}
                ).get(key),
                "correlation",
            )
        )
    rows += [
        row(
            "Spread of F0",
            "Change of F0 from word to word: standard deviation within a "
            "sentence, in semitones; near the original's is better.",
            lambda e: e.get("f0_spread"),
            "f0_spread",
            **semitones,
        ),
        row(
            "Distance of F0 from the original",
            "Mean difference of the words' changes of F0, which dynamic time "
            "warping has found, in semitones; lower is better.",
            lambda e: e.get("f0_distance"),
            "f0_distance",
            **semitones,
        ),
    ]
    if any("mos" in entry for entry in scores.values()):
        rows.append(
            row(
                "Predicted MOS",
                "DistillMOS, 1 to 5.",
                lambda e: e.get("mos"),
                "mos",
                highest=5.0,
            )
        )
    names = {row.name for row in rows}
    added = {system: e.get("scores", {}) for system, e in scores.items()}
    rows += [row for row in score_rows(added) if row.name not in names]
    return [row for row in rows if row.values]


def details(scores, utterances, hparams, systems=SYSTEMS):
    """Collect the options and package versions shown at the end of the page."""
    n_mixed = sum(u.part == "mixed" for u in utterances)
    options = (
        "data_folder", "model_folder", "backbone_folder", "guidance",
        "synthesis_seed", "n_classifier", "baseline_emotion",
        "compared_models",
    )  # fmt: skip
    return {
        "Evaluation": {
            "utterances whose emotion switches": n_mixed,
            "utterances of one emotion": len(utterances) - n_mixed,
            "speakers": len({u.speaker for u in utterances}),
            **{
                f"not aligned, {systems[name]}": len(entry["not_aligned"])
                for name, entry in scores.items()
                if "not_aligned" in entry
            },
        },
        "Options": {name: hparams[name] for name in options},
        "Versions": {
            "speechbrain-emofilm": speechbrain_emofilm.__version__,
            "speechbrain": speechbrain.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "Training": read_config(Path(hparams["model_folder"])),
    }


def findings(scores, systems=SYSTEMS):
    """List the verdicts on known failures of the trained systems."""
    return [
        Finding(
            system=systems.get(system, system),
            failure=judged["name"],
            verdict=judged["verdict"],
            scores=judged["figures"],
            remedies=judged["hparams"] if judged["verdict"] == "found" else (),
        )
        for system, entry in scores.items()
        for judged in entry.get("diagnosis", ())
    ]


def read_config(folder):
    """Read the hyperparameters of a training as text."""
    path = folder / "hyperparams.yaml"
    if not path.is_file():
        return f"{path} does not exist."
    return path.read_text(encoding="utf-8")


# --- Samples --------------------------------------------------------------


def choose_shown(utterances, n):
    """Choose at most n utterances evenly, three quarters of them mixed."""
    mixed = [u for u in utterances if u.part == "mixed"]
    single = [u for u in utterances if u.part == "single"]
    n_single = min(max(n // 4, n - len(mixed)), len(single))
    chosen = []
    for group, size in ((mixed, n - n_single), (single, n_single)):
        size = min(size, len(group))
        chosen += [group[i * len(group) // size] for i in range(size)]
    return chosen


def make_sample(utterance, wavs, aligner):
    """Collect an utterance as spoken by every system."""
    takes = []
    for system, files in wavs.items():
        wav = load_audio(files[utterance.id])
        note = ""
        # Tokens keep their places in copy synthesis.
        kept = split_kind(system)[0] in ("original", "copy_synthesis")
        words = utterance.labels.alignment()
        if not (kept and any(word.end for word in words)):
            try:
                words = aligner.align(wav, SAMPLE_RATE, utterance.text)
            except ValueError:
                words, note = [], "its words were not found"
        takes.append(Take(system, wav.numpy(), SAMPLE_RATE, words, note))
    asked = [
        AskedWord(word.word, word.emotion, word.intensity or 0.0)
        for word in utterance.labels.words
    ]
    title = f"“{utterance.text}” · speaker {utterance.speaker}"
    return Sample(title, asked, takes)


def demo_sample(synthesizer, hparams):
    """Speak the marked-up sentence of the hparams, neutral and as marked."""
    text = hparams["demo_text"]
    marked = parse_markup(text, hparams["emotions"])
    options = {
        "seed": hparams["synthesis_seed"],
        "guidance": hparams["guidance"],
    }
    neutral = parse_markup(marked.text, hparams["emotions"], "neutral")
    spoken = {
        "every word neutral": (neutral, {"unmarked": "neutral"}),
        "as marked": (parse_markup(text, hparams["emotions"]), {}),
    }
    takes = []
    for note, (request, choice) in spoken.items():
        result = synthesizer.synthesize(
            marked.text if choice else text, **choice, **options
        )
        words = result.words
        if result.word_times_source == "proportional":
            words, note = [], f"{note}; its words were not found"
        takes.append(
            Take(
                "efilm",
                result.wav.numpy(),
                result.sample_rate,
                words,
                note,
                asked_words(request, hparams["emotions"]),
            )
        )
    return Sample(f"emofilm say “{text}”", takes[-1].asked, takes)


def asked_words(marked, emotions):
    """List the words of a marked text with their strongest emotions."""
    asked = []
    weights, intensities = marked.tensors()
    for word, row, intensity in zip(marked.words, weights, intensities):
        emotion = emotions[row.argmax()] if row.sum() > 0 else None
        asked.append(AskedWord(word.word, emotion, float(intensity)))
    return asked


# --- Pictures -------------------------------------------------------------


def scatter_png(word_rows, emotions, systems=SYSTEMS):
    """Plot asked against measured change, by system and dimension."""
    from matplotlib.figure import Figure as Canvas

    size = (PANEL_WIDTH * len(systems), 7)
    canvas = Canvas(figsize=size, layout="constrained")
    grid = canvas.subplots(
        len(DIMENSIONS), len(systems), sharex="row", sharey="row", squeeze=False
    )
    rows = [r for r in word_rows if r["part"] == "mixed" and r["f0"] != ""]
    for line, key in zip(grid, DIMENSIONS):
        _scatter(dict(zip(systems, line)), rows, key, emotion_colors(emotions))
        line[0].set_ylabel(f"measured, {UNITS[key]}", color=INK, fontsize=9)
    for axes, name in zip(grid[0], systems.values()):
        axes.set_title(name, color=INK, fontsize=10)
    for axes in grid[-1]:
        axes.set_xlabel("asked", color=INK, fontsize=9)
    return figure_png(canvas)


def _scatter(panels, rows, key, colors):
    """Plot one dimension of every system on the same scale."""
    measured = {}
    for system in panels:
        own = [row for row in rows if row["system"] == system]
        measured[system] = _centred(own, key)
    everything = np.concatenate([*measured.values(), [-0.1, 0.1]])
    low, high = 1.2 * np.quantile(everything, [0.005, 0.995])
    for system, axes in panels.items():
        own = [row for row in rows if row["system"] == system]
        axes.scatter(
            _centred(own, f"asked_{key}"),
            np.clip(measured[system], low, high),
            s=9,
            alpha=0.6,
            c=[colors[row["emotion"]] for row in own],
        )
        axes.axline((0, 0), slope=1, color=INK, linewidth=0.8)
        axes.set_ylim(1.05 * low, 1.05 * high)
        axes.tick_params(colors=INK, labelsize=8, length=2)
        for spine in axes.spines.values():
            spine.set_color(INK)
            spine.set_alpha(0.4)


def _centred(rows, key):
    """Return a column without the mean of each utterance."""
    if not rows:
        return np.zeros(0)
    values = np.array([row[key] for row in rows], dtype=float)
    names = np.array([row["utterance"] for row in rows])
    _, group = np.unique(names, return_inverse=True)
    means = np.bincount(group, values) / np.bincount(group)
    return values - means[group]


def read_train_log(path):
    """Read the curves of a training: name, such as "valid loss", to values
    (E,).
    """
    curves = {}
    lines = path.read_text(encoding="utf-8") if path.is_file() else ""
    for line in lines.splitlines():
        if not line.startswith("epoch: "):
            continue  # the test, after the training
        for name, value in re.findall(r"([\w ]+): ([-+.\w]+)", line):
            curves.setdefault(name.strip(), []).append(float(value))
    return {name: np.array(values) for name, values in curves.items()}


def last_diagnosis(path):
    """Quote the last validation's diagnosis from the training log, if any."""
    lines = path.read_text(encoding="utf-8") if path.is_file() else ""
    found = re.findall(
        r"^diagnosis of (epoch \d+: .*?) - ", lines, re.MULTILINE
    )
    return f"Diagnosis of its last {found[-1]}." if found else ""


def modulation_picture(path):
    """Read the picture of gamma and beta, if analyze_modulation.py has drawn
    it.
    """
    if not path.is_file():
        return []
    return [
        Picture(
            "Modulation of the text by the emotions",
            path.read_bytes(),
            "Gamma and beta of every emotion at ten intensities, and of "
            "mixtures of two; made by analyze_modulation.py.",
        )
    ]


def curves_png(curves):
    """Plot losses and statistics of the training by step."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(11, 2.6), layout="constrained")
    grid = canvas.subplots(1, len(CURVES))
    for axes, (title, names) in zip(grid, CURVES.items()):
        for name in names:
            if name in curves:
                axes.plot(
                    curves["step"],
                    curves[name],
                    ".-",
                    linewidth=1.2,
                    label=name.split()[0],
                )
        if len(names) > 1 and names[0] in curves:
            axes.legend(fontsize=8, frameon=False, labelcolor=INK)
        axes.set_title(title, color=INK, fontsize=9)
        axes.tick_params(colors=INK, labelsize=8, length=2)
        for spine in axes.spines.values():
            spine.set_color(INK)
            spine.set_alpha(0.4)
    return figure_png(canvas)


def confusion_png(scores, systems=SYSTEMS):
    """Plot asked against recognised emotions, by system."""
    from matplotlib.figure import Figure as Canvas

    size = (PANEL_WIDTH * len(scores), 3.1)
    canvas = Canvas(figsize=size, layout="constrained")
    grid = canvas.subplots(1, len(scores), sharey=True, squeeze=False)[0]
    for axes, (system, entry) in zip(grid, scores.items()):
        accuracy = entry["word_emotion_accuracy"]
        counts = np.array(accuracy["confusion"])
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), value in np.ndenumerate(shares):
            axes.text(
                column,
                row,
                f"{100 * value:.0f}",
                color="white" if value > 0.5 else "#333333",
                fontsize=8,
                ha="center",
                va="center",
            )
        names = accuracy["emotions"]
        axes.set_xticks(
            range(len(names) + 1),
            [*names, "not found"],
            rotation=40,
            ha="right",
        )
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(colors=INK, labelsize=8, length=0)
        axes.set_title(systems[system], color=INK, fontsize=10)
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure_png(canvas)

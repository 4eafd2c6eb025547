#!/usr/bin/env python3
"""Compare a model before and after preference training on held-out sentences.

> python evaluate_preference.py hparams/prefer_mini.yaml \
    --data_folder /path/to/ESD

Two judges hear the words' emotions: the one that has rewarded the readings,
and one that shares neither training sentences nor features with it. A model
that has learned what pleases the first only does not please the second. What
reward hacking costs elsewhere is looked for, too: words (a recogniser, and an
aligner), predicted naturalness and the similarity of the speaker. `after` is
the output folder of prefer.py; `compared_models` adds more of them.

It writes `summary.json`, `table.md` and `utterances.csv` to
`evaluation_folder`. Differences are of pairs of utterances, so that those
between sentences do not count. The same command repeats only what has changed.
"""

import sys
from pathlib import Path

import speechbrain_emofilm  # noqa: F401  first: makes torchaudio importable on CPU
from speechbrain_emofilm.dataio.speech_tokens import read_speech_tokens
from speechbrain_emofilm.evaluation.measuring import MeasuringPool
from speechbrain_emofilm.evaluation.report import markdown_table
from speechbrain_emofilm.evaluation.systems import (
    choose_voice,
    copy_system,
    load_compared,
    spoken_system,
    synthesise,
)
from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer
from speechbrain_emofilm.metrics.bootstrap import estimate, share
from speechbrain_emofilm.metrics.control import WordEmotionClassifier
from speechbrain_emofilm.metrics.intelligibility import WordErrorRate
from speechbrain_emofilm.metrics.row_stats import write_csv
from speechbrain_emofilm.utils.files import (
    atomic_path,
    file_fingerprint,
    write_json,
)

import numpy as np
import speechbrain as sb
import torch
from esd_corpus import corpus_manifests, prepare_corpus
from evaluate import (
    as_reading,
    choose_for_classifier,
    choose_mixed,
    choose_single,
    decode_neutral,
    neutral_readings,
    place_of,
)
from hyperpyyaml import load_hyperpyyaml
from preference_judge import (
    check_independence,
    compared_reading,
    evaluation_record,
    judged_utterances,
    sentence_halves,
    train_reward_judge,
)
from speechbrain.utils.distributed import infer_device
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

#: Scores: name to heading, number format, and whether more is better (1),
#: worse (-1) or neither (0).
SCORES = {
    "independent_judge": ("Words as asked, independent judge", "{:.1%}", 1),
    "reward_judge": ("Words as asked, rewarding judge", "{:.1%}", 1),
    "wer": ("Word error rate", "{:.1%}", -1),
    "not_found": ("Sentences whose words are not found", "{:.1%}", -1),
    "mos": ("Predicted MOS", "{:.2f}", 1),
    "speaker_similarity": ("Speaker similarity", "{:.3f}", 1),
    "seconds": ("Duration, s", "{:.2f}", 0),
}
#: What a gain of the rewarding judge must not cost.
COSTS = ("independent_judge", "wer", "not_found", "mos", "speaker_similarity")


# --- Speech ---------------------------------------------------------------


def make_speakers(hparams, device):
    """Make the systems: name to a list of systems, one for each seed."""
    folders = {
        "before": hparams["model_folder"],
        "after": hparams["output_folder"],
    }
    models = {
        name: EmoFiLMSynthesizer.from_hparams(
            folder, run_opts={"device": device}
        )
        for name, folder in folders.items()
    }
    models.update(load_compared(hparams["compared_models"], device))

    def voice_in(model):
        return lambda u: choose_voice(
            u, model.speakers, hparams["baseline_emotion"]
        )

    systems = {
        name: [
            spoken_system(
                Path(hparams["evaluation_folder"]) / f"{name}_{seed}",
                model,
                seed,
                hparams["guidance"],
                voice=voice_in(model),
            )
            for seed in hparams["evaluation_seeds"]
        ]
        for name, model in models.items()
    }
    tokens = read_speech_tokens(hparams["speech_tokens"]).tokens
    model = models["before"]
    copier = copy_system(
        Path(hparams["evaluation_folder"]) / "copy_synthesis",
        model.mods.token_to_wav,
        lambda u: tokens[u.id].to(device),
        file_fingerprint(hparams["speech_tokens"]),
        voice_in(model),
    )
    return systems, copier


def choose_tested(hparams):
    """Choose held-out sentences: some whose emotion switches, some without."""
    utterances = judged_utterances(corpus_manifests(hparams, ["test"]), hparams)
    emotion = hparams["baseline_emotion"]
    neutral = neutral_readings(utterances, emotion)
    chosen = choose_mixed(utterances, neutral, hparams["n_test_mixed"])
    chosen += choose_single(
        utterances, neutral, hparams["n_test_single"], emotion
    )
    if not chosen:
        raise ValueError(
            f"{', '.join(map(str, corpus_manifests(hparams, ['test'])))} have "
            f"no sentence with a {emotion} reading by the same speaker: check "
            "the manifests, n_test_mixed and n_test_single."
        )
    return chosen, neutral


# --- Judges ---------------------------------------------------------------


def train_judges(pool, hparams):
    """Train the rewarding judge and the independent one; check they are."""
    folder = Path(hparams["readings_folder"]) / "natural_speech"
    emotion = hparams["baseline_emotion"]
    utterances = judged_utterances(
        corpus_manifests(hparams, ["train"]), hparams
    )
    rewarding, others = sentence_halves(utterances)
    judge = train_reward_judge(
        pool, rewarding, neutral_readings(rewarding, emotion), hparams, folder
    )
    neutral = neutral_readings(others, emotion)
    heard = choose_for_classifier(
        others, neutral, hparams["n_classifier"], emotion
    )
    heard.sort(key=lambda u: (u.speaker, u.text))  # to share the baselines
    record = evaluation_record(
        {u.id for u in heard} | {neutral[u.speaker, u.text].id for u in heard}
    )
    check_independence(judge.record, record)
    measured = pool.measure(
        {u.id: compared_reading(u, u.wav, neutral, ("change",)) for u in heard},
        folder,
        "Measuring, natural speech for the independent judge",
    )
    changes, emotions = [], []
    for u in heard:
        found = measured[u.id].change or []
        if len(found) != len(u.emotions):
            continue
        for change, own in zip(found, u.emotions):
            if own:
                changes.append(change)
                emotions.append(own)
    classifier = WordEmotionClassifier.fit(np.array(changes), emotions)
    return judge, classifier, {"reward": judge.record, "independent": record}


# --- Scores ---------------------------------------------------------------


def score_utterance(u, measured, baseline, original, judge, classifier):
    """Score one reading: score to its sums, a numerator and a denominator.

    An utterance whose words are not found has none as asked.
    """
    asked = [index for index, emotion in enumerate(u.emotions) if emotion]
    wer = WordErrorRate()
    wer.append([u.id], [measured.recognised or ""], [u.text])
    row = wer.rows[0]
    errors = sum(row[k] for k in ("insertions", "deletions", "substitutions"))
    by_prosody = None
    if measured.change is not None:
        by_prosody = classifier.predict(np.array(measured.change))
    by_reward = None
    posteriors = judge.posteriors(u.speaker, measured, baseline)
    if posteriors is not None:
        by_reward = [judge.emotions[i] for i in posteriors.argmax(1)]
    sums = {
        "wer": (errors, row["words"]),
        "not_found": (float(measured.words is None), 1),
    }
    for name, heard in (
        ("independent_judge", by_prosody),
        ("reward_judge", by_reward),
    ):
        right = 0
        if heard is not None and len(heard) == len(u.emotions):
            right = sum(heard[i] == u.emotions[i] for i in asked)
        sums[name] = (right, len(asked))
    if measured.mos is not None:
        sums["mos"] = (measured.mos, 1)
    if measured.speaker is not None and original.speaker is not None:
        cosine = torch.cosine_similarity(
            measured.speaker, original.speaker, dim=0
        )
        sums["speaker_similarity"] = (float(cosine), 1)
    if len(measured.energy):
        sums["seconds"] = (len(measured.energy) / 200, 1)
    return sums


def add_sums(rows):
    """Add the sums of several readings of an utterance."""
    total = {}
    for row in rows:
        for name, sums in row.items():
            total[name] = np.array(sums, dtype=float) + total.get(name, 0)
    return total


def summarise(table):
    """Estimate every score of every system: table is system to utterance to
    score to sums.
    """
    summary = {}
    for system, rows in table.items():
        summary[system] = {}
        for name in SCORES:
            sums = [row[name] for row in rows.values() if name in row]
            if sums:
                summary[system][name] = estimate(name, share, np.array(sums))
    return summary


def difference(sums):
    """Subtract the second share from the first: sums (..., 4)."""
    return share(sums[..., :2]) - share(sums[..., 2:])


def compare(ours, theirs):
    """Estimate the differences of two systems, in pairs of utterances."""
    found = {}
    for name in SCORES:
        sums = [
            [*row[name], *theirs[u][name]]
            for u, row in ours.items()
            if name in row and name in theirs.get(u, {})
        ]
        if sums:
            found[name] = estimate("difference", difference, np.array(sums))
    return found


def judge_gain(differences):
    """Say what the training has gained, and what it has cost.

    A difference counts where its 95 % interval leaves out 0.
    """

    def moved(name):
        entry = differences.get(name)
        better = SCORES[name][2]
        if entry is None or entry["low"] <= 0 <= entry["high"]:
            return 0
        return better * int(np.sign(entry["difference"]))

    costs = [SCORES[n][0] for n in COSTS if moved(n) < 0]
    if moved("independent_judge") > 0:
        verdict = "gain: the independent judge hears it"
    elif moved("reward_judge") > 0:
        verdict = (
            "reward hacking: only the judge that has rewarded hears a gain"
        )
    else:
        verdict = "no gain: neither judge hears a difference"
        if min(moved("independent_judge"), moved("reward_judge")) < 0:
            verdict = "loss: the emotions are heard less clearly"
    if costs:
        verdict += f"; worse: {', '.join(costs)}"
    return verdict


def write_table(path, summary, differences, verdicts, n_utterances):
    """Write the scores of all systems, and their differences to `before`."""

    def written(name, entry, key, sign=""):
        if entry is None:
            return ""
        form = SCORES[name][1]
        signed = form.replace("{:", "{:+") if sign else form
        value, low, high = (entry[k] for k in (key, "low", "high"))
        return (
            f"{signed.format(value)} [{signed.format(low)}, "
            f"{signed.format(high)}]"
        )

    compared = [f"{name} − before" for name in differences]
    lines = [["", *summary, *compared]]
    for name, (heading, *_) in SCORES.items():
        if any(name in own for own in summary.values()):
            lines.append(
                [
                    heading,
                    *(
                        written(name, s.get(name), name)
                        for s in summary.values()
                    ),
                    *(
                        written(name, own.get(name), "difference", "+")
                        for own in differences.values()
                    ),
                ]
            )
    text = markdown_table(lines)
    text += f"\n\n95 % intervals over {n_utterances} held-out sentences.\n"
    for name, verdict in verdicts.items():
        text += f"\n- {name}: {verdict}"
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return text


def score_all(pool, wavs, chosen, neutral, hparams):
    """Measure and score every system: table, and the judges' records.

    `wavs` is system to a list of utterance id to wav, and `neutral` system to
    the neutral readings that its speech is compared with.
    """
    judge, classifier, records = train_judges(pool, hparams)
    folder = Path(hparams["evaluation_folder"]) / "measurements"
    table, originals = {}, None
    for name, readings in wavs.items():
        baselines = pool.measure(
            {
                place_of(u): as_reading(
                    u,
                    neutral[name][u.speaker, u.text].wav,
                    only=("words", "features"),
                )
                for u in chosen
            },
            folder,
            f"Measuring, neutral readings for {name}",
        )
        measured = [
            pool.measure(
                {
                    u.id: compared_reading(u, own[u.id], neutral[name])
                    for u in chosen
                },
                folder,
                f"Measuring, {name}",
            )
            for own in readings
        ]
        originals = originals or measured[0]
        table[name] = {
            u.id: add_sums(
                score_utterance(
                    u,
                    own[u.id],
                    baselines[place_of(u)],
                    originals[u.id],
                    judge,
                    classifier,
                )
                for own in measured
            )
            for u in chosen
        }
    return table, records


if __name__ == "__main__":
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    with open(hparams_file, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    folder = Path(hparams["evaluation_folder"])
    prepare_corpus(hparams)
    chosen, neutral = choose_tested(hparams)

    # Speech
    systems, copier = make_speakers(
        hparams, run_opts.get("device") or infer_device()
    )
    work = hparams["batch_size"], hparams["sample_rate"]
    wavs = {"original": [{u.id: u.wav for u in chosen}]}
    wavs["copy_synthesis"] = [
        synthesise("copy_synthesis", copier, chosen, *work)
    ]
    for name, own in systems.items():
        wavs[name] = [synthesise(name, s, chosen, *work) for s in own]
    decoded = decode_neutral(
        {"copy_synthesis": copier},
        chosen,
        neutral,
        {**hparams, "reference_folder": folder},
    )

    # Scores
    tools = {
        "aligner": hparams["aligner"],
        "asr": hparams["asr"],
        "mos": hparams["mos"],
        "emotion_features": hparams["reward_features"],
        "speaker_encoder": hparams["speaker_encoder"],
    }
    with MeasuringPool(tools, hparams["workers"], True) as pool:
        table, records = score_all(
            pool,
            wavs,
            chosen,
            {n: neutral if n == "original" else decoded for n in wavs},
            hparams,
        )

    # Results
    summary = summarise(table)
    differences = {
        name: compare(table[name], table["before"])
        for name in systems
        if name != "before"
    }
    verdicts = {name: judge_gain(own) for name, own in differences.items()}
    write_json(
        folder / "summary.json",
        {
            "scores": summary,
            "differences": differences,
            "verdicts": verdicts,
            "utterances": len(chosen),
            "seeds": list(hparams["evaluation_seeds"]),
            "judges": records,
        },
    )
    rows = [
        {
            "system": system,
            "utterance": utterance,
            **{n: round(float(share(sums)), 4) for n, sums in row.items()},
        }
        for system, own in table.items()
        for utterance, row in own.items()
    ]
    write_csv(folder / "utterances.csv", rows)
    print(
        write_table(
            folder / "table.md", summary, differences, verdicts, len(chosen)
        )
    )

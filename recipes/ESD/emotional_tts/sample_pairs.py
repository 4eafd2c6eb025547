#!/usr/bin/env python3
"""Sample readings of a trained model and rank them, for prefer.py.

> python sample_pairs.py hparams/prefer_mini.yaml --data_folder /path/to/ESD

Training sentences are spoken several times in the emotions of the corpus. Each
reading gets a score from 0 to 1 and more: how clearly a judge, which has heard
natural speech only, hears the asked emotion in every word; and the shares of
words that a recogniser misses, or that the model itself skips (`coverage`).
Of two readings whose scores differ by `margin` or more, the better one is
chosen, unless it has lost more words than the other.

The judge learns from half of the training sentences; readings are of the
other half. The same command continues after an interruption; another model,
or another way of sampling, makes readings of its own. With torchrun, several
processes share the sampling.
"""

import hashlib
import json
import os
import random
import sys
from pathlib import Path

import speechbrain_emofilm  # noqa: F401  first: makes torchaudio importable on CPU
from speechbrain_emofilm.dataio.speech_tokens import (
    SpeechTokenCache,
    merge_parts,
    read_speech_tokens,
    stored_tokens,
    write_part,
)
from speechbrain_emofilm.evaluation.measuring import MeasuringPool, Reading
from speechbrain_emofilm.evaluation.systems import (
    choose_voice,
    fingerprint,
    write_wav,
)
from speechbrain_emofilm.metrics.intelligibility import WordErrorRate
from speechbrain_emofilm.utils.distributed import (
    ddp_leave_group,
    process_device,
)
from speechbrain_emofilm.utils.files import write_json
from speechbrain_emofilm.utils.hparams import check_overrides
from speechbrain_emofilm.utils.sharding import extract_in_shares

import speechbrain as sb
import torch
from esd_corpus import corpus_manifests, prepare_corpus
from evaluate import neutral_readings, place_of
from hyperpyyaml import load_hyperpyyaml
from prefer import load_start, prompt_finder
from preference_judge import (
    check_independence,
    evaluation_record,
    judged_utterances,
    mean_probability,
    sentence_halves,
    train_reward_judge,
)
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger
from tqdm import tqdm
from train import dataio_prepare, model_inputs

logger = get_logger(__name__)


# --- Sampling -------------------------------------------------------------


def choose_sampled(candidates, hparams):
    """Choose the utterances to speak; a larger number adds to the same ones."""
    chosen = []
    for part, n in (
        ("mixed", hparams["n_mixed"]),
        ("single", hparams["n_single"]),
    ):
        own = sorted(u.id for u in candidates.values() if u.part == part)
        random.Random(hparams["seed"]).shuffle(own)
        chosen += own[:n]
    return {name: candidates[name] for name in sorted(chosen)}


class Sampler:
    """Speaks utterances of a dataset of train.py with a trained model."""

    def __init__(self, synthesizer, dataset, hparams):
        self.synthesizer = synthesizer
        self.dataset = dataset
        self.places = {name: i for i, name in enumerate(dataset.data_ids)}
        self.guidance = hparams["sampling_guidance"]
        self.baseline_emotion = hparams["baseline_emotion"]
        self.prompt_of = prompt_finder(synthesizer, self.baseline_emotion)
        self.generation = dict(
            getattr(synthesizer.hparams, "generation", {}),
            **hparams["sampling"],
        )

    @property
    def version(self):
        """Hash of everything that changes the readings, but their seeds."""
        options = json.dumps(
            self.generation,
            default=lambda part: [type(part).__name__, vars(part)],
        )
        model = fingerprint(
            self.synthesizer.mods, options, self.guidance, self.baseline_emotion
        )
        return model

    def voice_of(self, utterance):
        """Name the voice of an utterance."""
        return choose_voice(
            utterance, self.synthesizer.speakers, self.baseline_emotion
        )

    def inputs(self, utterances, speech=None):
        """Build the model's inputs, with other speech tokens if given."""
        items = []
        for index, u in enumerate(utterances):
            item = dict(self.dataset[self.places[u.id]])
            if speech is not None:
                item["speech_tokens"] = speech[index]
                item["word_of_speech"] = torch.full_like(speech[index], -1)
            items.append(item)
        batch = PaddedBatch(items).to(self.synthesizer.device)
        inputs = model_inputs(batch)
        prompts = [
            self.prompt_of(u.id, u.speaker, u.emotion) for u in utterances
        ]
        if any(prompt is not None for prompt in prompts):
            inputs = inputs.behind(prompts)
        return inputs, prompts

    @torch.no_grad()
    def speak(self, utterances, seeds):
        """Generate speech tokens (S_i,), in which words may be missing."""
        inputs, prompts = self.inputs(utterances)
        emofilm = self.synthesizer.mods.emofilm

        def condition(emotions):
            return emofilm.condition(
                text_tokens=inputs.text_tokens,
                text_lens=inputs.text_lens,
                word_of_token=inputs.word_of_token,
                word_emotions=emotions,
                word_intensity=inputs.word_intensity,
            ).text_embeddings

        options = dict(self.generation)
        if inputs.n_prompt is not None:
            width = max(int(inputs.n_prompt.max()), 1)
            options["prompt_speech_tokens"] = inputs.speech_tokens[:, :width]
            options["prompt_speech_lens"] = inputs.n_prompt / width
        if self.guidance != 1:
            options["unconditional_embeddings"] = condition(
                torch.zeros_like(inputs.word_emotions)
            )
        n_text = torch.round(inputs.text_lens * inputs.text_tokens.shape[1])
        positions = torch.arange(
            inputs.text_tokens.shape[1], device=n_text.device
        )
        spoken = (inputs.word_of_token >= 0) & (positions < n_text[:, None])
        return emofilm.llm.generate(
            condition(inputs.word_emotions),
            inputs.text_lens,
            guidance=self.guidance,
            n_target_text=spoken.sum(1).tolist(),
            seeds=seeds,
            **options,
        )

    @torch.no_grad()
    def decode(self, utterances, tokens):
        """Decode speech tokens into waves with the utterances' voices."""
        device = self.synthesizer.device
        return self.synthesizer.mods.token_to_wav(
            [own.to(device) for own in tokens],
            [self.voice_of(u) for u in utterances],
        )


def reading_name(utterance, index):
    """Name a reading of an utterance."""
    return f"{utterance}@{index}"


def wav_path(folder, name):
    """Place the wav of a reading."""
    return Path(folder) / "wavs" / f"{name}.wav"


def sample_readings(sampler, chosen, hparams, folder):
    """Speak every chosen utterance several times; only what is missing.

    Returns the speech tokens by the readings' names, those without speech
    left out.
    """
    path = folder / "speech_tokens.safetensors"
    version = sampler.version
    names = {
        reading_name(u, index): (chosen[u], index)
        for u in chosen
        for index in range(hparams["n_readings"])
    }

    def find_pending():
        stored = stored_tokens(path, version).tokens
        return [
            name
            for name in names
            if name not in stored
            or (len(stored[name]) and not wav_path(folder, name).is_file())
        ]

    def sample(pending):
        size = hparams["sampling_batch_size"]
        for start in tqdm(
            range(0, len(pending), size), "Sampling", disable=not pending
        ):
            batch = pending[start : start + size]
            utterances = [names[name][0] for name in batch]
            seeds = [hparams["sampling_seed"] + names[n][1] for n in batch]
            spoken = sampler.speak(utterances, seeds)
            full = [i for i, tokens in enumerate(spoken) if len(tokens)]
            wavs = sampler.decode(
                [utterances[i] for i in full], [spoken[i] for i in full]
            )
            for i, wav in zip(full, wavs):
                write_wav(
                    wav_path(folder, batch[i]), wav, hparams["sample_rate"]
                )
            tokens = {n: own.cpu() for n, own in zip(batch, spoken)}
            write_part(path, SpeechTokenCache(version, tokens))

    cache = extract_in_shares(
        find_pending, sample, lambda: merge_parts(path, version, names)
    )
    return {n: cache.tokens[n] for n in names if len(cache.tokens[n])}


def decode_baselines(sampler, chosen, neutral, hparams, folder):
    """Decode the neutral readings of the sentences from their tokens.

    Decoding colours a voice: sampled speech is compared with decoded speech.
    Returns place to wav.
    """
    cache = read_speech_tokens(hparams["speech_tokens"])
    needed = {place_of(u): neutral[u.speaker, u.text] for u in chosen.values()}
    paths = {
        place: wav_path(folder, f"neutral_{u.id}")
        for place, u in needed.items()
    }
    pending = [p for p, path in paths.items() if not path.is_file()]
    size = hparams["sampling_batch_size"]
    for start in range(0, len(pending), size):
        places = pending[start : start + size]
        baselines = [needed[place] for place in places]
        wavs = sampler.decode(
            baselines, [cache.tokens[u.id] for u in baselines]
        )
        for place, wav in zip(places, wavs):
            write_wav(paths[place], wav, hparams["sample_rate"])
    return paths


# --- Ranking --------------------------------------------------------------


def rank_score(emotion, recognised, covered, weights):
    """Weigh how well a reading is rated: each part is from 0 to 1."""
    return (
        weights["emotion"] * emotion
        + weights["recognised"] * recognised
        + weights["coverage"] * covered
    )


def score_readings(names, measured, baselines, judge, weights, uncovered=None):
    """Score readings: name to emotion, lost words and the score of both.

    `names` maps a reading's name to its utterance; `uncovered` to the number
    of words that the model skipped, where it is known.
    """
    scored = {}
    for name, u in names.items():
        m = measured[name]
        wer = WordErrorRate()
        wer.append([name], [m.recognised or ""], [u.text])
        row = wer.rows[0]
        n_words = max(row["words"], 1)
        missed = row["deletions"] + row["substitutions"]
        skipped = 0 if uncovered is None else int(uncovered[name])
        posteriors = judge.posteriors(u.speaker, m, baselines[place_of(u)])
        emotion = mean_probability(posteriors, judge.emotions, u.emotions)
        errors = missed + row["insertions"]
        scored[name] = {
            "emotion": round(emotion, 4),
            "found": m.words is not None,
            "lost": missed + skipped,
            "errors": errors,
            "score": round(
                rank_score(
                    emotion,
                    max(0.0, 1 - errors / n_words),
                    max(0.0, 1 - skipped / n_words),
                    weights,
                ),
                4,
            ),
        }
    return scored


def choose_pairs(readings, margin, most):
    """Pair readings of a sentence: (chosen, rejected), the clearest first.

    A reading that has lost more words, or whose words are not found in its
    sound, is never chosen, however emotional it is. No reading is used twice.
    """
    candidates = []
    for chosen, better in readings.items():
        for rejected, worse in readings.items():
            lead = better["score"] - worse["score"]
            whole = better["found"] and better["lost"] <= worse["lost"]
            if chosen != rejected and whole and lead >= margin:
                candidates.append((-lead, chosen, rejected))
    pairs, used = [], set()
    for _, chosen, rejected in sorted(candidates):
        if len(pairs) < most and not used & {chosen, rejected}:
            pairs.append((chosen, rejected))
            used |= {chosen, rejected}
    return pairs


def count_uncovered(sampler, coverage, names, tokens, batch_size):
    """Count the words that the model itself skipped in each reading.

    `coverage` maps the model and its inputs, with a reading as their speech,
    to the number of skipped words of each item (B,).
    """
    counts = {}
    ordered = list(names)
    for start in range(0, len(ordered), batch_size):
        batch = ordered[start : start + batch_size]
        inputs, _ = sampler.inputs(
            [names[name] for name in batch], [tokens[name] for name in batch]
        )
        with torch.no_grad():
            found = coverage(sampler.synthesizer.mods.emofilm, inputs)
        counts.update(zip(batch, found.tolist()))
    return counts


def measure_readings(names, wavs, folder, pool):
    """Measure sampled readings, and the decoded neutral ones by place."""
    texts = {place_of(u): u.text for u in names.values()}
    baselines = pool.measure(
        {
            place: Reading(str(wav), texts[place], only=("words", "features"))
            for place, wav in wavs.items()
        },
        folder / "measurements",
        "Measuring, neutral readings",
    )
    only = ("words", "recognised", "features")
    measured = pool.measure(
        {
            name: Reading(str(wav_path(folder, name)), u.text, only=only)
            for name, u in names.items()
        },
        folder / "measurements",
        "Measuring, sampled readings",
    )
    return measured, baselines


def pair_readings(chosen, names, scored, hparams):
    """Pair the scored readings of each utterance, for prefer.py."""
    pairs = {}
    for utterance in chosen:
        own = {n: s for n, s in scored.items() if names[n].id == utterance}
        for best, worst in choose_pairs(
            own, hparams["margin"], hparams["n_pairs"]
        ):
            pairs[f"{best}<{worst}"] = {
                "utterance": utterance,
                "chosen": best,
                "rejected": worst,
            }
    return pairs


def rank_readings(
    sampler, chosen, tokens, judge, neutral, pool, hparams, folder
):
    """Measure and score the readings; return scores and pairs."""
    names = {name: chosen[name.rpartition("@")[0]] for name in tokens}
    wavs = decode_baselines(sampler, chosen, neutral, hparams, folder)
    measured, baselines = measure_readings(names, wavs, folder, pool)
    uncovered = None
    if hparams["coverage"] is not None:
        uncovered = count_uncovered(
            sampler,
            hparams["coverage"],
            names,
            tokens,
            hparams["reference_batch_size"],
        )
    scored = score_readings(
        names, measured, baselines, judge, hparams["rank_weights"], uncovered
    )
    return scored, pair_readings(chosen, names, scored, hparams)


def summarise(scored, pairs):
    """Count the readings and pairs, for the log."""
    mean = {
        kind: sum(scored[pair[kind]]["emotion"] for pair in pairs.values())
        / max(len(pairs), 1)
        for kind in ("chosen", "rejected")
    }
    return (
        f"{len(scored)} readings make {len(pairs)} pairs; mean probability of "
        f"the asked emotions {mean['chosen']:.2f} in the chosen, "
        f"{mean['rejected']:.2f} in the rejected ones."
    )


if __name__ == "__main__":
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    sb.utils.distributed.ddp_init_group(run_opts)
    with open(hparams_file, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    check_overrides(hparams, hparams_file, overrides)

    # Model and data
    synthesizer = load_start(hparams, process_device(run_opts))
    emofilm = synthesizer.mods.emofilm
    run_on_main(prepare_corpus, args=[hparams])
    datasets = dataio_prepare(
        {
            **hparams,
            "output_folder": hparams["readings_folder"],
            "emofilm": emofilm,
            "text_frontend": synthesizer.text_frontend,
        }
    )
    utterances = judged_utterances(
        corpus_manifests(hparams, ["train"]), hparams
    )
    neutral = neutral_readings(utterances, hparams["baseline_emotion"])
    rewarding, others = sentence_halves(utterances)
    chosen = choose_sampled(
        {
            name: u
            for name, u in others.items()
            if name in datasets["train"].data and (u.speaker, u.text) in neutral
        },
        hparams,
    )

    # Readings
    sampler = Sampler(synthesizer, datasets["train"], hparams)
    settings = [
        sampler.version,
        hparams["sampling_seed"],
        hparams["label_source"],
    ]
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
    folder = Path(hparams["readings_folder"]) / key
    tokens = sample_readings(sampler, chosen, hparams, folder)

    def rank():
        """Rank the readings, and write the pairs."""
        tools = {
            "aligner": hparams["aligner"],
            "asr": hparams["asr"],
            "emotion_features": hparams["reward_features"],
        }
        with MeasuringPool(tools, hparams["workers"], True) as pool:
            judge = train_reward_judge(
                pool,
                rewarding,
                neutral_readings(rewarding, hparams["baseline_emotion"]),
                hparams,
                Path(hparams["readings_folder"]) / "natural_speech",
            )
            check_independence(
                judge.record,
                evaluation_record(others),
            )
            scored, pairs = rank_readings(
                sampler, chosen, tokens, judge, neutral, pool, hparams, folder
            )
        pairs_file = Path(hparams["pairs_file"])
        write_json(
            pairs_file,
            {
                "model": fingerprint(emofilm),
                "speech_tokens": os.path.relpath(
                    folder / "speech_tokens.safetensors", pairs_file.parent
                ),
                "judge": judge.record,
                "readings": scored,
                "pairs": pairs,
            },
        )
        logger.info(f"{summarise(scored, pairs)} They are in {pairs_file}.")

    run_on_main(rank)
    ddp_leave_group()

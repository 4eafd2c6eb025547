#!/usr/bin/env python3
"""Extract the voices of a corpus for CosyVoice2's flow: vectors and prompts.

> python extract_speaker_embeddings.py hparams/cosyvoice2.yaml \
    --data_folder /path/to/ESD --reference matched

Needs the speech tokens of extract_speech_tokens.py. `reference` chooses the
recordings that give the voices; their emotion is audible in the speech:

  neutral   one neutral training utterance for each speaker: voice `0011`
  matched   one training utterance for each speaker and emotion: `0011/happy`,
            never one of the sentences that are evaluated
  same      each test utterance itself, also MiniESD's mixed ones:
            `0011_000021`. This upper bound is for copy synthesis only

The same command resumes an interrupted extraction, and makes a voice again
only if its recording, the speech tokenizer or the speaker encoder has changed;
the header of the file tells the source of each voice. With torchrun each
process makes its share. A recording that cannot be used is skipped and listed
with the reason in a JSON file next to the voices; if more than `max_bad_share`
are, the script fails.
"""

import sys
from pathlib import Path

from speechbrain_emofilm.dataio.audio import load_audio
from speechbrain_emofilm.dataio.speech_tokens import read_speech_tokens
from speechbrain_emofilm.dataio.voices import (
    Voice,
    merge_parts,
    stored_voices,
    write_part,
)
from speechbrain_emofilm.processing.mel import log_mel
from speechbrain_emofilm.utils.assets import find_file
from speechbrain_emofilm.utils.distributed import ddp_leave_group
from speechbrain_emofilm.utils.files import file_fingerprint
from speechbrain_emofilm.utils.sharding import extract_in_shares
from speechbrain_emofilm.utils.skipped import report_skipped

import speechbrain as sb
import torch
from esd_corpus import corpus_manifests, prepare_corpus, read_manifests
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.distributed import if_main_process, run_on_main
from speechbrain.utils.logger import get_logger
from tqdm import tqdm

logger = get_logger(__name__)

REFERENCES = ("neutral", "matched", "same")


def choose_references(reference, manifests, tokens, max_seconds):
    """Choose the recording that gives each voice.

    Arguments
    ---------
    reference : str
        "neutral", "matched" or "same".
    manifests : dict
        "train" and "test", each utterance id to its item.
    tokens : dict
        Utterance id to speech tokens; no training utterance without tokens
        is chosen.
    max_seconds : float
        Longest recording that may be chosen. The longest one within the limit
        is taken, since a prompt of some seconds carries a voice best.

    Returns
    -------
    dict
        Name of each voice to its utterance id.
    """
    if reference not in REFERENCES:
        raise ValueError(
            f"reference is {reference!r}: set it to {', '.join(REFERENCES)}."
        )
    if reference == "same":
        return {name: name for name in manifests["test"]}
    best = {}
    for name, item in manifests["train"].items():
        voice = item["speaker"]
        if reference == "matched":
            voice = f"{voice}/{item['emotion']}"
        elif item["emotion"] != "neutral":
            continue
        rank = (item["duration"] <= max_seconds, item["duration"], name)
        if name in tokens and rank[0] and rank > best.get(voice, (False,)):
            best[voice] = rank
    speakers = {item["speaker"] for item in manifests["train"].values()}
    without = speakers - {voice.split("/")[0] for voice in best}
    if without:
        raise ValueError(
            f"The speaker {min(without)} has no training utterance of at most "
            f"{max_seconds:g} s that can be a reference ({reference}): raise "
            "max_reference_duration, or set another reference."
        )
    return {voice: rank[-1] for voice, rank in sorted(best.items())}


def describe_sources(references, items, cache, speaker_encoder):
    """Describe the recording and the models that each voice is made with.

    Returns
    -------
    sources : dict
        Name of each voice to a dict: "utterance", and the fingerprints "wav",
        "speech_tokenizer" and "speaker_encoder".
    skipped : dict
        Name of each voice whose recording cannot be used to the reason.
    """
    sources, skipped = {}, {}
    for voice, utterance in references.items():
        wav = Path(items[utterance]["wav"])
        if utterance not in cache.tokens:
            skipped[voice] = cache.skipped.get(
                utterance,
                f"{wav} has no speech tokens: run extract_speech_tokens.py.",
            )
        elif not wav.is_file():
            skipped[voice] = f"{wav} does not exist: copy the corpus again."
        elif wav.stat().st_size != cache.wav_bytes.get(utterance):
            skipped[voice] = (
                f"{wav} has changed since its speech tokens were made: run "
                "extract_speech_tokens.py again."
            )
        else:
            sources[voice] = {
                "utterance": utterance,
                "wav": file_fingerprint(wav),
                "speech_tokenizer": cache.tokenizer,
                "speaker_encoder": speaker_encoder,
            }
    return sources, skipped


@torch.inference_mode()
def make_voice(wav_file, tokens, speaker_encoder, source):
    """Make a voice from a recording and its speech tokens (S,)."""
    wav = load_audio(wav_file, speaker_encoder.sample_rate)
    (xvector,) = speaker_encoder.embed([wav])
    mel = log_mel(load_audio(wav_file)[None])[0]
    return Voice.cut(xvector, tokens, mel, source)


def extract_voices(
    sources, items, tokens, speaker_encoder, path, save_interval
):
    """Make voices, and write them as parts of their file."""
    part = {}
    for voice, source in tqdm(sources.items(), desc="Voices", unit="voice"):
        utterance = source["utterance"]
        part[voice] = make_voice(
            items[utterance]["wav"], tokens[utterance], speaker_encoder, source
        )
        if len(part) == save_interval:
            write_part(path, part)
            part = {}
    if part:
        write_part(path, part)


def pending_voices(path, sources):
    """List the voices that are missing or outdated."""
    current, n_outdated = stored_voices(path, sources)
    pending = [name for name in sources if name not in current]
    if n_outdated and pending:
        logger.warning(
            f"{path}: {n_outdated} voices are of other recordings, another "
            "speech tokenizer or another speaker encoder. They are replaced."
        )
    return pending


if __name__ == "__main__":
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    sb.utils.distributed.ddp_init_group(run_opts)
    with open(hparams_file, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    run_on_main(prepare_corpus, args=[hparams])
    manifests = {
        split: read_manifests(paths, hparams["data_folder"])
        for split, paths in (
            ("train", [hparams["manifests"]["train"]]),
            ("test", corpus_manifests(hparams, ["test"])),
        )
    }
    cache = read_speech_tokens(
        hparams["speech_tokens"],
        file_fingerprint(find_file(hparams["speech_tokenizer_file"])),
    )
    references = choose_references(
        hparams["reference"],
        manifests,
        cache.tokens,
        hparams["max_reference_duration"],
    )
    items = {**manifests["train"], **manifests["test"]}
    encoder_file = find_file(hparams["speaker_encoder_file"])
    sources, skipped = run_on_main(
        describe_sources,
        args=[references, items, cache, file_fingerprint(encoder_file)],
    )
    path = hparams["voices"]
    run_on_main(
        report_skipped,
        args=[
            skipped,
            len(references),
            hparams["max_bad_share"],
            f"{Path(path).with_suffix('')}_skipped.json",
            "voices",
        ],
    )
    extract_in_shares(
        lambda: pending_voices(path, sources),
        lambda share: extract_voices(
            {name: sources[name] for name in share},
            items,
            cache.tokens,
            hparams["speaker_encoder"],
            path,
            hparams["extraction_save_interval"],
        ),
        lambda: merge_parts(path, sources),
    )
    if if_main_process():
        print(f"{path}: {len(sources)} voices ({hparams['reference']})")
    ddp_leave_group()

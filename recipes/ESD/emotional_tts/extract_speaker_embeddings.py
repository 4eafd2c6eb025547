#!/usr/bin/env python3
"""Voices of a corpus for CosyVoice2's flow: speaker vectors and prompts.

> python extract_speaker_embeddings.py hparams/cosyvoice2.yaml \
    --data_folder /path/to/ESD --reference matched

Needs the speech tokens of extract_speech_tokens.py. `reference` says which
recordings give the voices; their emotion is heard in the speech:

  neutral   one neutral training utterance for each speaker: voice `0011`
  matched   one training utterance for each speaker and emotion: `0011/happy`,
            another sentence than those that are evaluated
  same      each test utterance itself, mixed ones (MiniESD's) too:
            `0011_000021`. Nothing can be better, and nobody has it: for copy
            synthesis only

The same command goes on where an interrupted one stopped, and makes a voice
again only if its recording, the speech tokenizer or the speaker encoder has
changed; the header of the file says what each was made of. With torchrun each
process makes its share.
"""

import os
import sys
from pathlib import Path

from speechbrain_emofilm.dataio.audio import load_audio
from speechbrain_emofilm.dataio.speech_tokens import read_speech_tokens
from speechbrain_emofilm.dataio.voices import Voice, read_voices, write_voices
from speechbrain_emofilm.processing.mel import log_mel
from speechbrain_emofilm.utils.assets import find_file
from speechbrain_emofilm.utils.distributed import ddp_leave_group
from speechbrain_emofilm.utils.files import file_fingerprint

import speechbrain as sb
import torch
from esd_prepare import prepare_esd
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.dataio import load_data_json
from speechbrain.utils.distributed import ddp_barrier, run_on_main
from speechbrain.utils.logger import get_logger
from tqdm import tqdm
from transitions_prepare import prepare_transitions

logger = get_logger(__name__)

REFERENCES = ("neutral", "matched", "same")


def choose_references(reference, manifests, tokens, max_seconds):
    """Chooses the recording that gives each voice.

    Arguments
    ---------
    reference : str
        "neutral", "matched" or "same".
    manifests : dict
        "train" and "test", each utterance id to its item.
    tokens : dict
        Utterance id to speech tokens; others cannot be chosen.
    max_seconds : float
        Longest recording that is chosen; the longest up to it is, since
        a prompt of some seconds carries a voice best.

    Returns
    -------
    dict
        Name of each voice to its utterance id.

    Raises
    ------
    ValueError
        If there is no such reference, or a speaker has no recording for it.
    """
    if reference not in REFERENCES:
        raise ValueError(
            f"reference is {reference!r}: set it to {', '.join(REFERENCES)}."
        )
    if reference == "same":
        return {name: name for name in manifests["test"] if name in tokens}
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
    """Tells what each voice is made of.

    Arguments
    ---------
    references : dict
        Name of each voice to its utterance id.
    items : dict
        Utterance id to its item of the manifest.
    cache : SpeechTokenCache
        Speech tokens of the utterances.
    speaker_encoder : str
        Fingerprint of the speaker encoder.

    Returns
    -------
    dict
        Name of each voice to a dict: "utterance", and the fingerprints "wav",
        "speech_tokenizer" and "speaker_encoder".

    Raises
    ------
    FileNotFoundError
        If a recording does not exist.
    ValueError
        If one is not the recording that has given the speech tokens.
    """
    sources = {}
    for voice, utterance in references.items():
        wav = find_file(items[utterance]["wav"])
        if wav.stat().st_size != cache.wav_bytes.get(utterance):
            raise ValueError(
                f"{wav} has changed since its speech tokens were made: run "
                "extract_speech_tokens.py again."
            )
        sources[voice] = {
            "utterance": utterance,
            "wav": file_fingerprint(wav),
            "speech_tokenizer": cache.tokenizer,
            "speaker_encoder": speaker_encoder,
        }
    return sources


@torch.inference_mode()
def make_voice(wav_file, tokens, speaker_encoder, source):
    """Makes a voice of a recording.

    Arguments
    ---------
    wav_file : str
        The recording.
    tokens : torch.Tensor
        Its speech tokens (S,).
    speaker_encoder : object
        With `sample_rate` and `embed`: list of wavs to vectors.
    source : dict
        What it is made of.
    """
    wav = load_audio(wav_file, speaker_encoder.sample_rate)
    (xvector,) = speaker_encoder.embed([wav])
    mel = log_mel(load_audio(wav_file)[None])[0]
    return Voice.cut(xvector, tokens, mel, source)


def extract_voices(
    sources, items, tokens, speaker_encoder, path, save_interval
):
    """Makes voices, saving now and then.

    Arguments
    ---------
    sources : dict
        Name of each voice to what it is made of, from `describe_sources`.
    items : dict
        Utterance id to its item of the manifest.
    tokens : dict
        Utterance id to speech tokens.
    speaker_encoder : object
        As in `make_voice`.
    path : Path
        The file of the voices.
    save_interval : int
        Voices after which they are written.
    """
    voices = {}
    for voice, source in tqdm(sources.items(), desc="Voices", unit="voice"):
        utterance = source["utterance"]
        voices[voice] = make_voice(
            items[utterance]["wav"], tokens[utterance], speaker_encoder, source
        )
        if len(voices) % save_interval == 0:
            write_voices(path, voices)
    if voices:
        write_voices(path, voices)


def read_current(path, sources):
    """Reads those voices that would not be made otherwise today.

    Arguments
    ---------
    path : Path
        A file of voices, or none.
    sources : dict
        Name of each voice to what it is made of.

    Returns
    -------
    current : dict
        Name to Voice.
    n_outdated : int
        How many others the file has.
    """
    voices = read_voices(path) if path.exists() else {}
    current = {
        name: voice
        for name, voice in voices.items()
        if name in sources and voice.source == sources[name]
    }
    return current, len(voices) - len(current)


def merge_shards(path, sources):
    """Puts what processes have made into the file of all.

    Arguments
    ---------
    path : Path
        The file of the voices.
    sources : dict
        Name of each voice that it is to hold to what it is made of; voices
        that were made of something else are left out.
    """
    shards = sorted(path.parent.glob(f"{path.stem}.shard*"))
    voices, _ = read_current(path, sources)
    for shard in shards:
        voices |= read_current(shard, sources)[0]
    if shards and voices:
        write_voices(path, voices)
    for shard in shards:
        shard.unlink()


if __name__ == "__main__":
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    sb.utils.distributed.ddp_init_group(run_opts)
    rank = int(os.environ.get("RANK", 0))
    n_processes = int(os.environ.get("WORLD_SIZE", 1))
    with open(hparams_file, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    if not hparams["skip_prep"]:
        run_on_main(prepare_esd, kwargs=hparams["prepare_opts"])
        run_on_main(
            prepare_transitions,
            args=[hparams["data_folder"], hparams["prepared_folder"]],
        )
    manifests = {
        split: load_data_json(path, {"data_root": hparams["data_folder"]})
        for split, path in hparams["manifests"].items()
    }
    mixed = hparams["transitions_manifests"]["test"]
    if Path(mixed).is_file():
        manifests["test"] |= load_data_json(
            mixed, {"data_root": hparams["data_folder"]}
        )
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
    sources = describe_sources(
        references,
        items,
        cache,
        file_fingerprint(find_file(hparams["speaker_encoder_file"])),
    )
    path = Path(hparams["voices"])
    run_on_main(merge_shards, args=[path, sources])
    made, n_outdated = read_current(path, sources)
    missing = [name for name in references if name not in made]
    if n_outdated and missing:
        logger.warning(
            f"{path}: {n_outdated} voices are of other recordings, another "
            "speech tokenizer or another speaker encoder. They are replaced."
        )
    extract_voices(
        {name: sources[name] for name in missing[rank::n_processes]},
        items,
        cache.tokens,
        hparams["speaker_encoder"],
        path.with_suffix(f".shard{rank}.safetensors"),
        hparams["extraction_save_interval"],
    )
    ddp_barrier()
    run_on_main(merge_shards, args=[path, sources])
    if rank == 0:
        print(f"{path}: {len(references)} voices ({hparams['reference']})")
    ddp_leave_group()

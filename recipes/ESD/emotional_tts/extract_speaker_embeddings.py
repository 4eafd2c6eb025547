#!/usr/bin/env python3
"""Voices of a corpus for CosyVoice2's flow: speaker vectors and prompts.

> python extract_speaker_embeddings.py hparams/cosyvoice2.yaml \
    --data_folder /path/to/ESD --reference matched

Needs the speech tokens of extract_speech_tokens.py. `reference` says which
recordings give the voices; their emotion is heard in the speech:

  neutral   one neutral training utterance for each speaker: voice `0011`
  matched   one training utterance for each speaker and emotion: `0011/happy`,
            another sentence than those that are evaluated
  same      each test utterance itself, mixed ones (`use_transitions`) too:
            `0011_000021`. Nothing can be better, and nobody has it: for copy
            synthesis only

The same command goes on where an interrupted one stopped; with torchrun each
process makes its share.

Authors
 * speechbrain-emofilm contributors, 2026
"""

import os
import sys
from pathlib import Path

import speechbrain_emofilm  # noqa: F401  first: makes torchaudio importable on CPU
from speechbrain_emofilm.dataio.audio import load_audio
from speechbrain_emofilm.dataio.speech_tokens import (
    file_fingerprint,
    read_speech_tokens,
)
from speechbrain_emofilm.dataio.voices import Voice, read_voices, write_voices
from speechbrain_emofilm.processing.mel import log_mel
from speechbrain_emofilm.utils.assets import find_file
from speechbrain_emofilm.utils.distributed import ddp_leave_group

import speechbrain as sb
import torch
from esd_prepare import prepare_esd
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.dataio import load_data_json
from speechbrain.utils.distributed import ddp_barrier, run_on_main
from speechbrain.utils.logger import get_logger
from tqdm import tqdm

logger = get_logger(__name__)

REFERENCES = ("neutral", "matched", "same")
SAVE_INTERVAL = 200  # voices


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


@torch.inference_mode()
def make_voice(wav_file, tokens, speaker_encoder):
    """Makes a voice of a recording.

    Arguments
    ---------
    wav_file : str
        The recording.
    tokens : torch.Tensor
        Its speech tokens (S,).
    speaker_encoder : object
        With `sample_rate` and `embed`: list of wavs to vectors.

    Returns
    -------
    Voice
    """
    wav = load_audio(wav_file, speaker_encoder.sample_rate)
    (xvector,) = speaker_encoder.embed([wav])
    mel = log_mel(load_audio(wav_file)[None])[0]
    return Voice.cut(xvector, tokens, mel)


def extract_voices(references, items, tokens, speaker_encoder, path):
    """Makes voices, saving now and then.

    Arguments
    ---------
    references : dict
        Name of each voice to its utterance id.
    items : dict
        Utterance id to its item of the manifest.
    tokens : dict
        Utterance id to speech tokens.
    speaker_encoder : object
        As in `make_voice`.
    path : Path
        The file of the voices.
    """
    voices = {}
    progress = tqdm(references.items(), desc="Voices", unit="voice")
    for voice, utterance in progress:
        voices[voice] = make_voice(
            items[utterance]["wav"], tokens[utterance], speaker_encoder
        )
        if len(voices) % SAVE_INTERVAL == 0:
            write_voices(path, voices)
    if voices:
        write_voices(path, voices)


def merge_shards(path, names):
    """Puts what processes have made into the file of all.

    Arguments
    ---------
    path : str
        The file of the voices.
    names : list of str
        Those that it is to hold.
    """
    voices = read_voices(path) if Path(path).exists() else {}
    shards = sorted(Path(path).parent.glob(f"{Path(path).stem}.shard*"))
    for shard in shards:
        voices.update(read_voices(shard))
    if shards:
        write_voices(path, {n: v for n, v in voices.items() if n in names})
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
    manifests = {
        split: load_data_json(path, {"data_root": hparams["data_folder"]})
        for split, path in hparams["manifests"].items()
    }
    if hparams["use_transitions"]:
        manifests["test"] |= load_data_json(
            hparams["transitions_manifests"]["test"],
            {"data_root": hparams["data_folder"]},
        )
    tokens = read_speech_tokens(
        hparams["speech_tokens"],
        file_fingerprint(find_file(hparams["speech_tokenizer_file"])),
    ).tokens
    references = choose_references(
        hparams["reference"],
        manifests,
        tokens,
        hparams["max_reference_duration"],
    )
    path = hparams["voices"]
    run_on_main(merge_shards, args=[path, list(references)])
    made = read_voices(path) if Path(path).exists() else {}
    missing = [name for name in references if name not in made]
    extract_voices(
        {name: references[name] for name in missing[rank::n_processes]},
        {**manifests["train"], **manifests["test"]},
        tokens,
        hparams["speaker_encoder"],
        Path(path).with_suffix(f".shard{rank}.safetensors"),
    )
    ddp_barrier()
    run_on_main(merge_shards, args=[path, list(references)])
    if rank == 0:
        print(f"{path}: {len(references)} voices ({hparams['reference']})")
    ddp_leave_group()

#!/usr/bin/env python3
"""Speech tokens (25 Hz) of a corpus, cached for train.py.

> python extract_speech_tokens.py hparams/mini.yaml --data_folder /path/to/ESD

All splits go into one file with the speech tokenizer's fingerprint in its
header. The same command goes on where an interrupted one stopped, and reads
a wav again only if its size has changed. A wav that cannot be used is
skipped, logged and listed in the cache with the reason; if more than
`max_bad_share` are, the script fails.

Authors
 * speechbrain-emofilm contributors, 2026
"""

import os
import sys
from pathlib import Path

import speechbrain_emofilm  # noqa: F401  first: makes torchaudio importable on CPU
from speechbrain_emofilm.dataio.audio import load_audio
from speechbrain_emofilm.dataio.speech_tokens import (
    SpeechTokenCache,
    file_fingerprint,
    read_speech_tokens,
    write_speech_tokens,
)
from speechbrain_emofilm.utils.assets import find_file

import speechbrain as sb
import torch
from esd_prepare import prepare_esd
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.dataio import load_data_json
from speechbrain.utils.logger import get_logger
from tqdm import tqdm
from transitions_prepare import prepare_transitions

logger = get_logger(__name__)


def read_wav(path, duration, sample_rate, max_duration):
    """Reads a wav of which the manifest is still true.

    Arguments
    ---------
    path : str
        An audio file of any sample rate.
    duration : float
        Its duration by the manifest, in seconds.
    sample_rate : int
        The rate wanted, in Hz.
    max_duration : float
        Longest utterance that the tokenizer reads, in seconds.

    Returns
    -------
    torch.Tensor
        (T,) samples.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it cannot be used, or is another one than was prepared.
    """
    wav = load_audio(path, sample_rate, max_duration)
    seconds = len(wav) / sample_rate
    if abs(seconds - duration) > 0.05:
        raise ValueError(
            f"{path}: it lasts {seconds:.2f} s, but {duration:.2f} s by the "
            "manifest; prepare the corpus again."
        )
    return wav


def pending_utterances(manifests, data_folder, cache):
    """Lists the utterances without tokens, or with another wav than before.

    Arguments
    ---------
    manifests : list of str
        The corpus's manifests.
    data_folder : str
        The corpus.
    cache : SpeechTokenCache
        Tokens made before; what is no longer in a manifest is removed.

    Returns
    -------
    pending : dict
        Utterance id to (path of the wav, duration).
    n_utterances : int
        Of all manifests.
    """
    wavs = {}
    for manifest in manifests:
        items = load_data_json(manifest, {"data_root": data_folder})
        for utterance, item in items.items():
            wavs[utterance] = (item["wav"], item["duration"])
    for utterance in set(cache.tokens) - set(wavs):
        del cache.tokens[utterance]
    cache.skipped.clear()
    pending = {
        utterance: wav
        for utterance, wav in wavs.items()
        if utterance not in cache.tokens
        or not os.path.isfile(wav[0])
        or os.path.getsize(wav[0]) != cache.wav_bytes.get(utterance)
    }
    return pending, len(wavs)


@torch.inference_mode()
def extract_tokens(tokenizer, pending, cache, hparams, device):
    """Adds the tokens of utterances to a cache, saving now and then.

    Arguments
    ---------
    tokenizer : torch.nn.Module
        With `tokenize`: wav (1, T) to tokens (1, S).
    pending : dict
        Utterance id to (path of the wav, duration).
    cache : SpeechTokenCache
        Changed in place and written to `hparams["speech_tokens"]`.
    hparams : dict
        The recipe's hyperparameters.
    device : str
        Where the tokenizer runs.
    """
    tokenizer = tokenizer.to(device).eval()
    progress = tqdm(pending.items(), desc="Speech tokens", unit="utt")
    for n_done, (name, (path, duration)) in enumerate(progress, start=1):
        cache.tokens.pop(name, None)
        try:
            wav = read_wav(
                path,
                duration,
                hparams["sample_rate"],
                hparams["max_duration"],
            )
        except (ValueError, FileNotFoundError) as error:
            cache.skipped[name] = str(error)
            logger.warning(f"{name} skipped. {error}")
        else:
            tokens = tokenizer.tokenize(wav[None].to(device))[0]
            cache.tokens[name] = tokens.cpu()
            cache.wav_bytes[name] = os.path.getsize(path)
        if n_done % hparams["extraction_save_interval"] == 0:
            write_speech_tokens(hparams["speech_tokens"], cache)
    write_speech_tokens(hparams["speech_tokens"], cache)


def check_skipped(cache, n_utterances, max_bad_share, path):
    """Fails if too many utterances were skipped.

    Arguments
    ---------
    cache : SpeechTokenCache
        Its `skipped` gives the reasons.
    n_utterances : int
        Of the whole corpus.
    max_bad_share : float
        Largest share that may be skipped, 0 to 1.
    path : str
        The cache's file, for the message.

    Raises
    ------
    ValueError
        If more are.
    """
    if len(cache.skipped) > max_bad_share * n_utterances:
        name, reason = next(iter(cache.skipped.items()))
        raise ValueError(
            f"{len(cache.skipped)} of {n_utterances} utterances have no "
            f"speech tokens, more than max_bad_share {max_bad_share:g} "
            f"allows. The first, {name}: {reason} All are listed in the "
            f"header of {path}; run the same command again when they are "
            "mended."
        )


def open_cache(path, fingerprint):
    """Reads a cache to go on with, or starts one.

    Arguments
    ---------
    path : str
        The cache's file.
    fingerprint : str
        Of the tokenizer in use.

    Returns
    -------
    SpeechTokenCache
    """
    if Path(path).exists():
        return read_speech_tokens(path, fingerprint)
    return SpeechTokenCache(fingerprint)


if __name__ == "__main__":
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    with open(hparams_file, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    if not hparams["skip_prep"]:
        prepare_esd(**hparams["prepare_opts"])
        if hparams["use_transitions"]:
            prepare_transitions(
                hparams["data_folder"], hparams["prepared_folder"]
            )
    path = hparams["speech_tokens"]
    cache = open_cache(
        path, file_fingerprint(find_file(hparams["speech_tokenizer_file"]))
    )
    manifests = list(hparams["manifests"].values())
    if hparams["use_transitions"]:
        manifests += hparams["transitions_manifests"].values()
    pending, n_utterances = pending_utterances(
        manifests, hparams["data_folder"], cache
    )
    if pending:
        extract_tokens(
            hparams["speech_tokenizer"],
            pending,
            cache,
            hparams,
            run_opts.get("device") or "cpu",
        )
    check_skipped(cache, n_utterances, hparams["max_bad_share"], path)
    print(f"{path}: speech tokens of {len(cache.tokens)} utterances")

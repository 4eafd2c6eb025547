#!/usr/bin/env python3
"""Speech tokens (25 Hz) of a corpus, cached for train.py.

> python extract_speech_tokens.py hparams/mini.yaml --data_folder /path/to/ESD

On several GPUs, each of which reads its share of the corpus:
> torchrun --nproc_per_node=4 extract_speech_tokens.py \
    hparams/cosyvoice2.yaml --data_folder /path/to/ESD

All splits go into one file with the speech tokenizer's fingerprint in its
header. The same command goes on where an interrupted one stopped, and reads
a wav again only if its size has changed. A wav that cannot be used is
skipped, logged and listed in the cache with the reason; if more than
`max_bad_share` are, the script fails.
"""

import os
import sys
from pathlib import Path

from speechbrain_emofilm.dataio.audio import load_audio
from speechbrain_emofilm.dataio.speech_tokens import (
    SpeechTokenCache,
    read_speech_tokens,
    write_speech_tokens,
)
from speechbrain_emofilm.utils.assets import find_file
from speechbrain_emofilm.utils.distributed import (
    ddp_leave_group,
    process_device,
)
from speechbrain_emofilm.utils.files import file_fingerprint

import speechbrain as sb
import torch
from esd_prepare import prepare_esd
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.dataio import load_data_json
from speechbrain.utils.distributed import ddp_barrier, run_on_main
from speechbrain.utils.logger import get_logger
from tqdm import tqdm
from transitions_prepare import corpus_manifests, prepare_transitions

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


def extract_tokens(tokenizer, pending, cache, path, hparams, device):
    """Adds the tokens of utterances to a cache, saving now and then.

    Arguments
    ---------
    tokenizer : object
        With `tokenize`: wav (1, T) to tokens (1, S); or also
        `tokenize_batch`: list of wavs (T_i,) to list of tokens (S_i,).
    pending : dict
        Utterance id to (path of the wav, duration).
    cache : SpeechTokenCache
        Changed in place and written.
    path : str
        The cache's file.
    hparams : dict
        The recipe's hyperparameters.
    device : str
        Where the tokenizer runs.
    """
    tokenizer = tokenizer.to(device).eval()
    n_saved = 0
    with tqdm(total=len(pending), desc="Speech tokens", unit="utt") as progress:
        for batch in batches(
            pending,
            hparams["extraction_batch_duration"],
            hparams["extraction_save_interval"],
        ):
            wavs = read_wavs(batch, pending, cache, hparams)
            tokens = tokenize(tokenizer, [w.to(device) for w in wavs.values()])
            for name, found in zip(wavs, tokens):
                cache.tokens[name] = found.cpu()
                cache.wav_bytes[name] = os.path.getsize(pending[name][0])
            progress.update(len(batch))
            if progress.n - n_saved >= hparams["extraction_save_interval"]:
                n_saved = progress.n
                write_speech_tokens(path, cache)
    write_speech_tokens(path, cache)


@torch.inference_mode()
def tokenize(tokenizer, wavs):
    """Tokens of each of some waves.

    Arguments
    ---------
    tokenizer : object
        As in `extract_tokens`.
    wavs : list of torch.Tensor
        (T_i,) each.

    Returns
    -------
    list of torch.Tensor
        (S_i,) each.
    """
    if wavs and hasattr(tokenizer, "tokenize_batch"):
        return tokenizer.tokenize_batch(wavs)
    return [tokenizer.tokenize(wav[None])[0] for wav in wavs]


def batches(pending, max_duration, max_size):
    """Groups utterances of about the same length.

    Arguments
    ---------
    pending : dict
        Utterance id to (path of the wav, duration).
    max_duration : float
        Of a batch with its padding, in seconds; a longer utterance makes a
        batch of its own.
    max_size : int
        Utterances in a batch, at most.

    Yields
    ------
    list of str
        Utterance ids.
    """
    batch = []
    for name in sorted(pending, key=lambda name: pending[name][1]):
        padded = (len(batch) + 1) * pending[name][1]
        if batch and (padded > max_duration or len(batch) == max_size):
            yield batch
            batch = []
        batch.append(name)
    if batch:
        yield batch


def read_wavs(batch, pending, cache, hparams):
    """Reads the wavs of a batch; those that cannot be used are skipped.

    Arguments
    ---------
    batch : list of str
        Utterance ids.
    pending : dict
        Utterance id to (path of the wav, duration).
    cache : SpeechTokenCache
        Forgets the utterances, and notes those that are skipped.
    hparams : dict
        The recipe's hyperparameters.

    Returns
    -------
    dict
        Utterance id to samples (T,).
    """
    wavs = {}
    for name in batch:
        cache.tokens.pop(name, None)
        try:
            wavs[name] = read_wav(
                *pending[name], hparams["sample_rate"], hparams["max_duration"]
            )
        except (ValueError, FileNotFoundError) as error:
            cache.skipped[name] = str(error)
            logger.warning(f"{name} skipped. {error}")
    return wavs


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
    """
    if Path(path).exists():
        return read_speech_tokens(path, fingerprint)
    return SpeechTokenCache(fingerprint)


def shard_path(path, rank):
    """Where a process keeps its share until all have finished.

    Arguments
    ---------
    path : str
        The cache's file.
    rank : int or str
        The process's number, or "*".
    """
    return Path(path).with_suffix(f".shard{rank}.safetensors")


def merge_shards(path, fingerprint):
    """Puts what processes have made into the cache of all.

    Shards are also what a killed extraction leaves, of whatever number of
    processes.

    Arguments
    ---------
    path : str
        The cache's file.
    fingerprint : str
        Of the tokenizer in use.
    """
    cache = open_cache(path, fingerprint)
    pattern = shard_path(path, "*")
    shards = sorted(pattern.parent.glob(pattern.name))
    for shard in shards:
        part = read_speech_tokens(shard, fingerprint)
        cache.tokens.update(part.tokens)
        cache.wav_bytes.update(part.wav_bytes)
        cache.skipped.update(part.skipped)
    if shards:
        write_speech_tokens(path, cache)
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
    path = hparams["speech_tokens"]
    fingerprint = file_fingerprint(find_file(hparams["speech_tokenizer_file"]))
    run_on_main(merge_shards, args=[path, fingerprint])
    cache = open_cache(path, fingerprint)
    pending, n_utterances = pending_utterances(
        corpus_manifests(hparams), hparams["data_folder"], cache
    )
    share = dict(sorted(pending.items())[rank::n_processes])
    own_cache, own_path = cache, path
    if n_processes > 1:
        own_cache, own_path = (
            SpeechTokenCache(fingerprint),
            shard_path(path, rank),
        )
        # Written before the shards: they add to it.
        run_on_main(write_speech_tokens, args=[path, cache])
    if share:
        extract_tokens(
            hparams["speech_tokenizer"],
            share,
            own_cache,
            own_path,
            hparams,
            process_device(run_opts),
        )
    ddp_barrier()
    run_on_main(merge_shards, args=[path, fingerprint])
    if pending:
        cache = read_speech_tokens(path, fingerprint)
    check_skipped(cache, n_utterances, hparams["max_bad_share"], path)
    if rank == 0:
        print(f"{path}: speech tokens of {len(cache.tokens)} utterances")
    ddp_leave_group()

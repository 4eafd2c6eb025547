#!/usr/bin/env python3
"""Extract the speech tokens (25 Hz) of a corpus, for train.py.

> python extract_speech_tokens.py hparams/mini.yaml --data_folder /path/to/ESD

On several GPUs, each of which processes its share of the corpus:
> torchrun --nproc_per_node=4 extract_speech_tokens.py \
    hparams/cosyvoice2.yaml --data_folder /path/to/ESD

All splits go into one file with the speech tokenizer's fingerprint in its
header. The same command resumes an interrupted extraction, and reads a wav
again only if its size has changed. A wav that cannot be used is skipped and
listed with the reason in the cache's header and in a JSON file next to it; if
more than `max_bad_share` are, the script fails.
"""

import os
import sys
from pathlib import Path

from speechbrain_emofilm.dataio.speech_tokens import (
    SpeechTokenCache,
    merge_parts,
    stored_tokens,
    write_part,
)
from speechbrain_emofilm.utils.assets import find_file
from speechbrain_emofilm.utils.distributed import (
    ddp_leave_group,
    process_device,
)
from speechbrain_emofilm.utils.files import file_fingerprint
from speechbrain_emofilm.utils.sharding import extract_in_shares
from speechbrain_emofilm.utils.skipped import report_skipped

import speechbrain as sb
import torch
from esd_corpus import list_wavs, prepare_corpus, read_wav
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.distributed import if_main_process, run_on_main
from tqdm import tqdm


def pending_utterances(wavs, path, fingerprint):
    """List the utterances without tokens, or whose wav has changed."""
    stored = stored_tokens(path, fingerprint)
    return [
        utterance
        for utterance, (wav, _) in sorted(wavs.items())
        if utterance not in stored.tokens
        or not os.path.isfile(wav)
        or os.path.getsize(wav) != stored.wav_bytes.get(utterance)
    ]


def extract_tokens(tokenizer, wavs, path, fingerprint, hparams, device):
    """Write the tokens of utterances as parts of a cache.

    Arguments
    ---------
    tokenizer : object
        With `tokenize`: wav (1, T) to tokens (1, S); or also
        `tokenize_batch`: list of wavs (T_i,) to list of tokens (S_i,).
    wavs : dict
        Utterance id to (path of the wav, duration in seconds).
    path : str
        File of the cache.
    fingerprint : str
        Fingerprint of the tokenizer.
    hparams : dict
        Hyperparameters of the recipe.
    device : str
        Device of the tokenizer.
    """
    tokenizer = tokenizer.to(device).eval()
    interval = hparams["extraction_save_interval"]
    part = SpeechTokenCache(fingerprint)
    with tqdm(total=len(wavs), desc="Speech tokens", unit="utt") as progress:
        for batch in batches(
            wavs, hparams["extraction_batch_duration"], interval
        ):
            samples = read_wavs(batch, wavs, part.skipped, hparams)
            tokens = tokenize(
                tokenizer, [wav.to(device) for wav in samples.values()]
            )
            for name, found in zip(samples, tokens):
                part.tokens[name] = found.cpu()
                part.wav_bytes[name] = os.path.getsize(wavs[name][0])
            progress.update(len(batch))
            if len(part.tokens) + len(part.skipped) >= interval:
                write_part(path, part)
                part = SpeechTokenCache(fingerprint)
    if part.tokens or part.skipped:
        write_part(path, part)


@torch.inference_mode()
def tokenize(tokenizer, wavs):
    """Tokenize waves, in one batch if the tokenizer can."""
    if wavs and hasattr(tokenizer, "tokenize_batch"):
        return tokenizer.tokenize_batch(wavs)
    return [tokenizer.tokenize(wav[None])[0] for wav in wavs]


def batches(wavs, max_duration, max_size):
    """Yield lists of ids of utterances with similar duration.

    `max_duration` limits the seconds of a batch including padding; a longer
    utterance makes a batch of its own.
    """
    batch = []
    for name in sorted(wavs, key=lambda name: wavs[name][1]):
        padded = (len(batch) + 1) * wavs[name][1]
        if batch and (padded > max_duration or len(batch) == max_size):
            yield batch
            batch = []
        batch.append(name)
    if batch:
        yield batch


def read_wavs(batch, wavs, skipped, hparams):
    """Read the wavs of a batch; list unusable ones in `skipped`."""
    samples = {}
    for name in batch:
        try:
            samples[name] = read_wav(
                *wavs[name], hparams["sample_rate"], hparams["max_duration"]
            )
        except (ValueError, FileNotFoundError) as error:
            skipped[name] = str(error)
    return samples


if __name__ == "__main__":
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    sb.utils.distributed.ddp_init_group(run_opts)
    with open(hparams_file, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    run_on_main(prepare_corpus, args=[hparams])
    path = hparams["speech_tokens"]
    fingerprint = file_fingerprint(find_file(hparams["speech_tokenizer_file"]))
    wavs = list_wavs(hparams)
    cache = extract_in_shares(
        lambda: pending_utterances(wavs, path, fingerprint),
        lambda share: extract_tokens(
            hparams["speech_tokenizer"],
            {name: wavs[name] for name in share},
            path,
            fingerprint,
            hparams,
            process_device(run_opts),
        ),
        lambda: merge_parts(path, fingerprint, wavs),
    )
    run_on_main(
        report_skipped,
        args=[
            cache.skipped,
            len(wavs),
            hparams["max_bad_share"],
            f"{Path(path).with_suffix('')}_skipped.json",
        ],
    )
    if if_main_process():
        print(f"{path}: speech tokens of {len(cache.tokens)} utterances")
    ddp_leave_group()

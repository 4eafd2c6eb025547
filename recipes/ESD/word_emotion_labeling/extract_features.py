#!/usr/bin/env python3
"""Extract the emotion features (50 Hz) of a corpus, for train.py and label.py.

> python extract_features.py hparams/extract_features.yaml \
    --data_folder /path/to/ESD

or, with several processes, each of which takes its share:

> torchrun --standalone --nproc_per_node=4 extract_features.py \
    hparams/extract_features.yaml --data_folder /path/to/ESD

All splits go into one HDF5 file that names the model, its revision and its
configuration. The same command resumes an interrupted extraction, also with
another number of processes, and the resulting file is the same. A wav that
cannot be used is skipped and listed with the reason in `skipped_file`; if more
than `max_bad_share` are, the script fails.
"""

import os
import sys

from speechbrain_emofilm.dataio.feature_cache import (
    extractor_identity,
    merge_parts,
    stored_features,
    write_part,
)
from speechbrain_emofilm.utils.distributed import (
    ddp_leave_group,
    process_device,
)
from speechbrain_emofilm.utils.sharding import extract_in_shares
from speechbrain_emofilm.utils.skipped import report_skipped

import speechbrain as sb
import torch
from esd_corpus import list_wavs, prepare_corpus, read_wav
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.distributed import (
    ddp_init_group,
    if_main_process,
    run_on_main,
)
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

#: Peak below which a wav counts as silent: -80 dB relative to full scale.
SILENCE = 1e-4


class WavBatches(torch.utils.data.Dataset):
    """Dataset that reads the wavs of one batch at a time.

    Arguments
    ---------
    batches : list
        From `make_batches`.
    sample_rate : int
        Sample rate of the result, in Hz.
    shortest, max_duration : float
        Shortest and longest duration accepted, in seconds.
    """

    def __init__(self, batches, sample_rate, shortest, max_duration):
        self.batches = batches
        self.sample_rate = sample_rate
        self.shortest = shortest
        self.max_duration = max_duration

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        """Read a batch: wavs (T,), sizes in bytes, and reasons for skipping."""
        wavs, skipped = {}, {}
        for name, path, duration in self.batches[index]:
            try:
                wavs[name] = self.read_wav(path, duration)
            except (ValueError, FileNotFoundError) as error:
                skipped[name] = str(error)
        sizes = {
            name: os.path.getsize(path)
            for name, path, _ in self.batches[index]
            if name in wavs
        }
        return wavs, sizes, skipped

    def read_wav(self, path, duration):
        """Read a wav (T,), and raise an error if it cannot be used."""
        wav = read_wav(path, duration, self.sample_rate, self.max_duration)
        seconds = len(wav) / self.sample_rate
        if seconds < self.shortest:
            raise ValueError(
                f"{path}: {seconds:.3f} s is shorter than the "
                f"{self.shortest:g} s that the features need; leave it out."
            )
        if wav.abs().max() < SILENCE:
            raise ValueError(
                f"{path}: nothing but silence; record or copy it again."
            )
        return wav


def make_batches(wavs, max_batch_length):
    """Group utterances of similar length, the longest first.

    The grouping depends on the corpus alone, not on existing results nor on
    the number of processes, since the last bits of an utterance's features
    may depend on its batch.

    Arguments
    ---------
    wavs : dict
        Utterance id to (path of the wav, duration in seconds).
    max_batch_length : float
        Seconds of speech in a batch, including padding; a longer utterance
        makes a batch of its own.

    Returns
    -------
    list
        For each batch, a list of (utterance id, path of the wav, duration).
    """
    items = [(name, path, duration) for name, (path, duration) in wavs.items()]
    items.sort(key=lambda item: (-item[2], item[0]))
    batches = []
    for item in items:
        longest = batches[-1][0][2] if batches else 0.0
        if batches and longest * (len(batches[-1]) + 1) <= max_batch_length:
            batches[-1].append(item)
        else:
            batches.append([item])
    return batches


def pending_batches(batches, path, identity):
    """List the batches with a missing utterance or a changed wav."""
    stored = stored_features(path, identity)

    def done(name, wav):
        if name in stored.skipped:
            return True
        size = os.path.getsize(wav) if os.path.isfile(wav) else None
        return name in stored.wav_bytes and stored.wav_bytes[name] == size

    return [
        batch
        for batch in batches
        if not all(done(name, wav) for name, wav, _ in batch)
    ]


def extract_batches(extractor, batches, identity, hparams, device):
    """Compute the features of batches and store each batch as a part."""
    extractor = extractor.to(device).eval()
    loader = torch.utils.data.DataLoader(
        WavBatches(
            batches,
            extractor.sample_rate,
            extractor.shortest / extractor.sample_rate,
            hparams["max_duration"],
        ),
        batch_size=None,
        num_workers=hparams["num_workers"],
    )
    n_utterances = sum(map(len, batches))
    with tqdm(
        total=n_utterances,
        desc="Emotion features",
        unit="utt",
        disable=not if_main_process(),
    ) as progress:
        for wavs, sizes, skipped in loader:
            features = extract_features(extractor, wavs, device)
            for name in list(features):
                if not features[name].half().isfinite().all():
                    del features[name]
                    skipped[name] = (
                        f"{name}: the features are not finite; try another "
                        "extractor."
                    )
            write_part(
                hparams["feature_cache"], identity, features, sizes, skipped
            )
            progress.update(len(features) + len(skipped))


def extract_features(extractor, wavs, device):
    """Compute the frames (F, D) of a batch by utterance id, on the CPU."""
    if not wavs:
        return {}
    padded = pad_sequence(list(wavs.values()), batch_first=True)
    lens = torch.tensor([len(wav) for wav in wavs.values()]) / padded.shape[1]
    features, lens = extractor(padded.to(device), lens.to(device))
    n_frames = torch.round(lens * features.shape[1]).long().tolist()
    return {
        name: frames[:n].cpu()
        for name, frames, n in zip(wavs, features, n_frames)
    }


if __name__ == "__main__":
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    ddp_init_group(run_opts)
    with open(hparams_file, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    run_on_main(prepare_corpus, args=[hparams])
    wavs = list_wavs(hparams)
    extractor = hparams["emotion_features"]
    identity = extractor_identity(extractor)
    batches = make_batches(wavs, hparams["max_batch_length"])
    skipped = extract_in_shares(
        lambda: pending_batches(batches, hparams["feature_cache"], identity),
        lambda share: extract_batches(
            extractor, share, identity, hparams, process_device(run_opts)
        ),
        lambda: merge_parts(hparams["feature_cache"], identity, set(wavs)),
    )
    run_on_main(
        report_skipped,
        args=[
            skipped,
            len(wavs),
            hparams["max_bad_share"],
            hparams["skipped_file"],
        ],
    )
    if if_main_process():
        print(
            f"{hparams['feature_cache']}: emotion features of "
            f"{len(wavs) - len(skipped)} utterances"
        )
    ddp_leave_group()

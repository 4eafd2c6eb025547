#!/usr/bin/env python3
"""Emotion features (50 Hz) of a corpus, cached for train.py and label.py.

> python extract_features.py hparams/extract_features.yaml \
--data_folder /path/to/ESD

or, with several processes, each of which takes its share:

> torchrun --standalone --nproc_per_node=4 extract_features.py \
hparams/extract_features.yaml --data_folder /path/to/ESD

All splits go into one HDF5 file that names the model, its revision and its
configuration. The same command goes on where an interrupted one stopped, also
with another number of processes, and the file comes out the same. A wav that
cannot be used is skipped, logged and listed with the reason in
`skipped_file`; if more than `max_bad_share` are, the script fails.
"""

import os
import sys

from speechbrain_emofilm.dataio.audio import load_audio
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
from speechbrain_emofilm.utils.files import write_json

import speechbrain as sb
import torch
from esd_prepare import prepare_esd
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.dataio import load_data_json
from speechbrain.utils.distributed import (
    ddp_barrier,
    ddp_init_group,
    if_main_process,
    run_on_main,
)
from speechbrain.utils.logger import get_logger
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transitions_prepare import corpus_manifests, prepare_transitions

logger = get_logger(__name__)

#: Peak below which a wav counts as silent: -80 dB relative to full scale.
SILENCE = 1e-4


class WavBatches(torch.utils.data.Dataset):
    """Reads the wavs of batches.

    Arguments
    ---------
    batches : list
        For each batch, a list of (utterance id, path of the wav, duration).
    sample_rate : int
        The rate wanted, in Hz.
    shortest : float
        Shortest duration of use, in seconds.
    max_duration : float
        Longest duration accepted, in seconds.
    """

    def __init__(self, batches, sample_rate, shortest, max_duration):
        self.batches = batches
        self.sample_rate = sample_rate
        self.shortest = shortest
        self.max_duration = max_duration

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        """The wavs (T,) of a batch, and the reasons for those left out."""
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
        """Reads a wav of which the manifest is still true.

        Arguments
        ---------
        path : str
            An audio file of any sample rate.
        duration : float
            Its duration by the manifest, in seconds.

        Returns
        -------
        torch.Tensor
            Samples (T,).

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it cannot be used, or is another one than was prepared.
        """
        wav = load_audio(path, self.sample_rate, self.max_duration)
        seconds = len(wav) / self.sample_rate
        if abs(seconds - duration) > 0.05:
            raise ValueError(
                f"{path}: it lasts {seconds:.2f} s, but {duration:.2f} s by "
                "the manifest; prepare the corpus again."
            )
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


def read_manifests(manifests, data_folder):
    """Finds the wavs of a corpus.

    Arguments
    ---------
    manifests : list of str
        The corpus's manifests.
    data_folder : str
        The corpus.

    Returns
    -------
    dict
        Utterance id to (path of the wav, duration).
    """
    wavs = {}
    for manifest in manifests:
        items = load_data_json(manifest, {"data_root": data_folder})
        for utterance, item in items.items():
            wavs[utterance] = (item["wav"], item["duration"])
    return wavs


def make_batches(wavs, max_batch_length):
    """Groups utterances of similar length, the longest first.

    The grouping depends on the corpus alone, not on what is done already nor
    on the number of processes: the last bits of an utterance's features may
    depend on the batch it was in.

    Arguments
    ---------
    wavs : dict
        Utterance id to (path of the wav, duration).
    max_batch_length : float
        Seconds of speech in a batch, with its padding; a longer utterance
        goes alone.

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
    """Leaves out the batches whose features are stored already.

    Arguments
    ---------
    batches : list
        As `make_batches` gives them.
    path : str
        The cache.
    identity : dict
        Of the extractor in use.

    Returns
    -------
    list
        The batches with an utterance that is missing, or whose wav has
        changed.
    """
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
    """Computes and stores the features of batches.

    Arguments
    ---------
    extractor : FrameFeatureExtractor
        Computes the frames.
    batches : list
        As `make_batches` gives them.
    identity : dict
        Of the extractor.
    hparams : dict
        The recipe's hyperparameters.
    device : str
        Where the extractor runs.
    """
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
            for name, reason in skipped.items():
                logger.warning(f"{name} skipped. {reason}")
            write_part(
                hparams["feature_cache"], identity, features, sizes, skipped
            )
            progress.update(len(features) + len(skipped))


def extract_features(extractor, wavs, device):
    """Computes the features of a batch.

    Arguments
    ---------
    extractor : FrameFeatureExtractor
        Computes the frames.
    wavs : dict
        Utterance id to samples (T,).
    device : str
        Where the extractor runs.

    Returns
    -------
    dict
        Utterance id to frames (F, D), on the CPU.
    """
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


def check_skipped(skipped, n_utterances, max_bad_share, path):
    """Lists the utterances that were skipped; fails if they are too many.

    Arguments
    ---------
    skipped : dict
        Utterance id to the reason.
    n_utterances : int
        Of the whole corpus.
    max_bad_share : float
        Largest share that may be skipped, 0 to 1.
    path : str
        The list's file.

    Raises
    ------
    ValueError
        If more are.
    """
    write_json(path, skipped)
    if len(skipped) > max_bad_share * n_utterances:
        name, reason = next(iter(skipped.items()))
        raise ValueError(
            f"{len(skipped)} of {n_utterances} utterances have no emotion "
            f"features, more than max_bad_share {max_bad_share:g} allows. "
            f"The first, {name}: {reason} All are listed in {path}; run the "
            "same command again when they are mended."
        )


def prepare(hparams):
    """Makes the manifests."""
    prepare_esd(**hparams["prepare_opts"])
    prepare_transitions(hparams["data_folder"], hparams["prepared_folder"])


if __name__ == "__main__":
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    ddp_init_group(run_opts)
    with open(hparams_file, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    if not hparams["skip_prep"]:
        run_on_main(prepare, args=[hparams])
    wavs = read_manifests(corpus_manifests(hparams), hparams["data_folder"])
    extractor = hparams["emotion_features"]
    identity = extractor_identity(extractor)
    batches = run_on_main(
        pending_batches,
        args=[
            make_batches(wavs, hparams["max_batch_length"]),
            hparams["feature_cache"],
            identity,
        ],
    )
    rank = int(os.environ.get("RANK", 0))
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    extract_batches(
        extractor,
        batches[rank::world_size],
        identity,
        hparams,
        process_device(run_opts),
    )
    ddp_barrier()
    skipped = run_on_main(
        merge_parts, args=[hparams["feature_cache"], identity, set(wavs)]
    )
    run_on_main(
        check_skipped,
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

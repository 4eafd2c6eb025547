"""Access to a prepared corpus in ESD's layout: manifests, items and audio."""

from pathlib import Path

from speechbrain_emofilm.dataio.audio import load_audio

from esd_prepare import prepare_esd
from speechbrain.dataio.dataio import load_data_json
from transitions_prepare import prepare_transitions


def prepare_corpus(hparams):
    """Write all manifests of the corpus, unless `skip_prep` is set."""
    if not hparams["skip_prep"]:
        prepare_esd(**hparams["prepare_opts"])
        prepare_transitions(hparams["data_folder"], hparams["prepared_folder"])


def corpus_manifests(hparams, splits=None):
    """List the manifests of splits (default: all), with transitions if any,
    and varied readings if there are some.
    """
    chosen, transitions = (
        [paths[split] for split in splits or paths]
        for paths in (hparams["manifests"], hparams["transitions_manifests"])
    )
    if hparams.get("axes") and hparams["prosody_variations"]:
        varied = hparams["varied_manifests"]
        transitions += [varied[s] for s in splits or varied if s in varied]
    return chosen + [path for path in transitions if Path(path).is_file()]


def read_manifests(manifests, data_folder):
    """Read the items of manifests by utterance id."""
    items = {}
    for manifest in manifests:
        items.update(load_data_json(manifest, {"data_root": data_folder}))
    return items


def list_wavs(hparams):
    """Map all utterance ids to (path of the wav, duration in seconds)."""
    items = read_manifests(corpus_manifests(hparams), hparams["data_folder"])
    return {u: (item["wav"], item["duration"]) for u, item in items.items()}


def read_wav(path, duration, sample_rate, max_duration):
    """Read a wav (T,), and check that it lasts as long as in the manifest."""
    wav = load_audio(path, sample_rate, max_duration)
    seconds = len(wav) / sample_rate
    if abs(seconds - duration) > 0.05:
        raise ValueError(
            f"{path}: it lasts {seconds:.2f} s, but {duration:.2f} s by the "
            "manifest; prepare the corpus again."
        )
    return wav

"""Systems that speak the utterances of an evaluation.

:func:`synthesise` speaks only what was not spoken before: the key of a
recording hashes everything that changes its sound, which is weights and
voices, steps of the decoder, sampling options, seed, guidance, the marked text
and the voice.
"""

import functools
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from operator import attrgetter
from pathlib import Path

import speechbrain_emofilm
from speechbrain_emofilm.dataio.labels import UtteranceLabels
from speechbrain_emofilm.dataio.markup import write_markup
from speechbrain_emofilm.dataio.speech_tokens import read_speech_tokens
from speechbrain_emofilm.inference.prompted_token_to_wav import (
    PromptedTokenToWav,
)
from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer
from speechbrain_emofilm.lobes.efilm import NoFusion
from speechbrain_emofilm.utils.assets import find_file
from speechbrain_emofilm.utils.files import (
    atomic_path,
    file_fingerprint,
    read_json,
    write_json,
)

import soundfile
import torch
from tqdm import tqdm

#: Systems that are always compared, and folders next to theirs.
RESERVED = (
    "original", "copy_synthesis", "backbone", "efilm", "classifier",
    "neutral_copy", "neutral_reading", "natural_speech", "per_span",
)  # fmt: skip

#: Module of a language model that only its training uses.
UNHEARD = "emotion_loss"
#: Recordings that can prompt a model, as extract_speaker_embeddings.py of the
#: ESD recipe makes voices of them.
REFERENCE_KINDS = ("neutral", "matched", "same")


@dataclass(frozen=True)
class Utterance:
    """An utterance and what is known or asked of its words.

    Arguments
    ---------
    id : str
        Its id.
    wav : str
        Recording of the corpus.
    speaker : str
        Name of the speaker.
    text : str
        Text without marks.
    emotion : str or None
        Emotion of the sentence; None where it changes from word to word.
    labels : UtteranceLabels or None
        Emotion and times of each word.
    asked : list of dict, optional
        Change of prosody asked of each word.
    """

    id: str
    wav: str
    speaker: str
    text: str
    emotion: str | None = None
    labels: UtteranceLabels | None = None
    asked: Sequence[dict] = ()

    @property
    def part(self):
        """Either "mixed", if the emotion changes within it, or "single"."""
        return "mixed" if self.emotion is None else "single"

    @property
    def emotions(self):
        """Emotion of each word; None for a word without one."""
        return [word.emotion for word in getattr(self.labels, "words", [])]

    @property
    def marked_text(self):
        """The text with the labels as marks."""
        if self.labels is None:
            return escape(self.text, quote=False)
        return write_markup(self.text, self.labels.words)


@dataclass(frozen=True)
class System:
    """Way to speak utterances.

    Arguments
    ---------
    folder : Path
        Folder of its speech and measurements.
    version : str
        Hash that changes whenever the system would speak differently.
    speak : callable
        Utterances, their requests and their voices to waves (T,).
    voice : callable
        Utterance to the name of its voice.
    request : callable
        Utterance to the text to speak, with or without marks.
    wav_folder : Path or None
        Folder of the wav files; None for `wavs` in `folder`.
    """

    folder: Path
    version: str
    speak: Callable
    voice: Callable = attrgetter("speaker")
    request: Callable = attrgetter("marked_text")
    wav_folder: Path | None = None

    def wav_file(self, utterance):
        """Name the wav file of an utterance."""
        folder = self.wav_folder or self.folder / "wavs"
        return folder / f"{utterance.id}.wav"

    def key(self, utterance):
        """Hash everything that changes the sound of an utterance."""
        request = [
            self.version,
            self.request(utterance),
            self.voice(utterance),
        ]
        return hashlib.sha256(json.dumps(request).encode()).hexdigest()[:16]


def make_systems(
    model_folder,
    backbone_emofilm,
    compared_models,
    speech_tokens,
    speech_tokenizer_file,
    output_folder,
    reference_folder,
    baseline_emotion,
    synthesis_seed,
    guidance,
    device,
    references=(),
    voices_folder=None,
):
    """Make the systems that are compared on a corpus.

    Arguments
    ---------
    model_folder : str or Path
        Output folder of the training that is evaluated.
    backbone_emofilm : torch.nn.Module
        The language model as it was before training.
    compared_models : dict
        Name of a further system to an output folder of train.py.
    speech_tokens : str or Path
        The corpus's speech tokens.
    speech_tokenizer_file : str or Path
        Weights of the tokenizer that made them.
    output_folder : str or Path
        Folder of the trained models' speech.
    reference_folder : str or Path
        Folder of the speech that no training changes.
    baseline_emotion : str
        See `choose_voice`.
    synthesis_seed : int
        Seed of the sampling of speech tokens.
    guidance : float
        Strength of the emotions; above 1 exaggerates them.
    device : str
        Device of the models.
    references : sequence of str
        Kinds of reference recordings that prompt the models, some of
        :data:`REFERENCE_KINDS`. Each system is made with the voices of each
        of them, and named by it: ``efilm_matched``; with the utterance itself
        as the reference (``same``) there is only copy synthesis, since it
        would tell a language model what to say. If empty, models speak
        with their own voices.
    voices_folder : str or Path, optional
        Folder with the voices of each kind, ``voices_matched.safetensors``
        and so on.

    Returns
    -------
    systems : dict
        Name to System. ``per_span`` is added where the trained model has
        voices for each emotion.
    synthesizer : EmoFiLMSynthesizer
        The trained one of `model_folder`.
    """
    files = find_voices(references, voices_folder)
    compared = load_compared(compared_models, device)
    synthesizer = EmoFiLMSynthesizer.from_hparams(
        model_folder, run_opts={"device": device}
    )
    backbone = before_training(synthesizer, backbone_emofilm, device)
    cache = read_speech_tokens(
        speech_tokens, file_fingerprint(find_file(speech_tokenizer_file))
    )
    shared = Path(reference_folder)
    tokens_version = file_fingerprint(speech_tokens)

    def tokens_of(utterance):
        return cache.tokens[utterance.id].to(device)

    def voice_in(model):
        return functools.partial(
            choose_voice,
            voices=model.speakers,
            baseline_emotion=baseline_emotion,
        )

    systems = {}
    for kind, file in files.items():
        name = _name_with("copy_synthesis", kind)
        floor = with_voices(backbone, file, device)
        systems[name] = copy_system(
            shared / name,
            floor.mods.token_to_wav,
            tokens_of,
            tokens_version,
            voice_in(floor),
        )
        if kind == "same":
            continue
        name = _name_with("backbone", kind)
        systems[name] = spoken_system(
            shared / name,
            floor,
            synthesis_seed,
            voice=voice_in(floor),
            request=attrgetter("text"),
        )
        models = {
            name: with_voices(model, file, device)
            for name, model in {"efilm": synthesizer, **compared}.items()
        }
        for name, model in models.items():
            name = _name_with(name, kind)
            systems[name] = spoken_system(
                Path(output_folder) / name,
                model,
                synthesis_seed,
                guidance,
                voice=voice_in(model),
            )
        if any("/" in speaker for speaker in models["efilm"].speakers):
            systems["per_span"] = spoken_system(
                Path(output_folder) / "per_span",
                models["efilm"],
                synthesis_seed,
                guidance,
                reference="per_span",
            )
    return systems, synthesizer


def _name_with(system, kind):
    """Name a system by the kind of its voices, if there are several."""
    return f"{system}_{kind}" if kind else system


def split_kind(name):
    """Split the name of a system from the kind of its voices.

    Arguments
    ---------
    name : str
        Name as `make_systems` gives it.

    Returns
    -------
    system : str
        Name without the kind.
    kind : str
        One of :data:`REFERENCE_KINDS`; empty without one.

    Example
    -------
    >>> split_kind("efilm_matched"), split_kind("efilm")
    (('efilm', 'matched'), ('efilm', ''))
    """
    system, _, kind = name.rpartition("_")
    return (system, kind) if kind in REFERENCE_KINDS else (name, "")


def counterpart(name, system):
    """Name another system with the same kind of voices.

    Arguments
    ---------
    name : str
        Name of a system.
    system : str
        Name of the other system without the kind.

    Example
    -------
    >>> counterpart("efilm_matched", "backbone")
    'backbone_matched'
    """
    return _name_with(system, split_kind(name)[1])


def find_voices(references, voices_folder):
    """Find the voices of each kind of reference recordings.

    Arguments
    ---------
    references : sequence of str
        Some of :data:`REFERENCE_KINDS`.
    voices_folder : str or Path
        Folder of the voices.

    Returns
    -------
    dict
        Kind to file; ``{"": None}``, the models' own voices, without any.

    Raises
    ------
    ValueError
        If a kind is unknown.
    FileNotFoundError
        If a file is missing.
    """
    files = {}
    for kind in references:
        if kind not in REFERENCE_KINDS:
            raise ValueError(
                f"references: {kind!r} is unknown; choose from "
                f"{', '.join(REFERENCE_KINDS)}."
            )
        files[kind] = Path(voices_folder) / f"voices_{kind}.safetensors"
        if not files[kind].is_file():
            raise FileNotFoundError(
                f"{files[kind]} does not exist: make it with "
                f"extract_speaker_embeddings.py --reference={kind}, or leave "
                f"{kind} out of references."
            )
    return files or {"": None}


def with_voices(synthesizer, voices, device):
    """Make a synthesizer that differs only in its voices.

    Arguments
    ---------
    synthesizer : EmoFiLMSynthesizer
        A trained one, whose decoder is prompted with recordings.
    voices : str or Path or None
        File of the voices; None for the same synthesizer.
    device : str
        Device of the model.

    Raises
    ------
    ValueError
        If the voices of the model cannot be exchanged.
    """
    if voices is None:
        return synthesizer
    decoder = synthesizer.mods.token_to_wav
    if not isinstance(decoder, PromptedTokenToWav):
        raise ValueError(
            f"{voices}: {type(decoder).__name__} has fixed voices, which no "
            "recordings can replace; leave references empty."
        )
    return EmoFiLMSynthesizer(
        modules={
            "emofilm": synthesizer.mods.emofilm,
            "token_to_wav": PromptedTokenToWav(
                decoder.mel_decoder,
                decoder.vocoder,
                voices,
                decoder.n_timesteps,
                decoder.sample_rate,
            ),
        },
        hparams=vars(synthesizer.hparams),
        run_opts={"device": device},
    )


def before_training(synthesizer, backbone_emofilm, device):
    """Make a synthesizer that differs only in what was trained.

    Arguments
    ---------
    synthesizer : EmoFiLMSynthesizer
        A trained one.
    backbone_emofilm : torch.nn.Module
        The language model as it was before training.
    device : str
        Device of the model.
    """
    if isinstance(backbone_emofilm.efilm.fusion, NoFusion):
        # Nothing hears the untrained encoder, but its random values would
        # make every run a system of its own, which speaks everything again.
        for parameter in backbone_emofilm.efilm.encoder.parameters():
            parameter.data.zero_()
    return EmoFiLMSynthesizer(
        modules={
            "emofilm": backbone_emofilm,
            "token_to_wav": synthesizer.mods.token_to_wav,
        },
        hparams=vars(synthesizer.hparams),
        run_opts={"device": device},
    )


def copy_system(folder, token_to_wav, tokens, tokens_version, voice, **paths):
    """Make the system that decodes the speech tokens of recordings.

    Arguments
    ---------
    folder : Path
        Folder of its speech and measurements.
    token_to_wav : torch.nn.Module
        The decoder.
    tokens : callable
        Utterance to its speech tokens (T,).
    tokens_version : str
        Hash that changes with any of the tokens.
    voice : callable
        See `System`.
    **paths : Path
        `wav_folder` of `System`.
    """

    def copy(utterances, _, voices):
        return token_to_wav(list(map(tokens, utterances)), voices)

    version = fingerprint(
        token_to_wav, token_to_wav.n_timesteps, tokens_version
    )
    return System(folder, version, copy, voice, attrgetter("text"), **paths)


def spoken_system(
    folder, synthesizer, seed, guidance=1.0, reference=None, **options
):
    """Make the system that speaks text with a synthesizer.

    Arguments
    ---------
    folder : Path
        Folder of its speech and measurements.
    synthesizer : EmoFiLMSynthesizer
        Model that speaks.
    seed : int
        Seed of the sampling of speech tokens.
    guidance : float
        Strength of the emotions; above 1 exaggerates them.
    reference : str, optional
        As in `synthesize` of the synthesizer.
    **options : callable or Path
        `voice`, `request` and `wav_folder` of `System`.
    """

    def speak(_, texts, voices):
        results = synthesizer.synthesize(
            texts,
            speaker=voices,
            seed=seed,
            guidance=guidance,
            batch_size=len(texts),
            reference=reference,
        )
        return [result.wav for result in results]

    sampling = json.dumps(
        getattr(synthesizer.hparams, "generation", {}),
        default=lambda part: [type(part).__name__, vars(part)],
    )
    steps = synthesizer.mods.token_to_wav.n_timesteps
    changes = [steps, sampling, seed, guidance]
    if getattr(synthesizer, "prompting", "cross_lingual") != "cross_lingual":
        changes.append(synthesizer.prompting)
    if reference is not None:
        # The aligner's word times decide where the voice changes.
        changes += [reference, type(synthesizer.aligner).__name__]
    version = fingerprint(synthesizer.mods, *changes)
    return System(folder, version, speak, **options)


def load_compared(folders, device):
    """Load the models that are compared with the trained one.

    Arguments
    ---------
    folders : dict
        Name of a system to an output folder of train.py.
    device : str
        Device of the models.

    Returns
    -------
    dict
        Name to EmoFiLMSynthesizer.

    Raises
    ------
    FileNotFoundError
        If a folder does not exist or has no finished training.
    ValueError
        If a name is reserved, or cannot be the name of a folder.
    """
    for name, folder in folders.items():
        reserved = name in RESERVED or split_kind(name)[1]
        if reserved or not re.fullmatch(r"\w[\w.-]*", name):
            raise ValueError(
                f"compared_models cannot name a system {name!r}: take letters "
                f"and digits, none of {', '.join(RESERVED)}, and no end such "
                "as _matched, which stands for a kind of voices."
            )
        if not Path(folder).is_dir():
            raise FileNotFoundError(
                f"{folder}, {name} of compared_models, does not exist: give "
                "the output folder of a finished training."
            )
    return {
        name: EmoFiLMSynthesizer.from_hparams(
            folder, run_opts={"device": device}
        )
        for name, folder in folders.items()
    }


def choose_voice(utterance, voices, baseline_emotion):
    """Choose the voice of an utterance.

    Arguments
    ---------
    utterance : Utterance
        Utterance to speak.
    voices : list of str
        Voices of the model, named by utterance, by speaker and emotion, or
        by speaker.
    baseline_emotion : str
        Emotion of the voice to take where the speaker has none of the
        utterance's emotion, or the emotion changes within the utterance.

    Returns
    -------
    str
        One of `voices`, the nearest to the utterance.

    Raises
    ------
    ValueError
        If the speaker has no voice.
    """
    names = (
        utterance.id,
        f"{utterance.speaker}/{utterance.emotion}",
        utterance.speaker,
        f"{utterance.speaker}/{baseline_emotion}",
    )
    for name in names:
        if name in voices:
            return name
    raise ValueError(
        f"{utterance.id} of {utterance.speaker} has no voice: the model has "
        f"{len(voices)}, such as {voices[0]}. Make this corpus's with "
        "extract_speaker_embeddings.py, or evaluate the speakers that the "
        "model has."
    )


def fingerprint(modules, *options):
    """Hash the weights and voices of modules, and options.

    Parts that only training uses do not count.

    Arguments
    ---------
    modules : torch.nn.Module
        All modules that take part.
    *options : object
        Everything else that changes the result.

    Returns
    -------
    str
        16 hexadecimal digits.
    """
    digest = hashlib.sha256(
        f"{options}{speechbrain_emofilm.__version__}".encode()
    )
    tensors = [*modules.named_parameters(), *modules.named_buffers()]
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        # The classifier of the training is not saved with the model, so that
        # its values are random; nothing in the speech depends on it.
        if UNHEARD in name.split("."):
            continue
        digest.update(name.encode())
        digest.update(
            tensor.detach().float().cpu().contiguous().numpy().tobytes()
        )
    for module in modules.modules():
        if isinstance(module, PromptedTokenToWav):
            digest.update(file_fingerprint(module.voices_file).encode())
    return digest.hexdigest()[:16]


def synthesise(name, system, utterances, batch_size, sample_rate):
    """Speak the utterances that were not spoken before.

    Arguments
    ---------
    name : str
        Name of the system, for the progress bar.
    system : System
        System that speaks.
    utterances : list of Utterance
        Utterances to speak.
    batch_size : int
        Number of utterances spoken at once.
    sample_rate : int
        In Hz.

    Returns
    -------
    dict
        Utterance id to wav file.
    """
    index_file = system.folder / "wavs.json"
    index = read_json(index_file) if index_file.is_file() else {}
    wavs = {u.id: system.wav_file(u) for u in utterances}
    keys = {u.id: system.key(u) for u in utterances}
    pending = [
        u
        for u in utterances
        if index.get(u.id) != keys[u.id] or not wavs[u.id].is_file()
    ]
    pending.sort(key=lambda u: len(u.text))
    with tqdm(
        total=len(pending), desc=f"Speaking, {name}", disable=not pending
    ) as progress:
        for start in range(0, len(pending), batch_size):
            batch = pending[start : start + batch_size]
            with torch.no_grad():
                spoken = system.speak(
                    batch,
                    list(map(system.request, batch)),
                    list(map(system.voice, batch)),
                )
            for u, wav in zip(batch, spoken):
                write_wav(wavs[u.id], wav, sample_rate)
                index[u.id] = keys[u.id]
            write_json(index_file, index)
            progress.update(len(batch))
    return {name: str(path) for name, path in wavs.items()}


def write_wav(path, wav, sample_rate):
    """Write a wav file with 16-bit samples.

    Arguments
    ---------
    path : Path
        Path of the wav file.
    wav : torch.Tensor
        Samples (T,).
    sample_rate : int
        In Hz.
    """
    with atomic_path(path) as temporary:
        samples = wav.float().cpu().numpy()
        soundfile.write(temporary, samples, sample_rate, "PCM_16")

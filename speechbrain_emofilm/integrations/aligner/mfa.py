"""Forced alignment by the Montreal Forced Aligner (MFA).

MFA is a program of its own, installed by conda; nothing of it is imported.
It aligns a corpus at a time::

    <corpus>/<speaker>/<utterance>.wav and .lab
    mfa align CORPUS DICTIONARY ACOUSTIC_MODEL OUTPUT
    <output>/<speaker>/<utterance>.TextGrid

It tells no confidence. A word that its dictionary lacks (``<unk>``, or the
phone ``spn``) has confidence 0, as MFA only guesses its times; any other 1.

https://montreal-forced-aligner.readthedocs.io
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from speechbrain_emofilm.dataio.alignments import (
    Word,
    find_textgrid,
    match_words,
    read_alignment,
    read_tiers,
)
from speechbrain_emofilm.dataio.audio import load_audio
from speechbrain_emofilm.integrations.aligner.base import (
    AlignmentError,
    UnusableInputError,
    Utterance,
    check_alignment_input,
    resample,
)

import numpy as np
import torch
from speechbrain.dataio import audio_io

SAMPLE_RATE = 16000  # of the corpus that is written for MFA
#: Phone that MFA writes for a word of unknown pronunciation.
UNKNOWN_PHONE = "spn"


class MFAAligner:
    """Aligns with ``mfa align``, or reads what it has written.

    Arguments
    ---------
    dictionary : str
        Pronunciation dictionary, a file or the name of one that
        ``mfa model download dictionary NAME`` has fetched.
    acoustic_model : str
        Acoustic model, a file or the name of one that
        ``mfa model download acoustic NAME`` has fetched.
    textgrid_folder : str or Path, optional
        Output of an earlier ``mfa align``, which is read instead of running
        the program.
    command : str
        Name or path of the program.
    options : list of str
        Further arguments of ``mfa align``. ``--clean`` forgets what an
        interrupted run has left.
    language : str
        Language of dictionary and model.

    Raises
    ------
    FileNotFoundError
        If the program is not installed, or there is no `textgrid_folder`.
    """

    def __init__(
        self,
        dictionary: str = "english_us_arpa",
        acoustic_model: str = "english_us_arpa",
        textgrid_folder: str | Path | None = None,
        command: str = "mfa",
        options: Sequence[str] = ("--clean",),
        language: str = "en",
    ):
        self.dictionary = dictionary
        self.acoustic_model = acoustic_model
        self.textgrid_folder = textgrid_folder
        self.command = command
        self.options = list(options)
        self.language = language
        if textgrid_folder is None and shutil.which(command) is None:
            raise FileNotFoundError(
                f"The program {command!r} of the Montreal Forced Aligner is "
                "not on PATH: install it (conda install -c conda-forge "
                "montreal-forced-aligner), give textgrid_folder with what it "
                "wrote elsewhere, or use another aligner."
            )
        if textgrid_folder is not None and not Path(textgrid_folder).is_dir():
            raise FileNotFoundError(
                f"textgrid_folder {textgrid_folder} does not exist: give the "
                "folder that mfa align wrote."
            )

    def align(
        self, wav, sample_rate: int, text: str, language: str = "en"
    ) -> list[Word]:
        """Align one utterance, which takes MFA some seconds.

        Arguments
        ---------
        wav : numpy.ndarray or torch.Tensor
            Sound (T,), within -1 and 1.
        sample_rate : int
            Its samples per second.
        text : str
            Transcript.
        language : str
            That of dictionary and model.

        Returns
        -------
        list of Word
            One for each word of the text.

        Raises
        ------
        UnusableInputError
            If the sound or the text cannot be used.
        AlignmentError
            If MFA does not align it.
        RuntimeError
            If MFA fails.
        """
        with tempfile.TemporaryDirectory() as folder:
            utterance = Utterance(
                id="utterance",
                wav="",
                text=text,
                speaker="speaker",
                language=language,
                duration=len(wav) / sample_rate,
            )
            corpus, output = Path(folder, "corpus"), Path(folder, "output")
            self._write_utterance(corpus, utterance, wav, sample_rate)
            self._run(corpus, output)
            return read_mfa_alignment(output, utterance)

    def align_corpus(
        self, utterances: Iterable[Utterance], folder: str | Path
    ) -> Iterator[tuple[str, list[Word] | Exception]]:
        """Align many utterances in one run.

        Arguments
        ---------
        utterances : iterable of Utterance
            What to align.
        folder : str or Path
            Where corpus and output of MFA go meanwhile: new folders, removed
            afterwards.

        Yields
        ------
        utterance : str
            The id.
        words : list of Word or Exception
            The words, or why there are none.

        Raises
        ------
        RuntimeError
            If MFA fails.
        """
        utterances = list(utterances)
        if self.textgrid_folder is not None:
            yield from _read_all(self.textgrid_folder, utterances)
            return
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="mfa.") as place:
            corpus, output = Path(place, "corpus"), Path(place, "output")
            written = []
            for utterance in utterances:
                try:
                    wav = load_audio(utterance.wav, SAMPLE_RATE)
                    self._write_utterance(corpus, utterance, wav, SAMPLE_RATE)
                except (ValueError, FileNotFoundError) as error:
                    yield utterance.id, error
                else:
                    written.append(utterance)
            if written:
                self._run(corpus, output)
            yield from _read_all(output, written)

    def _write_utterance(self, corpus, utterance, wav, sample_rate):
        """Write ``<corpus>/<speaker>/<utterance>.wav`` and ``.lab``."""
        if utterance.language != self.language:
            raise UnusableInputError(
                f"MFA's dictionary {self.dictionary} is for the language "
                f"{self.language!r}, but {utterance.text!r} is "
                f"{utterance.language!r}: use another dictionary and model."
            )
        wav, words = check_alignment_input(wav, sample_rate, utterance.text)
        wav = resample(wav, sample_rate, SAMPLE_RATE)
        speaker = corpus / utterance.speaker
        speaker.mkdir(parents=True, exist_ok=True)
        samples = torch.from_numpy(np.clip(wav, -1, 1)).float()
        path = speaker / f"{utterance.id}.wav"
        audio_io.save(str(path), samples[None], SAMPLE_RATE)
        lab = " ".join(words).replace("’", "'")
        path.with_suffix(".lab").write_text(lab, encoding="utf-8")

    def _run(self, corpus, output):
        """Run ``mfa align``, whose progress goes to the terminal."""
        command = [self.command, "align", *self.options, str(corpus)]
        command += [self.dictionary, self.acoustic_model, str(output)]
        status = subprocess.run(command, env=os.environ).returncode
        if status:
            raise RuntimeError(
                f"'{' '.join(command)}' ended with status {status}: its "
                "message is above; check dictionary and acoustic model."
            )


def read_mfa_alignment(folder: str | Path, utterance: Utterance) -> list[Word]:
    """Read the words of an utterance from the output of ``mfa align``.

    Arguments
    ---------
    folder : str or Path
        The output.
    utterance : Utterance
        Of which.

    Returns
    -------
    list of Word
        The words of its text.

    Raises
    ------
    AlignmentError
        If MFA wrote no TextGrid, as it does where it finds no alignment.
    ValueError
        If the TextGrid is broken or of another text.
    """
    try:
        path = find_textgrid(folder, utterance.id, utterance.speaker)
    except FileNotFoundError as error:
        raise AlignmentError(
            f"MFA found no alignment of {utterance.id} ({utterance.text!r}): "
            "check that the transcript is the utterance's own."
        ) from error
    words = match_words(read_alignment(path), utterance.text, path)
    unknown = _unknown_times(read_tiers(path))
    return [
        Word(
            word.text,
            word.start,
            word.end,
            0.0 if (word.start, word.end) in unknown else word.confidence,
        )
        for word in words
    ]


def _read_all(folder, utterances):
    """Yield each id with its words, or with the error."""
    for utterance in utterances:
        try:
            yield utterance.id, read_mfa_alignment(folder, utterance)
        except ValueError as error:
            yield utterance.id, error


def _unknown_times(tiers):
    """Times of the words that MFA could not pronounce."""
    return {
        (start, end)
        for name, intervals in tiers.items()
        if name == "phones" or name.endswith(" - phones")
        for start, end, phone in intervals
        if phone == UNKNOWN_PHONE
    }

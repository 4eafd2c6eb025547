"""Forced alignment with the Montreal Forced Aligner (MFA).

MFA is a separate program, installed by conda; nothing of it is imported. It
aligns whole corpora::

    <corpus>/<speaker>/<utterance>.wav and .lab
    mfa align CORPUS DICTIONARY ACOUSTIC_MODEL OUTPUT
    <output>/<speaker>/<utterance>.TextGrid

It reports no confidence. Words missing in its dictionary (``<unk>``, or the
phone ``spn``) get confidence 0, as MFA only guesses their times; others get 1.

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
    Aligner,
    AlignmentError,
    AlignmentInput,
    UnusableInputError,
    check_alignment_input,
    resample,
)

import numpy as np
import torch
from speechbrain.dataio import audio_io

SAMPLE_RATE = 16000  # Hz, of the corpus written for MFA
#: Phone that MFA writes for words of unknown pronunciation.
UNKNOWN_PHONE = "spn"


class MFAAligner(Aligner):
    """Aligner that runs ``mfa align``, or reads its earlier output.

    Arguments
    ---------
    dictionary : str
        Pronunciation dictionary, a file or the name of one that
        ``mfa model download dictionary NAME`` has fetched.
    acoustic_model : str
        Acoustic model, a file or the name of one that
        ``mfa model download acoustic NAME`` has fetched.
    textgrid_folder : str or Path, optional
        Output folder of an earlier ``mfa align``, to read instead of running
        the program.
    command : str
        Name or path of the program.
    options : list of str
        Further arguments of ``mfa align``. ``--clean`` discards what an
        interrupted run left behind.
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
        """Align one utterance in some seconds, see :meth:`Aligner.align`.

        Raises
        ------
        RuntimeError
            If MFA fails.
        """
        with tempfile.TemporaryDirectory() as folder:
            utterance = AlignmentInput(
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
        self, utterances: Iterable[AlignmentInput], folder: str | Path
    ) -> Iterator[tuple[str, list[Word] | Exception]]:
        """Align many utterances in one run.

        Arguments
        ---------
        utterances : iterable of AlignmentInput
            Utterances to align.
        folder : str or Path
            Parent of the temporary folders for MFA's corpus and output.

        Yields
        ------
        utterance : str
            Utterance id.
        words : list of Word or Exception
            Words, or the error that prevented the alignment.

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
        """Run ``mfa align``, which prints its progress to the terminal."""
        command = [self.command, "align", *self.options, str(corpus)]
        command += [self.dictionary, self.acoustic_model, str(output)]
        status = subprocess.run(command, env=os.environ).returncode
        if status:
            raise RuntimeError(
                f"'{' '.join(command)}' ended with status {status}: see "
                "its message above; check dictionary and acoustic model."
            )


def read_mfa_alignment(
    folder: str | Path, utterance: AlignmentInput
) -> list[Word]:
    """Read the words of an utterance from the output of ``mfa align``.

    Arguments
    ---------
    folder : str or Path
        Output folder of ``mfa align``.
    utterance : AlignmentInput
        Utterance to read.

    Returns
    -------
    list of Word
        Words of the transcript with their times.

    Raises
    ------
    AlignmentError
        If MFA wrote no TextGrid, as it does where it finds no alignment.
    ValueError
        If the TextGrid is broken or belongs to another text.
    """
    try:
        path = find_textgrid(folder, utterance.id, utterance.speaker)
    except FileNotFoundError as error:
        raise AlignmentError(
            f"MFA found no alignment of {utterance.id} ({utterance.text!r}): "
            "check that the transcript is the utterance's own."
        ) from error
    timed = read_alignment(path, duration=utterance.duration)
    words = match_words(timed, utterance.text, path)
    unknown = _unknown_times(read_tiers(path))
    return [
        Word(
            word.text,
            word.start,
            word.end,
            0.0
            if any(start <= word.start < end for start, end in unknown)
            else word.confidence,
        )
        for word in words
    ]


def _read_all(folder, utterances):
    """Yield each id with its words or the error."""
    for utterance in utterances:
        try:
            yield utterance.id, read_mfa_alignment(folder, utterance)
        except ValueError as error:
            yield utterance.id, error


def _unknown_times(tiers):
    """Collect the times of words that MFA could not pronounce."""
    return {
        (start, end)
        for name, intervals in tiers.items()
        if name == "phones" or name.endswith(" - phones")
        for start, end, phone in intervals
        if phone == UNKNOWN_PHONE
    }

"""Forced alignment of a text by the aligner of its language."""

from collections.abc import Callable, Mapping

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.text import language_of
from speechbrain_emofilm.integrations.aligner.base import (
    Aligner,
    UnusableInputError,
)


class AlignerByLanguage(Aligner):
    """Aligner that passes each text to the aligner of its language.

    Arguments
    ---------
    aligners : dict
        Language (``"en"``, ``"zh"``) to a function that makes its aligner (in
        hparams: ``!name:``). An aligner is made when it is first needed.

    Example
    -------
    >>> from speechbrain_emofilm.integrations.aligner.pocketsphinx import (
    ...     PocketsphinxAligner,
    ... )
    >>> aligner = AlignerByLanguage({"en": PocketsphinxAligner})
    >>> aligner.align([0.0] * 16000, 16000, "我们赢了")
    Traceback (most recent call last):
    ...
    speechbrain_emofilm.integrations.aligner.base.UnusableInputError: \
'我们赢了' is in the language 'zh', but there are aligners of en only: add one.
    """

    def __init__(self, aligners: Mapping[str, Callable[[], Aligner]]):
        self.makers = dict(aligners)
        self.aligners: dict[str, Aligner] = {}

    def align(
        self, wav, sample_rate: int, text: str, language: str | None = None
    ) -> list[Word]:
        """Find the times of the words, see :meth:`Aligner.align`.

        Without `language`, a text with Chinese characters is Mandarin, any
        other English.
        """
        language = language or language_of(text)
        if language not in self.makers:
            raise UnusableInputError(
                f"{text!r} is in the language {language!r}, but there are "
                f"aligners of {', '.join(sorted(self.makers))} only: add one."
            )
        if language not in self.aligners:
            self.aligners[language] = self.makers[language]()
        return self.aligners[language].align(wav, sample_rate, text, language)

"""Text normalisation: numbers, dates and abbreviations as words."""

import logging
import re

from speechbrain_emofilm.dataio.text import is_ideograph
from speechbrain_emofilm.integrations.cosyvoice2.qwen2_tokenizer import (
    SPECIAL_TOKENS,
)

logger = logging.getLogger(__name__)

_SPECIAL = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))


class WeTextNormalizer:
    """Write English and Mandarin as it is spoken, with ``wetext``.

    A text with a Chinese character is normalised as Mandarin, any other as
    English. CosyVoice2's special tokens stay as they are.

    Raises
    ------
    ImportError
        If wetext is missing; the message names the extra.

    Example
    -------
    >>> normalize = WeTextNormalizer()  # doctest: +SKIP
    >>> normalize("I paid $5.")  # doctest: +SKIP
    'I paid five dollars.'
    """

    def __init__(self):
        try:
            from wetext import Normalizer
        except ImportError as error:
            raise ImportError(
                f"Text normalisation needs the package {error.name}: "
                "pip install 'speechbrain-emofilm[cosyvoice]'."
            ) from error
        self._normalizers = {
            language: Normalizer(lang=language, operator="tn")
            for language in ("en", "zh")
        }

    def __call__(self, text: str) -> str:
        """Normalise a text.

        Arguments
        ---------
        text : str
            Any text.

        Returns
        -------
        str
            The text as it is spoken.
        """
        start, pieces = 0, []
        for special in _SPECIAL.finditer(text):
            pieces += [self._piece(text[start : special.start()]), special[0]]
            start = special.end()
        return "".join([*pieces, self._piece(text[start:])])

    def _piece(self, text: str) -> str:
        """Normalise text without special tokens, keeping outer spaces."""
        core = text.strip()
        if not core:
            return text
        language = "zh" if any(map(is_ideograph, core)) else "en"
        try:
            spoken = self._normalizers[language].normalize(core)
        # wetext asserts that its grammars can read the text.
        except (AssertionError, ValueError, RuntimeError, IndexError):
            logger.warning("No normalisation was found for %r.", core)
            return text
        return text.replace(core, spoken)

"""CosyVoice2's text front end: Qwen2's tokenizer with additional tokens."""

import unicodedata
from collections.abc import Collection, Sequence
from pathlib import Path

from speechbrain_emofilm.dataio.normalization import TextNormalizer
from speechbrain_emofilm.dataio.text import (
    END_OF_INSTRUCTION,
    TextUnits,
    blank_tags,
    map_tokens_to_words,
    split_words,
)

from transformers import AutoTokenizer

#: Tokens that CosyVoice2 adds to Qwen2's, in the order of their ids.
SPECIAL_TOKENS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|endofprompt|>",
    "[breath]",
    "<strong>",
    "</strong>",
    "[noise]",
    "[laughter]",
    "[cough]",
    "[clucking]",
    "[accent]",
    "[quick_breath]",
    "<laughter>",
    "</laughter>",
    "[hissing]",
    "[sigh]",
    "[vocalized-noise]",
    "[lipsmack]",
    "[mn]",
)
END_OF_TEXT = "<|endoftext|>"
#: Sounds and ways to speak that a text may name; none of them is a word.
TAGS = SPECIAL_TOKENS[3:]
#: Files of Qwen2's tokenizer; transformers recognises it by the first.
TOKENIZER_FILES = ("config.json", "vocab.json", "merges.txt")


class Qwen2TextFrontend:
    """Converter of text to the tokens of CosyVoice2's language model.

    The text is tokenized as a whole, since the tokens of single words would
    differ; each token is assigned to the word whose letters it holds. An
    instruction (``"Speak softly.<|endofprompt|>We won."``) belongs to no word.

    Qwen2 has tokens of several Chinese characters. Where the emotion changes
    inside such a token, it is replaced by those of its parts, see ``encode``.

    Arguments
    ---------
    folder : str or Path
        ``CosyVoice-BlankEN`` of a CosyVoice2 snapshot, or another folder with
        ``config.json``, ``vocab.json`` and ``merges.txt``.
    normalizer : TextNormalizer, optional
        Writes text as it is spoken, see
        :class:`~speechbrain_emofilm.dataio.normalization.TextNormalizer`. All
        words that a word becomes count as that word.
    language : str
        Language for aligners, ``"en"`` or ``"zh"``. The tokenizer reads both,
        also mixed.

    Raises
    ------
    FileNotFoundError
        If the folder lacks a file of the tokenizer.
    ValueError
        If the files cannot be read.

    Example
    -------
    >>> frontend = Qwen2TextFrontend(
    ...     "pretrained/CosyVoice2-0.5B/CosyVoice-BlankEN"
    ... )  # doctest: +SKIP
    >>> units = frontend.encode("We won, 我们赢了!")  # doctest: +SKIP
    >>> units.words  # doctest: +SKIP
    ['We', 'won', '我', '们', '赢', '了']
    """

    def __init__(
        self,
        folder: str | Path,
        normalizer: TextNormalizer | None = None,
        language: str = "en",
    ):
        self.language = language
        self.tags = TAGS
        self._normalizer = normalizer
        self._tokenizer = _load(Path(folder))

    @property
    def vocab_size(self) -> int:
        """Number of different token ids, including the additional ones."""
        return len(self._tokenizer)

    def encode(self, text: str, borders: Collection[int] = ()) -> TextUnits:
        """Convert text to tokens.

        Arguments
        ---------
        text : str
            English, Mandarin or both, optionally with an instruction and
            special tokens.
        borders : collection of int
            Words at which no token continues, because their emotion differs
            from that of the word before. Without them the tokens are those of
            the original.

        Returns
        -------
        TextUnits
            ids (list of int), word_of_unit (list of int, -1 = no word) and
            words (list of str, of the text before normalisation).

        Raises
        ------
        ValueError
            If there is no word to speak.
        """
        instruction, mark, spoken = text.rpartition(END_OF_INSTRUCTION)
        # The tokenizer would compose letters itself, and then lose the places
        # of the characters after the first.
        spoken = unicodedata.normalize("NFC", spoken)
        words = self._words(spoken)
        if not words:
            raise ValueError(
                f"The text {text!r} has no word to speak: give at least one."
            )
        ids, _ = self._tokenize(instruction + mark)
        word_of_unit = [-1] * len(ids)
        rewritten, origin = self._normalize(spoken)
        plain = blank_tags(rewritten, TAGS)
        starts = [
            word.start
            for word, before, own in zip(
                split_words(plain)[1:], origin, origin[1:]
            )
            if any(before < border <= own for border in borders)
        ]
        new_ids, offsets = self._tokenize(rewritten, starts)
        for word in map_tokens_to_words(offsets, plain):
            word_of_unit.append(-1 if word < 0 else origin[word])
        return TextUnits(ids + new_ids, word_of_unit, list(words.values()))

    @staticmethod
    def _words(text: str) -> dict[int, str]:
        """Find the words outside tags, by their number with those inside."""
        plain = blank_tags(text, TAGS)
        outside = {word.start: word.text for word in split_words(plain)}
        return {
            number: outside[word.start]
            for number, word in enumerate(split_words(text))
            if word.start in outside
        }

    def _normalize(self, text: str) -> tuple[str, list[int]]:
        """Write a text as it is spoken.

        Returns it and, for each of its words outside tags, the number of its
        word outside tags in `text`, or -1.
        """
        words = self._words(text)
        if self._normalizer is None:
            return text, list(range(len(words)))
        rewritten, origin = self._normalizer.trace(text)
        rewritten = unicodedata.normalize("NFC", rewritten)
        place = {number: index for index, number in enumerate(words)}
        return rewritten, [
            place.get(origin[number], -1) for number in self._words(rewritten)
        ]

    def _tokenize(
        self, text: str, borders: Sequence[int] = ()
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Return token ids and the span of characters of each.

        A token that reaches over one of the borders is replaced by the tokens
        of its parts.
        """
        ids, spans = self._tokenize_whole(text)
        new_ids: list[int] = []
        new_spans: list[tuple[int, int]] = []
        for first, last in _groups(spans):
            start, end = spans[first][0], max(e for _, e in spans[first:last])
            inside = [place for place in borders if start < place < end]
            if not inside:
                new_ids += ids[first:last]
                new_spans += spans[first:last]
                continue
            for place, following in zip([start, *inside], [*inside, end]):
                part_ids, part = self._tokenize_whole(text[place:following])
                new_ids += part_ids
                new_spans += [(a + place, b + place) for a, b in part]
        return new_ids, new_spans

    def _tokenize_whole(
        self, text: str
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Do the same with Qwen2's own tokens."""
        tokens = self._tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True
        )
        return tokens["input_ids"], tokens["offset_mapping"]


def _groups(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Find the runs of tokens that share characters, by their bytes."""
    groups: list[tuple[int, int]] = []
    reached = 0
    for index, (start, end) in enumerate(spans):
        if groups and start < reached:
            groups[-1] = (groups[-1][0], index + 1)
        else:
            groups.append((index, index + 1))
        reached = max(reached, end)
    return groups


def _load(folder: Path):
    """Load the tokenizer and add CosyVoice2's tokens."""
    missing = [n for n in TOKENIZER_FILES if not (folder / n).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} has no {' and no '.join(missing)}: give the folder "
            "CosyVoice-BlankEN of a CosyVoice2-0.5B snapshot."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    # The tokenizers library has no error class of its own.
    except Exception as error:
        raise ValueError(
            f"{folder} has no readable tokenizer "
            f"({' '.join(str(error).split())}): get its files again."
        ) from error
    if not tokenizer.is_fast:
        raise ValueError(
            f"{folder} has a tokenizer without the positions of its tokens "
            "in the text: give the folder CosyVoice-BlankEN of a "
            "CosyVoice2-0.5B snapshot."
        )
    tokenizer.add_special_tokens(
        {
            "eos_token": END_OF_TEXT,
            "pad_token": END_OF_TEXT,
            "additional_special_tokens": list(SPECIAL_TOKENS),
        }
    )
    return tokenizer

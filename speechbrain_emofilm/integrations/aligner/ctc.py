"""Forced alignment with a CTC speech recogniser.

Any model with log probabilities of characters (or word pieces) and the CTC
blank can align the words of its language; in Mandarin every character is a
word. The search is ``torchaudio.functional.forced_align``, which is compiled:
torch and torchaudio must come from the same package index. Where they do not,
use :func:`viterbi_search` instead.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.integrations.aligner.base import (
    Aligner,
    AlignmentError,
    UnusableInputError,
    check_alignment_input,
    resample,
)

import torch
import torchaudio


class CTCRecogniser(Protocol):
    """Interface of the recognisers that :class:`CTCAligner` can use.

    Arguments
    ---------
    sample_rate : int
        Sample rate of the model's input, in Hz.
    blank : int
        Id of the CTC blank.
    separator : int, optional
        Id of the token between words, if there is one.
    """

    sample_rate: int
    blank: int
    separator: int | None

    def log_probs(self, wav: torch.Tensor) -> torch.Tensor:
        """Compute the log probabilities of the tokens.

        Arguments
        ---------
        wav : torch.Tensor
            Sound (T,).

        Returns
        -------
        torch.Tensor
            Log probabilities of the frames (F, V), on the CPU.
        """

    def token_ids(self, word: str) -> list[int]:
        """Return the ids of the word's characters or pieces that it knows.

        Arguments
        ---------
        word : str
            The word.
        """


class HuggingFaceCTC:
    """CTC recogniser of ``transformers``, such as a fine-tuned wav2vec 2.0.

    Arguments
    ---------
    source : str
        Name on the Hugging Face hub, or a local folder.
    revision : str, optional
        Commit or tag on the hub.
    """

    def __init__(self, source: str, revision: str | None = None):
        from transformers import (
            AutoFeatureExtractor,
            AutoModelForCTC,
            AutoTokenizer,
        )

        names = {"pretrained_model_name_or_path": source, "revision": revision}
        self.extractor = AutoFeatureExtractor.from_pretrained(**names)
        tokenizer = AutoTokenizer.from_pretrained(**names)
        self.model = AutoModelForCTC.from_pretrained(**names).eval()
        self.sample_rate = self.extractor.sampling_rate
        self.vocabulary = tokenizer.get_vocab()
        self.blank = self.model.config.pad_token_id
        self.separator = self.vocabulary.get(
            getattr(tokenizer, "word_delimiter_token", None)
        )

    def log_probs(self, wav: torch.Tensor) -> torch.Tensor:
        """Compute log probabilities (F, V) of a sound (T,)."""
        inputs = self.extractor(
            wav.numpy(), sampling_rate=self.sample_rate, return_tensors="pt"
        )
        logits = self.model(inputs.input_values.to(self.model.device)).logits
        return logits[0].log_softmax(-1).cpu()

    def token_ids(self, word: str) -> list[int]:
        """Return the ids of a word's characters that the model knows."""
        return character_ids(word, self.vocabulary)


class SpeechBrainCTC:
    """CTC recogniser of SpeechBrain, an ``EncoderASR``.

    Arguments
    ---------
    source : str or Path
        Folder with ``hyperparams.yaml`` and the checkpoints. It must be
        local and trusted: SpeechBrain constructs any class that the file
        names.
    sample_rate : int
        Sample rate of the model's input, in Hz.
    blank : int
        Id of the CTC blank.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    """

    def __init__(
        self, source: str | Path, sample_rate: int = 16000, blank: int = 0
    ):
        from speechbrain.inference.ASR import EncoderASR

        if not Path(source, "hyperparams.yaml").is_file():
            raise FileNotFoundError(
                f"{source} holds no hyperparams.yaml: download the model, "
                "read that file, and give its folder."
            )
        self.model = EncoderASR.from_hparams(source=str(source))
        self.sample_rate = sample_rate
        self.blank = blank
        self.separator = None

    def log_probs(self, wav: torch.Tensor) -> torch.Tensor:
        """Compute log probabilities (F, V) of a sound (T,)."""
        return self.model.encode_batch(wav[None], torch.ones(1))[0].cpu()

    def token_ids(self, word: str) -> list[int]:
        """Return the ids of a word's characters or pieces that it knows."""
        tokenizer = self.model.tokenizer
        if hasattr(tokenizer, "lab2ind"):  # a CTCTextEncoder of characters
            return character_ids(word, tokenizer.lab2ind)
        ids = tokenizer.encode_as_ids(word)  # SentencePiece
        if ids and tokenizer.unk_id() in ids:
            ids = tokenizer.encode_as_ids(word.upper())
        return [i for i in ids if i != tokenizer.unk_id()]


def character_ids(word: str, vocabulary: dict[str, int]) -> list[int]:
    """Look up characters, if necessary in upper or lower case.

    Arguments
    ---------
    word : str
        The word.
    vocabulary : dict
        Character to id.

    Returns
    -------
    list of int
        Ids of the characters that the vocabulary has.

    Example
    -------
    >>> character_ids("We’ll", {"W": 3, "E": 4, "L": 5, "'": 6})
    [3, 4, 6, 5, 5]
    """
    ids = []
    for character in word.replace("’", "'"):
        for form in (character, character.upper(), character.lower()):
            if form in vocabulary:
                ids.append(vocabulary[form])
                break
    return ids


class CTCAligner(Aligner):
    """Aligner of words with the tokens of a CTC recogniser.

    Arguments
    ---------
    model : callable
        Function that builds a :class:`CTCRecogniser`, for instance
        :class:`HuggingFaceCTC` with its arguments (in hparams: ``!name:``).
    language : str
        Language of the recogniser.
    max_extension : float
        Maximum extension of a word into neighbouring blank frames, in
        seconds. CTC models mark a token by a short peak; the blank frames
        between two words are divided between them.
    search : callable, optional
        Search for the best path through the frames, called as
        ``search(log_probs (1, F, V), targets (1, L), blank=blank)``; by
        default ``torchaudio.functional.forced_align``. :func:`viterbi_search`
        gives the same result without the compiled library, but is slower.

    Raises
    ------
    ImportError
        If torchaudio's compiled library is missing and `search` is not given.
    """

    def __init__(
        self,
        model: Callable[[], CTCRecogniser],
        language: str = "zh",
        max_extension: float = 0.1,
        search: Callable | None = None,
    ):
        if search is None:
            _check_forced_align()
            search = torchaudio.functional.forced_align
        self.search = search
        self.model = model()
        self.language = language
        self.max_extension = max_extension

    @torch.inference_mode()
    def align(
        self, wav, sample_rate: int, text: str, language: str = "zh"
    ) -> list[Word]:
        """Find the times of the words, see :meth:`Aligner.align`.

        The confidence of a word is the mean posterior of its tokens; 0 for a
        word without known tokens, which is placed between its neighbours.
        """
        if language != self.language:
            raise UnusableInputError(
                f"The CTC model is for the language {self.language!r}, but "
                f"{text!r} is {language!r}: use another model."
            )
        wav, words = check_alignment_input(wav, sample_rate, text)
        ids = [self.model.token_ids(word) for word in words]
        if not any(ids):
            raise UnusableInputError(
                f"The CTC model knows no character of {text!r}: use a model "
                "of its language, and write numbers as words."
            )
        duration = len(wav) / sample_rate
        wav = resample(wav, sample_rate, self.model.sample_rate)
        log_probs = self.model.log_probs(torch.from_numpy(wav).float())
        spans = self._word_spans(log_probs, ids, text)
        rate = len(log_probs) / duration
        _extend(spans, self.max_extension * rate, len(log_probs))
        return [
            Word(word, start / rate, end / rate, confidence)
            for word, (start, end, confidence) in zip(words, spans)
        ]

    def _word_spans(
        self, log_probs: torch.Tensor, ids: list[list[int]], text: str
    ) -> list[list]:
        """Return first frame, end frame and confidence of each word."""
        wildcard = log_probs.shape[-1]
        targets: list[int] = []
        owner: list[int | None] = []
        for word, tokens in enumerate(ids):
            if targets and self.model.separator is not None:
                targets.append(self.model.separator)
                owner.append(None)
            tokens = tokens or [wildcard]
            targets += tokens
            owner += [word] * len(tokens)
        repeats = sum(a == b for a, b in zip(targets, targets[1:]))
        if len(targets) + repeats > len(log_probs):
            raise AlignmentError(
                f"The sound has {len(log_probs)} frames, too few for the "
                f"{len(targets)} tokens of {text!r}: check that the "
                "transcript is the utterance's own."
            )
        path, scores = self.search(
            _with_wildcard(log_probs)[None],
            torch.tensor([targets]),
            blank=self.model.blank,
        )
        spans = torchaudio.functional.merge_tokens(
            path[0], scores[0].exp(), blank=self.model.blank
        )
        by_word = [[] for _ in ids]
        for span, word in zip(spans, owner):
            if word is not None:
                by_word[word].append(span)
        return [
            [
                own[0].start,
                own[-1].end,
                _mean_score(own) if tokens else 0.0,
            ]
            for own, tokens in zip(by_word, ids)
        ]


def viterbi_search(
    log_probs: torch.Tensor, targets: torch.Tensor, blank: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the most likely path of CTC through an utterance's frames.

    It equals ``torchaudio.functional.forced_align``, in plain torch.

    Arguments
    ---------
    log_probs : torch.Tensor
        Log probabilities of the tokens (1, F, V).
    targets : torch.Tensor
        Tokens to align (1, L), long. F must be at least L plus the number of
        tokens that equal the one before them.
    blank : int
        Id of the CTC blank.

    Returns
    -------
    path : torch.Tensor
        Token of each frame (1, F), blanks between equal neighbours.
    scores : torch.Tensor
        Log probability of each of these tokens (1, F).

    Example
    -------
    >>> heard = torch.tensor([[0, 1, 0, 2, 2]])
    >>> log_probs = torch.nn.functional.one_hot(heard).mul(5.0).log_softmax(-1)
    >>> viterbi_search(log_probs, torch.tensor([[1, 2]]))[0]
    tensor([[0, 1, 0, 2, 2]])
    """
    (target,), (frames,) = targets, log_probs
    states = torch.full((2 * len(target) + 1,), blank)
    states[1::2] = target
    # A path may skip the blank between two tokens that differ.
    barred = torch.full((len(states),), -torch.inf)
    barred[3::2][target[1:] != target[:-1]] = 0.0
    emissions = frames[:, states]
    best = torch.full((len(states),), -torch.inf)
    best[:2] = emissions[0, :2]
    steps = []
    for emission in emissions[1:]:
        before = torch.nn.functional.pad(best, (2, 0), value=-torch.inf)
        moves = torch.stack([best, before[1:-1], before[:-2] + barred])
        best, step = moves.max(0)
        best = best + emission
        steps.append(step)
    state = len(states) - 2 + int(best[-2:].argmax())
    path = [state]
    for step in reversed(steps):
        path.append(path[-1] - int(step[path[-1]]))
    tokens = states[path[::-1]]
    return tokens[None], frames.gather(1, tokens[:, None]).T


def _with_wildcard(log_probs: torch.Tensor) -> torch.Tensor:
    """Add a token with half the probability of the best in each frame."""
    best = log_probs.max(dim=-1, keepdim=True).values
    return torch.cat([log_probs, best - math.log(2)], dim=-1)


def _mean_score(spans: Sequence) -> float:
    return min(1.0, sum(span.score for span in spans) / len(spans))


def _extend(spans: list[list], most: float, n_frames: int) -> None:
    """Extend words, in place, into the neighbouring blank frames."""
    for left, right in zip(spans, spans[1:]):
        share = min((right[0] - left[1]) / 2, most)
        left[1] += share
        right[0] -= share
    spans[0][0] = max(0, spans[0][0] - most)
    spans[-1][1] = min(n_frames, spans[-1][1] + most)


def _check_forced_align() -> None:
    """Raise ImportError if torchaudio lacks its compiled library."""
    try:
        torchaudio.functional.forced_align(
            torch.zeros(1, 2, 2).log_softmax(-1), torch.ones(1, 1).long()
        )
    except (RuntimeError, AttributeError) as error:
        raise ImportError(
            "CTC alignment needs torchaudio's compiled library, which does "
            "not load with this build of torch: install torch and torchaudio "
            "from the same package index, set search=viterbi_search, or use "
            "another aligner."
        ) from error

"""The small English voice and phonemiser behind the mini world.

hibari-tts (on PyPI, Apache-2.0, 14 MB with
its weights) reads English at about one hundred times real time on one CPU
core. Two things are taken from it:

* :class:`HibariTextFrontend`: its grapheme-to-phoneme conversion, as the text
  units of the mini backbone;
* :class:`HibariVoice`: its acoustic model, opened up so that pace, pitch,
  loudness, breathiness and spectral tilt can be set word by word. The result
  is speech whose prosody is *known* for every word.

Needs the ``demo`` extra; both classes import the package when constructed.
"""

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

from speechbrain_emofilm.dataio.text import TextUnits, split_words

import numpy as np

#: American English phonemes of hibari's G2P, stress marks and punctuation.
UNITS = tuple(" ,.AIOTWYbdfhijklmnpstuvwzæðŋɐɑɔəɛɜɡɪɹɾʃʊʌʒʔʤʧˈˌθᵊᵻ")
#: Words that an utterance instruction may use, one token each.
INSTRUCTION_WORDS = (
    "<|endofprompt|>",
    "loud",
    "soft",
    "high",
    "low",
    "slow",
    "fast",
    "rising",
    "falling",
    "plain",
)
#: Written cues of a word: one axis of prosody each, three levels.
CUE_AXES = ("loudness", "pitch", "tempo", "contour")
CUE_LEVELS = 3
#: Number of combinations of levels, plus one for the explicit plain cue.
N_CUES = CUE_LEVELS ** len(CUE_AXES) + 1

#: Number of letters to which :class:`Cues` stretches a single letter.
_STRETCHED_SIZE = 4
_STRETCH = re.compile(r"([A-Za-z])\1{2,}")
_WORD = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)*")
_INSTRUCTION_END = "<|endofprompt|>"
#: Marks that may enclose several words.
_PAIRS = {"(": ")", "[": "]"}
#: Characters other than letters that are read aloud.
_SPOKEN_SYMBOLS = "#$%&+<=>@"
#: F0 above which hibari's dsp makes pulses, Hz.
_VOICED_HZ = 40.0
#: Names in hibari's graph: predicted durations before they are divided by the
#: speed, and as they are after rounding, in steps of two frames.
_RAW_DURATIONS, _DURATIONS = "/Sub_output_0", "/Clip_output_0"


@dataclass(frozen=True)
class Cues:
    """Prosodic cues in the spelling of a word.

    Every field but the last is -1, 0 or 1; all are 0 without cues.

    Arguments
    ---------
    loudness : int
        1 for capitals (``WON``), -1 for parentheses (``(won)``).
    pitch : int
        1 for an exclamation mark (``won!``), -1 for an ellipsis (``won...``).
    tempo : int
        Sign of the change of duration: 1 for stretched spelling (``wooon``),
        -1 for a cut-off dash (``won-``).
    contour : int
        1 for a question mark (rising, ``won?``), -1 for a semicolon (falling,
        ``won;``).
    plain : bool
        True for brackets (``[won]``), a neutral aside: no change along any
        axis, whatever the other fields are.

    Example
    -------
    >>> Cues(loudness=1).code
    27
    >>> Cues.from_code(27)
    Cues(loudness=1, pitch=0, tempo=0, contour=0, plain=False)
    """

    loudness: int = 0
    pitch: int = 0
    tempo: int = 0
    contour: int = 0
    plain: bool = False

    @property
    def code(self) -> int:
        """Index of this combination, 0 for text without cues."""
        if self.plain:
            return N_CUES - 1
        code = 0
        for axis in CUE_AXES:
            code = code * CUE_LEVELS + getattr(self, axis) % CUE_LEVELS
        return code

    @classmethod
    def from_code(cls, code: int) -> "Cues":
        """Return the combination with this index."""
        if code == N_CUES - 1:
            return cls(plain=True)
        levels = []
        for _ in CUE_AXES:
            code, level = divmod(code, CUE_LEVELS)
            levels.append(level if level < 2 else -1)
        return cls(*reversed(levels))

    def write(self, word: str) -> str:
        """Spell a word with these cues (the inverse of :func:`read_cues`).

        Arguments
        ---------
        word : str
            A plain word.

        Example
        -------
        >>> Cues(loudness=1, pitch=1, tempo=1).write("so")
        'SOOOO!'
        """
        if self.plain:
            return f"[{word}]"
        if self.tempo > 0:
            vowel = re.search(r"[aeiouyAEIOUY](?=[^aeiouy]*$)", word)
            at = vowel.start() if vowel else len(word) - 1
            stretched = word[at] * _STRETCHED_SIZE
            word = word[:at] + stretched + word[at + 1 :]
        if self.loudness > 0:
            word = word.upper()
        marks = {1: "!", -1: "...", 0: ""}[self.pitch]
        marks += {1: "?", -1: ";", 0: ""}[self.contour]
        marks += "-" if self.tempo < 0 else ""
        word += marks
        return f"({word})" if self.loudness < 0 else word


def read_cues(
    token: str, is_word: Callable[[str], bool] | None = None
) -> tuple[str, Cues]:
    """Split one written token into its plain word and its cues.

    Arguments
    ---------
    token : str
        A token between spaces, e.g. ``"SOOOO!"``.
    is_word : callable, optional
        Function that checks whether a spelling is a word, to distinguish
        stretched double letters (``goooood``) from single ones (``sooooo``).

    Returns
    -------
    word : str
        Lower-cased where it was in capitals, letters that occur three or more
        times in a row reduced to one or to two.
    cues : Cues
        Cues of the token.

    Example
    -------
    >>> read_cues("SOOOO!")
    ('so', Cues(loudness=1, pitch=1, tempo=1, contour=0, plain=False))
    >>> read_cues("[so]")[1].plain
    True
    """
    match = _WORD.search(token)
    if match is None:
        return "", Cues()
    word, tail = match.group(), token[match.end() :]
    stretched = _STRETCH.search(word) is not None
    word = _unstretch(word, is_word)
    loud = len(word) > 1 and word.isupper()  # the pronoun I is not
    word = word.lower() if loud else word
    if "[" in token[: match.start()]:
        return word, Cues(plain=True)
    falling_pitch = "..." in tail or "…" in tail
    return word, Cues(
        loudness=1 if loud else -int("(" in token[: match.start()]),
        pitch=1 if "!" in tail else -int(falling_pitch),
        tempo=1 if stretched else -int(tail.rstrip("),.").endswith("-")),
        contour=1 if "?" in tail else -int(";" in tail),
    )


def _unstretch(word: str, is_word: Callable[[str], bool] | None) -> str:
    """Undo stretched spelling.

    Of the spellings with one or two letters in each stretched place, the first
    that is a word is returned. If both are words (``loose`` and ``lose``), a
    vowel is taken for double unless it has the length that
    :meth:`Cues.write` gives to a single one.
    """
    places = list(_STRETCH.finditer(word))
    choices = []
    for place in places:
        long = len(place.group()) != _STRETCHED_SIZE
        prefers_double = long and place[1].lower() in "aeiou"
        choices.append((2, 1) if prefers_double else (1, 2))
    for sizes in itertools.product(*choices):
        spelling, end = "", 0
        for place, size in zip(places, sizes):
            spelling += word[end : place.start()] + place[1] * size
            end = place.end()
        spelling += word[end:]
        if is_word is not None and is_word(spelling.lower()):
            return spelling
    return _STRETCH.sub(r"\1", word)


def written_tokens(text: str) -> list[str]:
    """Split a text into words, each with its punctuation marks.

    Parentheses and brackets around several words are attached to each.

    Arguments
    ---------
    text : str
        Any text.

    Returns
    -------
    list of str
        One token for each word of :func:`split_words`.

    Example
    -------
    >>> written_tokens("(Well), it was well-kept!")
    ['(Well),', 'it', 'was', 'well', 'kept!']
    >>> written_tokens("(It was) well kept.")
    ['(It', '(was)', 'well', 'kept.']
    """
    words = split_words(text)
    edges = [0, *(word.start for word in words[1:]), len(text)]
    tokens, before = [], text[: words[0].start] if words else ""
    # End of the most recently opened pair.
    closing = dict.fromkeys(_PAIRS, -1)
    for word, end in zip(words, edges[1:]):
        after, *rest = re.split(r"\s", text[word.end : end])
        if not rest and end < len(text):
            after = after.rstrip("-")  # the hyphen of a compound, no cue
        opening = re.split(r"\s", before)[-1]
        for left, right in _PAIRS.items():
            if word.start < closing[left] and left not in opening:
                opening += left
            elif left in opening:
                closing[left] = text.find(right, word.start)
        tokens.append(opening + text[word.start : word.end] + after)
        before = rest[-1] if rest else ""
    return tokens


def _missing(error: ImportError) -> ImportError:
    """Return an error that says how to install the missing package."""
    return ImportError(
        f"The English mini voice needs the package {error.name}: "
        "pip install 'speechbrain-emofilm[demo]'."
    )


class HibariTextFrontend:
    """Converter of English text to the units of the mini language model.

    A unit is one phoneme symbol (stress marks, spaces, commas and full stops
    are units too) in one of the 82 combinations of written cues
    (:class:`Cues`): ``id = cues * len(UNITS) + symbol``. As in the vocabulary
    of a large model, ``won``, ``WON`` and ``won!`` are thus different tokens.
    An instruction (``"loud fast<|endofprompt|>We won."``) adds one token per
    instruction word.

    Raises
    ------
    ImportError
        If hibari-tts is missing.

    Example
    -------
    >>> frontend = HibariTextFrontend()
    >>> units = frontend.encode("We WON.")
    >>> units.words
    ['We', 'won']
    >>> len(units.ids) == len(units.word_of_unit)
    True
    >>> max(units.ids) < frontend.vocab_size
    True
    """

    language = "en"

    def __init__(self):
        # `hibari.g2p` needs no onnxruntime session of the voice.
        try:
            from hibari.g2p import G2P
        except ImportError as error:
            raise _missing(error) from error

        self._g2p = G2P(british=False)
        self._symbol = {symbol: index for index, symbol in enumerate(UNITS)}

    @property
    def n_symbols(self) -> int:
        """Number of different symbols, whatever their cues."""
        return len(UNITS)

    @property
    def vocab_size(self) -> int:
        """Number of different unit ids."""
        return N_CUES * len(UNITS) + len(INSTRUCTION_WORDS)

    def encode(self, text: str) -> TextUnits:
        """Convert text to units.

        Arguments
        ---------
        text : str
            English text, optionally with written cues and an instruction.

        Returns
        -------
        TextUnits
            ids (list of int), word_of_unit (list of int, -1 = no word) and
            words (list of str, plain spelling).

        Raises
        ------
        ValueError
            If the text is empty, holds characters that the English mini voice
            cannot read, or an instruction uses an unknown word.
        """
        instruction, _, spoken = text.rpartition(_INSTRUCTION_END)
        self._check(text, len(text) - len(spoken))
        tokens = written_tokens(spoken)
        if not tokens:
            raise ValueError(
                f"The text {text!r} has no word to speak: give at least one "
                "English word."
            )
        words, cues = zip(
            *(read_cues(token, self._is_word) for token in tokens)
        )
        ids = self._instruction_ids(instruction)
        word_of_unit = [-1] * len(ids)
        symbols = self._phonemes(words, tokens)
        for index, (word_symbols, cue) in enumerate(zip(symbols, cues)):
            block = cue.code * len(UNITS)
            ids += [block + self._symbol[symbol] for symbol in word_symbols]
            word_of_unit += [index] * len(word_symbols)
        return TextUnits(ids, word_of_unit, list(words))

    def pronounce(self, word: str) -> str:
        """Return the phoneme symbols of a word, including stress marks.

        Example
        -------
        >>> HibariTextFrontend().pronounce("won")
        'wˈʌn'
        """
        return self._g2p(word).strip(" .,")

    def _is_word(self, spelling: str) -> bool:
        """Check whether the pronunciation dictionary has a lower-case word."""
        # Its second half has names and rarities: "woon", "al".
        return spelling in self._g2p.lexicon.golds.d

    @staticmethod
    def _check(text: str, start: int) -> None:
        """Raise ValueError for characters that an English voice cannot read.

        The instruction before `start` is not spoken.
        """
        for position, character in enumerate(text[start:], start):
            if character.isdigit():
                raise ValueError(
                    f"The text {text!r} has the digit {character!r} at "
                    f"character {position}: write numbers as words for the "
                    "English mini voice."
                )
            foreign = ord(character) > 0x7F and character not in "‘’“”–—…"
            if foreign or character in _SPOKEN_SYMBOLS:
                raise ValueError(
                    f"The text {text!r} has {character!r} at character "
                    f"{position}, which the English mini voice cannot read: "
                    "write it as words, or use a backbone that reads it."
                )

    def _instruction_ids(self, instruction: str) -> list[int]:
        """Return the ids of the instruction's words and its end mark."""
        if not instruction:
            return []
        words = instruction.split() + [_INSTRUCTION_END]
        unknown = [word for word in words if word not in INSTRUCTION_WORDS]
        if unknown:
            raise ValueError(
                f"The instruction {instruction!r} uses {unknown[0]!r}: the "
                f"mini voice knows {', '.join(INSTRUCTION_WORDS[1:])}."
            )
        first = N_CUES * len(UNITS)
        return [first + INSTRUCTION_WORDS.index(word) for word in words]

    def _phonemes(
        self, words: Sequence[str], tokens: Sequence[str]
    ) -> list[str]:
        """Return the phoneme symbols of each word.

        They include the space before each word but the first, and the comma
        or full stop after a word.
        """
        commas = ["," if "," in token else "" for token in tokens[:-1]] + [""]
        sentence = " ".join(w + c for w, c in zip(words, commas))
        groups = self._g2p(sentence + ".").rstrip(".").split(" ")
        if len(groups) != len(words):
            groups = [self._g2p(w).replace(" ", "") for w in words]
        out = []
        commas[-1] = "."
        for index, (group, end) in enumerate(zip(groups, commas)):
            spelled = "".join(c for c in group if c in self._symbol)
            spelled = spelled.strip(" ,.")
            if not spelled:
                raise ValueError(
                    f"No pronunciation was found for {words[index]!r}: spell "
                    "it as it is spoken."
                )
            out.append(" " * (index > 0) + spelled + end)
        return out


@dataclass(frozen=True)
class WordProsody:
    """How one word differs from the voice's neutral reading.

    All fields are 0 for a neutral word.

    Arguments
    ---------
    pitch : float
        Change of the word's mean log F0 (natural logarithm).
    slope : float
        Change of log F0 from the word's start to its end.
    duration : float
        Change of log duration; positive is longer.
    gain : float
        Change of level, dB.
    breath : float
        Change of the noise part's log magnitude (natural logarithm), taken
        from the harmonic part by half.
    tilt : float
        Change of level above 2 kHz, dB, rising from nothing at 500 Hz.
    """

    pitch: float = 0.0
    slope: float = 0.0
    duration: float = 0.0
    gain: float = 0.0
    breath: float = 0.0
    tilt: float = 0.0

    def scaled(self, factor: float) -> "WordProsody":
        """The same change, `factor` times as strong."""
        return WordProsody(*(factor * value for value in astuple(self)))

    def plus(self, other: "WordProsody") -> "WordProsody":
        """Both changes at once."""
        return WordProsody(
            *(a + b for a, b in zip(astuple(self), astuple(other)))
        )


@dataclass(frozen=True)
class PseudoSpeaker:
    """A speaker made of the one voice by resampling and transposition.

    Arguments
    ---------
    warp : float
        Factor on all frequencies, formants included (a shorter vocal tract
        has a larger one).
    pitch : float
        Further factor on F0 alone.
    pace : float
        Factor on speed.
    """

    warp: float = 1.0
    pitch: float = 1.0
    pace: float = 1.0


@dataclass
class SpokenUtterance:
    """One utterance and everything known about it.

    Arguments
    ---------
    wav : numpy.ndarray
        (T,) float32 in -1..1, 24 kHz.
    words : list of tuple
        (start, end) in seconds of each word.
    units : list of tuple
        (symbol, start, end) in seconds of each phoneme symbol.
    f0 : numpy.ndarray
        F0 in Hz at 50 Hz (frame k centred at 20 k + 10 ms), 0 = unvoiced.
    """

    wav: np.ndarray
    words: list[tuple[float, float]]
    units: list[tuple[str, float, float]]
    f0: np.ndarray


class HibariVoice:
    """hibari's acoustic model with a prosody of its own for every word.

    The ONNX graph is changed in memory: the duration of every symbol becomes
    an input, and F0 is multiplied by a curve before the spectra are predicted
    from it. Level, breathiness and tilt are set on the predicted spectra.

    Arguments
    ---------
    lead : float
        Seconds of silence kept before the first word and (twice) after the
        last.

    Example
    -------
    >>> voice = HibariVoice()
    >>> louder = [WordProsody(), WordProsody(gain=6.0)]
    >>> spoken = voice.speak(["we", "won"], louder, seed=1)
    >>> len(spoken.words)
    2
    """

    sample_rate = 24000
    #: Seconds a frame of F0 and spectrum lasts.
    frame = 0.0125
    #: The model's duration grid runs behind its audio by this many seconds
    #: (at this shift, asked and measured changes of F0 and level agree
    #: best).
    lag = 0.0375

    def __init__(self, lead: float = 0.1):
        try:
            from hibari import Hibari, dsp
            from hibari.tts import MAX_PHONEMES
        except ImportError as error:
            raise _missing(error) from error

        self.lead = lead
        self._dsp = dsp
        self._max_symbols = MAX_PHONEMES
        self._tts = Hibari()
        self._duration_session, self._f0_session, self._session = self._open(
            self._tts.model_path
        )
        kernel = np.hanning(7)[1:-1]
        self._kernel = kernel / kernel.sum()
        hertz = np.linspace(0, self.sample_rate / 2, dsp.N_FFT // 2 + 1)
        octaves = np.log2(np.maximum(hertz, 1.0) / 500.0) / 2.0
        self._shelf = np.clip(octaves, 0.0, 1.0).astype(np.float32)[:, None]

    @staticmethod
    def _open(path: str):
        """Sessions over the changed graph: durations, F0, and speech."""
        import onnx
        import onnx.utils
        import onnxruntime as ort

        model = onnx.load(path)
        graph = model.graph
        floats = onnx.TensorProto.FLOAT
        graph.input.append(
            onnx.helper.make_tensor_value_info("f0_factor", floats, [1, "F"])
        )
        for index, node in enumerate(graph.node):
            if list(node.output) == ["f0"]:
                node.output[0] = "f0_predicted"
                graph.node.insert(
                    index + 1,
                    onnx.helper.make_node(
                        "Mul", ["f0_predicted", "f0_factor"], ["f0"]
                    ),
                )
                break
        else:
            raise RuntimeError(
                f"{path} is not the acoustic model of hibari-tts 0.2.1: "
                "install that version."
            )
        extractor = onnx.utils.Extractor(
            onnx.shape_inference.infer_shapes(model)
        )
        timed = ["ids", _DURATIONS]
        parts = (
            extractor.extract_model(["ids"], [_RAW_DURATIONS]),
            extractor.extract_model(timed, ["f0_predicted"]),
            extractor.extract_model(
                [*timed, "f0_factor"], [value.name for value in graph.output]
            ),
        )
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        return tuple(
            ort.InferenceSession(
                part.SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
            )
            for part in parts
        )

    def speak(
        self,
        words: Sequence[str],
        prosody: Sequence[WordProsody],
        speaker: PseudoSpeaker = PseudoSpeaker(),
        seed: int = 0,
    ) -> SpokenUtterance | None:
        """Read the words aloud, each with its prosody.

        Arguments
        ---------
        words : list of str
            Plain words; a comma may follow a word.
        prosody : list of WordProsody
            One per word.
        speaker : PseudoSpeaker
        seed : int
            Of the noise part of the speech.

        Returns
        -------
        SpokenUtterance or None
            None where the phonemiser reads the sentence with another number
            of words (an abbreviation, for example): choose another sentence.
        """
        ids, symbols, spans = self._units(words)
        if spans is None or len(spans) != len(words):
            return None
        ids = np.asarray([ids], np.int64)
        own = self._duration_session.run(None, {"ids": ids})[0].ravel()
        own = own * (speaker.warp / speaker.pace)
        neutral = _durations(own, spans, [1.0] * len(spans))
        durations = _durations(
            own, spans, [np.exp(change.duration) for change in prosody]
        )
        starts = _starts(durations)
        spans_f = self._in_frames(spans, starts)
        curves = self._curves(spans_f, prosody, starts[-1])
        neutral_means = _voiced_means(
            self._log_f0(ids, neutral),
            self._in_frames(spans, _starts(neutral)),
        )
        log_f0 = _reach_means(
            self._log_f0(ids, durations),
            curves["log_f0"],
            spans_f,
            [m + change.pitch for m, change in zip(neutral_means, prosody)],
            self._smooth,
        )
        factor = speaker.pitch * np.exp(log_f0)[None].astype(np.float32)
        out = self._session.run(
            None, {"ids": ids, _DURATIONS: durations, "f0_factor": factor}
        )
        harmonic, phase, noise, rest, rest_phase, f0 = (x[0] for x in out[:6])
        level = curves["gain"] * (np.log(10) / 20)
        tilt = self._shelf * curves["tilt"] * (np.log(10) / 20)
        wav = self._dsp.synth(
            harmonic + level + tilt - 0.5 * curves["breath"],
            phase,
            noise + level + tilt + curves["breath"],
            rest + level + tilt,
            rest_phase,
            f0,
            np.random.default_rng(seed),
        )
        times = starts * self.frame - self.lag
        return self._finish(wav, f0, times, symbols, spans, speaker.warp)

    def _units(self, words):
        """Ids with the pads, their symbols, and (first, past-last) of each
        word.
        """
        sentence = " ".join(words) + "."
        phonemes = self._tts.phonemize(sentence)
        if len(phonemes) != 1 or len(phonemes[0]) > self._max_symbols:
            return [], [], None
        known = [c for c in phonemes[0] if c in self._tts.vocab]
        ids = self._tts.ids(phonemes[0])
        is_word = [c not in ' ;:,.!?—…"()“”' for c in known]
        spans = []
        for key, run in itertools.groupby(
            range(len(known)), key=lambda index: is_word[index]
        ):
            run = list(run)
            if key:
                spans.append((run[0] + 1, run[-1] + 2))  # id 0 is the pad
        return ids, [""] + known + [""], spans

    def _curves(self, spans, prosody, n_frames):
        """Frame-level curves of every word-level setting, smoothed."""
        curves = {
            name: np.zeros(n_frames, np.float32)
            for name in ("log_f0", "gain", "breath", "tilt")
        }
        # A pause belongs by halves to the words around it.
        edges = [(a[1] + b[0]) // 2 for a, b in zip(spans, spans[1:])]
        edges = [0, *edges, n_frames]
        for index, ((first, last), change) in enumerate(zip(spans, prosody)):
            here = slice(edges[index], edges[index + 1])
            ramp = np.arange(here.start, here.stop) - first
            ramp = np.clip(ramp / max(1, last - first - 1), 0, 1) - 0.5
            curves["log_f0"][here] = change.pitch + change.slope * ramp
            curves["gain"][here] = change.gain
            curves["breath"][here] = change.breath
            curves["tilt"][here] = change.tilt
        return {name: self._smooth(curve) for name, curve in curves.items()}

    def _in_frames(self, spans, starts):
        """First frame of each word and the first after it."""
        shift = int(round(self.lag / self.frame))
        return [
            (max(0, starts[a] - shift), max(1, starts[b] - shift))
            for a, b in spans
        ]

    def _log_f0(self, ids, durations):
        """The model's own log F0 with those durations, NaN where unvoiced."""
        feed = {"ids": ids, _DURATIONS: durations}
        f0 = self._f0_session.run(None, feed)[0].ravel()
        return np.log(np.where(f0 > _VOICED_HZ, f0, np.nan))

    def _smooth(self, curve):
        half = len(self._kernel) // 2
        padded = np.pad(curve, half, mode="edge")
        return np.convolve(padded, self._kernel, "valid").astype(np.float32)

    def _finish(self, wav, f0, times, symbols, spans, warp):
        """Warp, cut the silence, and bring all times to the result."""
        rate = self.sample_rate
        f0_times = np.arange(len(f0)) * self.frame
        if warp != 1.0:
            from scipy.signal import resample_poly

            wav = resample_poly(wav, 100, int(round(100 * warp)))
            times, f0_times, f0 = times / warp, f0_times / warp, f0 * warp
        first, last = times[spans[0][0]], times[spans[-1][1]]
        begin = max(0.0, first - self.lead)
        end = min(len(wav) / rate, last + 2 * self.lead)
        wav = wav[int(begin * rate) : int(end * rate)].astype(np.float32)
        times = np.maximum(times - begin, 0.0)
        grid = begin + 0.01 + 0.02 * np.arange(int(len(wav) / rate * 50))
        nearest = np.clip(np.searchsorted(f0_times, grid), 0, len(f0) - 1)
        curve = np.interp(grid, f0_times, f0)
        f0_grid = np.where(f0[nearest] > _VOICED_HZ, curve, 0.0)
        bounds = [[times[a], times[b]] for a, b in spans]
        for left, right in zip(bounds, bounds[1:]):
            if right[0] - left[1] <= 0.1:  # the space between two words
                left[1] = right[0] = (left[1] + right[0]) / 2
        units = [
            (symbols[i], float(times[i]), float(times[i + 1]))
            for i in range(1, len(symbols) - 1)
        ]
        return SpokenUtterance(
            wav=wav,
            words=[(float(a), float(b)) for a, b in bounds],
            units=units,
            f0=f0_grid.astype(np.float32),
        )


def _durations(own, spans, factors):
    """Durations in whole steps, at least one each, float32.

    A word's symbols are rounded together, so that it lasts as asked even
    where each of its symbols lasts a step or two.
    """
    durations = np.maximum(1, np.round(own)).astype(np.float32)
    for (first, last), factor in zip(spans, factors):
        ends = np.round(np.cumsum(own[first:last] * factor))
        at = 0.0
        for index, end in enumerate(ends, first):
            durations[index] = max(1.0, end - at)
            at += durations[index]
    return durations


def _starts(durations):
    """First frame of each symbol, and the number of frames."""
    return np.concatenate([[0], 2 * np.cumsum(durations)]).astype(int)


def _reach_means(own, change, spans, asked, smooth, n_passes=8):
    """Move a curve of changes until words have the asked mean log F0.

    The model's own F0 changes with the pace, above all at the end of a
    sentence, and a slope runs over the whole word, of which the voiced part
    is heard. Words without voice stay as they are.
    """
    change = change.copy()
    for _ in range(n_passes):  # smoothing takes a little back
        missing = np.zeros_like(change)
        means = _voiced_means(own + change, spans)
        for (first, last), mean, wanted in zip(spans, means, asked):
            missing[first:last] = np.nan_to_num(wanted - mean)
        change += smooth(missing)
    return change


def _voiced_means(log_f0, spans):
    """Mean of each span's values that are numbers; NaN where none is."""
    parts = [log_f0[first:last] for first, last in spans]
    parts = [part[np.isfinite(part)] for part in parts]
    return [part.mean() if len(part) else np.nan for part in parts]

"""Synthetic English voice whose prosody is set word by word.

:class:`HibariVoice` changes the acoustic model of hibari-tts, which runs at
about one hundred times real time on one CPU core, so that pace, pitch,
loudness, breathiness and spectral tilt can be set for every word. The prosody
of each word is thus *known*. Needs the ``demo`` extra.
"""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from speechbrain_emofilm.integrations.hibari import missing_hibari
from speechbrain_emofilm.utils.files import atomic_path

import numpy as np
import soundfile as sf

#: F0 in Hz above which hibari's dsp generates pulses.
_VOICED_HZ = 40.0
#: Names in hibari's graph: predicted durations before the division by the
#: speed, and after rounding, in steps of two frames.
_RAW_DURATIONS, _DURATIONS = "/Sub_output_0", "/Clip_output_0"


@dataclass(frozen=True)
class WordProsody:
    """Difference of one word from the voice's neutral reading."""

    pitch: float = 0.0  # change of mean log F0 (natural logarithm)
    slope: float = 0.0  # change of log F0 from start to end
    duration: float = 0.0  # change of log duration
    gain: float = 0.0  # change of level, dB
    #: Change of the noise part's log magnitude (natural logarithm); half of it
    #: is taken from the harmonic part.
    breath: float = 0.0
    #: Change of level above 2 kHz, dB; it starts at 500 Hz.
    tilt: float = 0.0

    def scaled(self, factor: float) -> "WordProsody":
        """Multiply all changes by `factor`."""
        return WordProsody(*(factor * value for value in astuple(self)))

    def plus(self, other: "WordProsody") -> "WordProsody":
        """Add another prosody's changes."""
        return WordProsody(
            *(a + b for a, b in zip(astuple(self), astuple(other)))
        )


@dataclass(frozen=True)
class PseudoSpeaker:
    """A speaker derived from the voice by resampling and transposition."""

    #: Factor on all frequencies, formants included: larger for a shorter vocal
    #: tract.
    warp: float = 1.0
    pitch: float = 1.0  # additional factor on F0
    pace: float = 1.0  # factor on speed


@dataclass
class SpokenUtterance:
    """Synthesised speech with its known timing and F0."""

    wav: np.ndarray  # (T,) float32 from -1 to 1, 24 kHz
    words: list[tuple[float, float]]  # start and end in seconds
    units: list[tuple[str, float, float]]  # phoneme symbol, start, end
    #: (F,) F0 in Hz at 50 Hz, frame k centred at 20 k + 10 ms; 0 = unvoiced.
    f0: np.ndarray


class HibariVoice:
    """hibari's acoustic model with word-level prosody.

    The ONNX graph is changed in memory: the duration of every symbol becomes
    an input, and F0 is multiplied by a curve before the spectra are predicted
    from it. Level, breathiness and tilt are set on the predicted spectra.
    `lead` seconds of silence are kept before the first word, twice as much
    after the last.

    Example
    -------
    >>> voice = HibariVoice()
    >>> louder = [WordProsody(), WordProsody(gain=6.0)]
    >>> spoken = voice.speak(["we", "won"], louder, seed=1)
    >>> len(spoken.words)
    2
    """

    sample_rate = 24000
    #: Duration of a frame of F0 and spectrum in seconds.
    frame = 0.0125
    #: Delay in seconds of the model's duration grid relative to its audio, at
    #: which asked and measured changes of F0 and level agree best.
    lag = 0.0375

    def __init__(self, lead: float = 0.1):
        try:
            from hibari import Hibari, dsp
            from hibari.tts import MAX_PHONEMES
        except ImportError as error:
            raise missing_hibari(error) from error

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
        """Open sessions that predict durations, F0, and speech."""
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
        """Speak words, each with its prosody.

        A comma may follow a word. `seed` sets the noise part of the speech.
        Returns None if the phonemiser reads the sentence with another number
        of words (because of an abbreviation, for example).
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
        """Return padded ids, their symbols, and each word's span in them."""
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
        """Return smoothed frame-level curves of the word-level settings."""
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
        """Convert spans of symbols to spans of frames."""
        shift = int(round(self.lag / self.frame))
        return [
            (max(0, starts[a] - shift), max(1, starts[b] - shift))
            for a, b in spans
        ]

    def _log_f0(self, ids, durations):
        """Predict log F0 with the given durations, NaN where unvoiced."""
        feed = {"ids": ids, _DURATIONS: durations}
        f0 = self._f0_session.run(None, feed)[0].ravel()
        return np.log(np.where(f0 > _VOICED_HZ, f0, np.nan))

    def _smooth(self, curve):
        half = len(self._kernel) // 2
        padded = np.pad(curve, half, mode="edge")
        return np.convolve(padded, self._kernel, "valid").astype(np.float32)

    def _finish(self, wav, f0, times, symbols, spans, warp):
        """Warp and trim the waveform; adjust all times."""
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
    """Round durations to whole steps, at least one each, float32.

    The cumulative duration of a word's symbols is rounded, so that the word
    has the asked duration even if its symbols last only a step or two.
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
    """Return the first frame of each symbol, and the number of frames."""
    return np.concatenate([[0], 2 * np.cumsum(durations)]).astype(int)


def _reach_means(own, change, spans, asked, smooth, n_passes=8):
    """Shift a curve of changes until words have the asked mean log F0.

    The predicted F0 depends on the pace, above all at the end of a sentence,
    and a slope extends over the whole word, of which only the voiced part is
    heard. Unvoiced words stay unchanged.
    """
    change = change.copy()
    for _ in range(n_passes):  # smoothing reduces each correction
        missing = np.zeros_like(change)
        means = _voiced_means(own + change, spans)
        for (first, last), mean, wanted in zip(spans, means, asked):
            missing[first:last] = np.nan_to_num(wanted - mean)
        change += smooth(missing)
    return change


def _voiced_means(log_f0, spans):
    """Average the finite values of each span; NaN if there are none."""
    parts = [log_f0[first:last] for first, last in spans]
    parts = [part[np.isfinite(part)] for part in parts]
    return [part.mean() if len(part) else np.nan for part in parts]


@functools.lru_cache(maxsize=1)
def shared_voice():
    """Return the process's voice."""
    return HibariVoice()


def write_speech(path: str | Path, wav: np.ndarray) -> float:
    """Write speech as 16-bit wav at half level, or lower to avoid clipping.

    Returns its duration in seconds.
    """
    wav = 0.5 * wav
    wav = wav / max(1.0, 1.01 * np.abs(wav).max())
    rate = HibariVoice.sample_rate
    with atomic_path(path) as temporary:
        sf.write(temporary, wav, rate, "PCM_16", format="WAV")
    return len(wav) / rate

"""Joining the sound of pieces, also while it is being made."""

from dataclasses import dataclass

import numpy as np

#: Frames below this level, relative to the loudest so far, are silence at the
#: start and end of a piece.
SILENCE_DB = -40.0
#: Level of the loudest frame of speech, relative to full scale, that is
#: assumed before any was heard.
_EXPECTED_DB = -12.0
#: Length of these frames, and of the fade where silence is cut, in seconds.
_FRAME = 0.005


@dataclass
class PiecePlace:
    """Place of a piece in the joined sound, in samples.

    Arguments
    ---------
    shift : int
        Place of its first sample, also if that was cut.
    start, end : int
        Bounds of what is left of it.
    """

    shift: int
    start: int
    end: int

    def clamp(self, seconds: float, sample_rate: int) -> float:
        """Convert a time in the piece to one in the whole.

        A time in silence that was cut becomes that of the cut.
        """
        seconds += self.shift / sample_rate
        seconds = max(seconds, self.start / sample_rate)
        return min(seconds, self.end / sample_rate)


class SoundJoiner:
    """Join the sound of pieces, with silence of given lengths between.

    A gap is counted from the end of a piece's sound to the start of the next
    one's. Sound is what lies between the first and the last 5 ms whose level
    is within 40 dB of the loudest 5 ms so far. Of the pieces' own silence as
    much is kept as the gap allows, faded over 5 ms where it is cut.

    The sound may come in chunks of any size; what is returned is in total the
    same. Only silence that may have to be cut is held back.

    Arguments
    ---------
    sample_rate : int
        Sampling rate in Hz.

    Example
    -------
    >>> joiner, tone = SoundJoiner(24000), np.ones(2400, dtype=np.float32)
    >>> joiner.start(None)
    >>> parts = [joiner.push(tone)]
    >>> joiner.start(0.3)
    >>> parts += [joiner.push(tone), joiner.finish(None)]
    >>> len(np.concatenate(parts)), joiner.places[1]
    (12000, PiecePlace(shift=9600, start=9600, end=12000))
    """

    def __init__(self, sample_rate: int):
        self.places: list[PiecePlace] = []
        self._rate = sample_rate
        self._size = round(_FRAME * sample_rate)
        self._loudest = 0.0
        self._n_ready = 0  # samples returned so far
        self._unmeasured = _NOTHING  # less than a frame
        self._held = _NOTHING  # the end of the last piece
        self._n_silent = 0  # samples of silence at the end of that
        self._gap: float | None = None
        self._lead = _NOTHING  # silence before the sound of a piece
        self._leading = False
        self._heard = self._any_heard = False  # in this piece, and before

    def start(self, gap: float | None) -> None:
        """Begin a piece.

        Arguments
        ---------
        gap : float or None
            Seconds between its sound and the sound before it, or the start of
            the whole. None, for the first piece only, leaves its own silence.
        """
        self._end()
        self._gap = gap
        self._leading = gap is not None
        self._heard = False
        if gap is None:
            self.places.append(PiecePlace(0, 0, 0))

    def push(self, wav: np.ndarray) -> np.ndarray:
        """Add sound (samples,) of the piece and return what is ready."""
        wav = np.concatenate([self._unmeasured, wav])
        n_frames = len(wav) // self._size
        wav, self._unmeasured = np.split(wav, [n_frames * self._size])
        frames = wav.reshape(n_frames, self._size)
        power = np.einsum("ij,ij->i", frames, frames)
        loudest = np.maximum.accumulate(np.maximum(power, self._loudest))
        relative = 10 ** (SILENCE_DB / 10)
        is_sound = power > loudest * relative
        if self._leading and not self._any_heard:
            # Up to the first sound only: chunks of any size give the same.
            expected = self._size * 10 ** (_EXPECTED_DB / 10)
            begun = is_sound & (power > expected * relative)
            is_sound[: begun.argmax() if begun.any() else None] = False
        self._loudest = max(self._loudest, power.max(initial=0.0))
        places = np.flatnonzero(is_sound)
        self._heard = self._heard or bool(len(places))
        ready = _NOTHING
        if self._leading:
            n_lead = int(places[0]) if len(places) else n_frames
            lead, wav = np.split(wav, [n_lead * self._size])
            self._lead = np.concatenate([self._lead, lead])
            if not len(places):
                return ready
            ready = self._begin()
            places -= n_lead
        # The last frame of sound is held as well: it may have to fade.
        n_kept = int(places[-1]) * self._size if len(places) else 0
        held = np.concatenate([self._held, wav])
        if len(places):
            n_ready = len(self._held) + n_kept
            self._n_silent = len(wav) - n_kept - self._size
        else:
            n_ready = 0
            self._n_silent += len(wav)
        more, self._held = np.split(held, [n_ready])
        self._n_ready += len(more)
        return np.concatenate([ready, more])

    def finish(self, gap: float | None) -> np.ndarray:
        """End the last piece and return the rest.

        Arguments
        ---------
        gap : float or None
            Seconds of silence behind the sound; None leaves the piece's own.
        """
        self._end()
        if gap is not None:
            self._close(round(gap * self._rate), 0)
        self._n_ready += len(self._held)
        ready, self._held = self._held, _NOTHING
        return ready

    def _end(self) -> None:
        """End the piece, if any."""
        if self._leading:  # nothing was heard: all of it stays
            self._close(round((self._gap or 0) * self._rate), 0)
            place = self._n_ready + len(self._held)
            self.places.append(PiecePlace(place, place, 0))
            self._held = np.concatenate([self._held, self._lead])
            self._lead, self._leading = _NOTHING, False
        elif not self._heard:
            self._n_silent = 0
        else:
            self._n_silent += len(self._unmeasured)
            self._any_heard = True
        self._held = np.concatenate([self._held, self._unmeasured])
        self._unmeasured = _NOTHING
        if self.places:
            self.places[-1].end = self._n_ready + len(self._held)

    def _begin(self) -> np.ndarray:
        """Make the gap before the sound of a piece; return what is ready."""
        n_gap = round((self._gap or 0) * self._rate)
        n_lead = len(self._lead)
        kept = min(n_lead, n_gap // 2 if self.places else n_gap)
        self._close(n_gap, kept)
        lead = self._lead[n_lead - kept :].copy()
        ready = np.concatenate([self._held, lead])
        if kept < n_lead:
            _fade(ready[len(self._held) :], self._size)
        place = self._n_ready + len(self._held)
        self.places.append(PiecePlace(place - (n_lead - kept), place, 0))
        self._n_ready += len(ready)
        self._held, self._lead, self._n_silent = _NOTHING, _NOTHING, 0
        self._leading = False
        return ready

    def _close(self, n_gap: int, n_lead: int) -> None:
        """Make the silence at the end n_gap - n_lead samples long."""
        n_wanted = n_gap - n_lead
        kept = min(self._n_silent, n_wanted)
        end = len(self._held) - (self._n_silent - kept)
        if self.places:
            self.places[-1].end = self._n_ready + end
        held = self._held[:end].copy()
        if kept < self._n_silent or kept < n_wanted:
            _fade(held[::-1], self._size)
        self._held = np.pad(held, (0, n_wanted - kept))


_NOTHING = np.empty(0, dtype=np.float32)


def _fade(wav: np.ndarray, size: int) -> None:
    """Fade in the start of a wave, in place."""
    size = min(size, len(wav))
    wav[:size] *= np.linspace(0, 1, size, endpoint=False, dtype=np.float32)

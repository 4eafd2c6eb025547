"""F0, energy and duration of utterances."""

from speechbrain_emofilm.metrics.row_stats import RowStats
from speechbrain_emofilm.processing.prosody import FRAME_RATE, ProsodyTrack

import numpy as np

#: Frames this many dB below the loudest frame count as a pause.
PAUSE = 40.0


class ProsodyStatistics(RowStats):
    """F0, energy and duration, also relative to a reference if there is one.

    Example
    -------
    >>> from speechbrain_emofilm.processing.prosody import prosody_track
    >>> time = np.arange(12000) / 24000
    >>> track = prosody_track(0.1 * np.sin(2 * np.pi * 200 * time), 24000)
    >>> statistics = ProsodyStatistics()
    >>> statistics.append("a", track, track)
    >>> summary = statistics.summarize()
    >>> round(summary["f0_mean"]["f0_mean"])
    200
    >>> summary["duration_ratio"]["duration_ratio"]
    1.0
    """

    def append(
        self,
        utterance: str,
        predict: ProsodyTrack,
        target: ProsodyTrack | None = None,
    ) -> None:
        """Add an utterance.

        Arguments
        ---------
        utterance : str
            Utterance id.
        predict : ProsodyTrack
            Prosody of synthesised speech, from
            :func:`~speechbrain_emofilm.processing.prosody.prosody_track`.
        target : ProsodyTrack, optional
            Prosody of the reference.
        """
        row = _statistics(predict)
        if row is None:
            return self.add_failure(utterance, "no voice")
        if target is not None:
            reference = _statistics(target)
            if reference is None:
                return self.add_failure(utterance, "reference without voice")
            row["f0_shift"] = 12 * float(
                np.log2(row["f0_mean"] / reference["f0_mean"])
            )
            row["energy_shift"] = row["energy_mean"] - reference["energy_mean"]
            row["duration_ratio"] = row["duration"] / reference["duration"]
        self.add_row(utterance, **row)

    def results(self) -> dict:
        """Compute the mean of each statistic.

        Returns
        -------
        dict
            ``f0_mean`` (Hz, geometric), ``f0_spread`` (standard deviation
            within the utterance, in semitones), ``energy_mean`` and
            ``energy_spread`` (dB, without pauses), ``voiced`` (share of the
            frames), ``duration`` (s) and, with references, ``f0_shift``
            (semitones), ``energy_shift`` (dB) and ``duration_ratio``, each
            with its bounds ``low`` and ``high``.
        """
        rows = self.measured_rows()
        columns = dict.fromkeys(c for row in rows for c in row if c != "id")
        return {
            column: self.mean(column, [r for r in rows if column in r])
            for column in columns
        }


def _statistics(track: ProsodyTrack) -> dict[str, float] | None:
    """Compute the row of an utterance; None if it is unvoiced."""
    log_f0 = track.log_f0[np.isfinite(track.log_f0)]
    if len(log_f0) == 0:
        return None
    spoken = track.energy[track.energy > track.energy.max() - PAUSE]
    return {
        "f0_mean": float(np.exp(log_f0.mean())),
        "f0_spread": float(12 / np.log(2) * log_f0.std()),
        "energy_mean": float(spoken.mean()),
        "energy_spread": float(spoken.std()),
        "voiced": len(log_f0) / len(track),
        "duration": len(track) / FRAME_RATE,
    }

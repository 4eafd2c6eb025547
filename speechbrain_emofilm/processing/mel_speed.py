"""Speed of speech: mel spectrograms interpolated over time.

As in CosyVoice, a mel spectrogram of N frames is interpolated linearly to
``int(N / speed)`` frames before it becomes a wave, so that the pitch stays.
"""

import math
from collections.abc import Sequence

import torch

#: Slowest and fastest speed.
SPEEDS = (0.5, 2.0)


def check_speeds(speed: float | Sequence[float], n_items: int) -> list[float]:
    """Return the speed of each item of a batch.

    Arguments
    ---------
    speed : float or list of float
        One number for all items, or one for each.
    n_items : int
        Number of items.

    Returns
    -------
    list of float
        Speed of each item.

    Raises
    ------
    ValueError
        If a speed is not within 0.5 to 2, or the numbers of speeds and items
        differ.

    Example
    -------
    >>> check_speeds(1.5, 2)
    [1.5, 1.5]
    """
    speeds = (
        [float(speed)] * n_items
        if isinstance(speed, (int, float))
        else [float(s) for s in speed]
    )
    if len(speeds) != n_items:
        raise ValueError(
            f"{len(speeds)} speeds were given for {n_items} items: give one "
            "number, or one for each item."
        )
    slowest, fastest = SPEEDS
    for value in speeds:
        if not slowest <= value <= fastest:
            raise ValueError(
                f"The speed is {value:g}: give a number from {slowest:g} (half "
                f"as fast) to {fastest:g} (twice as fast)."
            )
    return speeds


def change_speed(mel: torch.Tensor, speed: float) -> torch.Tensor:
    """Interpolate a mel spectrogram over time.

    Arguments
    ---------
    mel : torch.Tensor
        Mel spectrogram, shape (..., N, bands).
    speed : float
        Speed; 2 is twice as fast.

    Returns
    -------
    mel : torch.Tensor
        Shape (..., int(N / speed), bands), but at least two frames (a token),
        which vocoders need; ``mel`` itself at speed 1.

    Example
    -------
    >>> mel = torch.arange(6.0)[:, None]
    >>> change_speed(mel, 2.0).flatten().tolist()
    [0.5, 2.5, 4.5]
    >>> change_speed(mel, 0.75).shape
    torch.Size([8, 1])
    """
    if speed == 1:
        return mel
    n_frames = mel.size(-2)
    n_out = _n_frames(n_frames, speed)
    # The exact ratio of the lengths, which is near the speed.
    return _interpolate(mel, _positions(0, n_out, n_frames / n_out))


class MelSpeedStream:
    """:func:`change_speed` of a mel spectrogram that arrives in pieces.

    The length of the whole is not known, so that frames are ``speed`` frames
    apart, instead of N / int(N / speed). The mels are the same, but for
    rounding, where N / speed is an integer; elsewhere the positions at which
    the spectrogram is read differ by less than ``speed`` frames at the end,
    and in proportion before it. The length is the same.

    Arguments
    ---------
    speed : float
        Speed; 1 returns the mels as they are.

    Example
    -------
    >>> stream = MelSpeedStream(2.0)
    >>> mel = torch.arange(6.0)[None, :, None]
    >>> [stream.push(part).flatten().tolist() for part in mel.split(3, dim=1)]
    [[0.5], [2.5, 4.5]]
    >>> stream.finish().shape
    torch.Size([1, 0, 1])
    """

    def __init__(self, speed: float):
        self.speed = speed
        self._mel: torch.Tensor | None = None
        self._n_dropped = 0  # frames before those in _mel
        self._n_out = 0  # frames returned

    def push(self, mel: torch.Tensor) -> torch.Tensor:
        """Add mels (1, N, bands), and return the frames that are ready."""
        if self.speed == 1:
            return mel
        if self._mel is not None:
            mel = torch.cat([self._mel, mel], dim=1)
        self._mel = mel
        n_in = self._n_dropped + mel.size(1)
        # Frame j is read at (j + 1/2) speed - 1/2, and needs the frame after.
        n_ready = math.floor((n_in - 0.5) / self.speed - 0.5) + 1
        return self._read(min(n_ready, int(n_in / self.speed)))

    def finish(self) -> torch.Tensor | None:
        """Return the rest; None if there was no mel or the speed is 1."""
        if self.speed == 1 or self._mel is None:
            return None
        return self._read(
            _n_frames(self._n_dropped + self._mel.size(1), self.speed)
        )

    def _read(self, end: int) -> torch.Tensor:
        """Return the frames up to the given one."""
        end = max(end, self._n_out)
        positions = _positions(self._n_out, end, self.speed)
        read = _interpolate(self._mel, positions - self._n_dropped)
        self._n_out = end
        n_unused = int(_positions(end, end + 1, self.speed)) - self._n_dropped
        n_unused = min(max(n_unused, 0), self._mel.size(1) - 1)
        if n_unused > 0:
            self._mel = self._mel[:, n_unused:].clone()
            self._n_dropped += n_unused
        return read


def _n_frames(n_frames: int, speed: float) -> int:
    """Return the number of frames at a speed."""
    return max(int(n_frames / speed), min(n_frames, 2))


def _positions(start: int, end: int, step: float) -> torch.Tensor:
    """Return where frames ``start`` to ``end`` are read, in double."""
    frames = torch.arange(start, end, dtype=torch.float64)
    return ((frames + 0.5) * step - 0.5).clamp(min=0)


def _interpolate(mel: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Read mel (..., N, bands) at positions (M,), linearly interpolated."""
    last = mel.size(-2) - 1
    if not len(positions):
        return mel[..., :0, :]
    positions = positions.clamp(max=last)
    before = positions.long()
    share = (positions - before)[:, None].to(mel)
    before = before.to(mel.device)
    after = (before + 1).clamp(max=last)
    return mel.index_select(-2, before).lerp(mel.index_select(-2, after), share)

"""An extractor of emotion features that costs nothing, for tests of caches."""

import time

from speechbrain_emofilm.integrations.emotion_features.base import (
    FrameFeatureExtractor,
)


class ToyFeatures(FrameFeatureExtractor):
    """Level and mean of each 20 ms.

    Arguments
    ---------
    pause : float
        Seconds that a batch takes.
    revision : str
        Name of the weights, which it does not have.
    limit : int, optional
        Batches after which it waits to be killed.
    """

    def __init__(self, pause=0.0, revision="1", limit=None):
        super().__init__(
            "toy", revision, {}, dim=2, receptive_field=320, frame_offset=0.01
        )
        self.pause = pause
        self.limit = limit
        self.n_batches = 0

    def encode(self, wavs, n_samples):
        """Frames (B, F, 2)."""
        while self.n_batches == self.limit:
            time.sleep(1)
        self.n_batches += 1
        time.sleep(self.pause)
        frames = wavs.unfold(1, 320, 320)
        return frames.abs().mean(-1, keepdim=True).repeat(1, 1, 2)


class ToyProsody(ToyFeatures):
    """The same, known as a measure of prosody."""

    def __init__(self):
        super().__init__()
        self.config["prosody"] = ["energy"]

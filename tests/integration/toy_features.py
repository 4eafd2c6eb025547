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
    """

    def __init__(self, pause=0.0, revision="1"):
        super().__init__(
            "toy", revision, {}, dim=2, receptive_field=320, frame_offset=0.01
        )
        self.pause = pause

    def encode(self, wavs, n_samples):
        """Frames (B, F, 2)."""
        time.sleep(self.pause)
        frames = wavs.unfold(1, 320, 320)
        return frames.abs().mean(-1, keepdim=True).repeat(1, 1, 2)

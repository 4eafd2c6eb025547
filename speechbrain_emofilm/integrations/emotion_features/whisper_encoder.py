"""Whisper's encoder alone, as features without measures of prosody.

Two judges of emotion are independent only if they do not hear the same
measures: this one shares none with those that measure prosody.
"""

from speechbrain_emofilm.integrations.emotion_features.whisper_prosody import (
    HOP,
    PROSODY,
    WhisperProsody,
)

import numpy as np


class WhisperEncoder(WhisperProsody):
    """Extractor of Whisper encoder frames, 50 Hz.

    Arguments
    ---------
    **options
        Arguments of
        :class:`~speechbrain_emofilm.integrations.emotion_features.whisper_prosody.WhisperProsody`.

    Raises
    ------
    ImportError
        If a package is missing; the message names it.

    Example
    -------
    >>> import torch
    >>> extractor = WhisperEncoder(padding=1.0)
    >>> features, lens = extractor(0.1 * torch.randn(1, 16000))
    >>> features.shape, extractor.model_name
    (torch.Size([1, 50, 384]), 'whisper_encoder')
    """

    def __init__(self, **options):
        super().__init__(**options)
        self.model_name = "whisper_encoder"
        self.config = {k: v for k, v in self.config.items() if k != "prosody"}
        self.dim -= len(PROSODY)

    def _frames(self, wav: np.ndarray) -> np.ndarray:
        return self._whisper_frames(wav, -(-len(wav) // HOP))

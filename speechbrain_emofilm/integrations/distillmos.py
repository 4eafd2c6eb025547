"""Predicted naturalness (MOS) by DistillMOS.

The wheel of ``distillmos`` (MIT) includes its weights, so nothing is
downloaded. The model was trained on ratings of telephone and synthetic
speech; its scores rank systems but do not replace a listening test.
"""

import contextlib
import io
from collections.abc import Sequence

import torch
from scipy.signal import resample_poly

SAMPLE_RATE = 16000  # of the model


class DistillMOS:
    """Predictor of the mean opinion score of speech.

    Raises
    ------
    ImportError
        If the package is missing.
    """

    def __init__(self):
        try:
            from distillmos import ConvTransformerSQAModel
        except ImportError as error:
            raise ImportError(
                f"Predicted naturalness needs the package {error.name}: "
                "pip install 'speechbrain-emofilm[demo]'."
            ) from error
        with contextlib.redirect_stdout(io.StringIO()):  # it prints a path
            self.model = ConvTransformerSQAModel().eval()

    @torch.inference_mode()
    def predict(self, wavs: Sequence, sample_rate: int = 24000) -> list[float]:
        """Predict the scores, 1 to 5, of utterances.

        Arguments
        ---------
        wavs : sequence of torch.Tensor or numpy.ndarray
            Sounds (T,), within -1 and 1.
        sample_rate : int
            Sample rate in Hz.
        """
        scores = []
        for wav in wavs:
            samples = torch.as_tensor(wav).double().cpu().numpy()
            samples = resample_poly(samples, SAMPLE_RATE, sample_rate)
            batch = torch.from_numpy(samples).float()[None]
            scores.append(float(self.model(batch)))
        return scores

"""CosyVoice2's speaker encoder CAM++, an ONNX model."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from speechbrain_emofilm.utils.guarded import Guarded

import torch
from torchaudio.compliance import kaldi

SAMPLE_RATE = 16000
_MIN_SECONDS = 0.1


class CAMPPlus:
    """Speaker vectors (x-vectors) of speech.

    The model is loaded at first use.

    Arguments
    ---------
    path : str or Path
        ``campplus.onnx`` of a CosyVoice2 snapshot.
    n_threads : int
        Number of CPU threads; 0 for onnxruntime's choice.

    Example
    -------
    >>> encoder = CAMPPlus(
    ...     "pretrained/CosyVoice2-0.5B/campplus.onnx"
    ... )  # doctest: +SKIP
    >>> encoder.embed([torch.randn(16000)]).shape  # doctest: +SKIP
    torch.Size([1, 192])
    """

    sample_rate = SAMPLE_RATE

    def __init__(self, path: str | Path, n_threads: int = 1):
        self.path = Path(path)
        self.n_threads = n_threads
        self._session = Guarded(partial(_open_session, self.path, n_threads))

    def embed(self, wavs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Embed utterances.

        Arguments
        ---------
        wavs : sequence of torch.Tensor
            Sounds (T_i,) at 16 kHz, within -1 and 1, of at least 0.1 s.

        Returns
        -------
        torch.Tensor
            Speaker vectors, (B, 192).

        Raises
        ------
        ImportError
            If onnxruntime is missing; the message names the extra.
        FileNotFoundError
            If there is no such model.
        ValueError
            If a sound is too short or the file is not an ONNX model.
        """
        with self._session as session:
            return self._embed(session, wavs)

    @staticmethod
    def _embed(session, wavs: Sequence[torch.Tensor]) -> torch.Tensor:
        name = session.get_inputs()[0].name
        vectors = []
        for index, wav in enumerate(wavs):
            if len(wav) < _MIN_SECONDS * SAMPLE_RATE:
                raise ValueError(
                    f"Item {index} of the batch lasts "
                    f"{len(wav) / SAMPLE_RATE:.2f} s: a speaker vector needs "
                    f"at least {_MIN_SECONDS} s."
                )
            features = {name: speaker_features(wav)[None].numpy()}
            output = session.run(None, features)[0]
            vectors.append(torch.from_numpy(output).float().flatten())
        return torch.stack(vectors)


def _open_session(path: Path, n_threads: int):
    """Open the model."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            f"Speaker vectors need the package {error.name}: "
            "pip install 'speechbrain-emofilm[cosyvoice]'."
        ) from error
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: give campplus.onnx of a "
            "CosyVoice2-0.5B snapshot."
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    try:
        return onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    # onnxruntime's errors share no public class.
    except Exception as error:
        raise ValueError(
            f"{path} is not an ONNX model "
            f"({' '.join(str(error).split())[:200]}): get campplus.onnx "
            "of a CosyVoice2-0.5B snapshot again."
        ) from error


def speaker_features(wav: torch.Tensor) -> torch.Tensor:
    """Compute Kaldi's log-mels without their mean, the input of CAM++.

    Arguments
    ---------
    wav : torch.Tensor
        Sound (T,) at 16 kHz, within -1 and 1.

    Returns
    -------
    features : torch.Tensor
        Features (F, 80), 100 frames per second.

    Example
    -------
    >>> features = speaker_features(torch.randn(16000))
    >>> features.shape, bool(features.mean(0).abs().max() < 1e-4)
    (torch.Size([98, 80]), True)
    """
    features = kaldi.fbank(
        wav[None].float().cpu(),
        num_mel_bins=80,
        sample_frequency=SAMPLE_RATE,
        dither=0.0,
    )
    return features - features.mean(0, keepdim=True)

"""Word-level emotion for speech synthesis: E-FiLM on CosyVoice2.

A SpeechBrain plugin. Import it before ``speechbrain``: it makes torchaudio
importable beside a CPU build of torch.
"""

from speechbrain_emofilm.utils.torchaudio_compat import import_torchaudio

import_torchaudio()

__version__ = "0.1.0"

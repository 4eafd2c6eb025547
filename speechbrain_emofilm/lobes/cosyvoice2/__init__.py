"""CosyVoice2: language model, sampling, flow matching and vocoder."""

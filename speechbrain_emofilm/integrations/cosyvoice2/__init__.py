"""Front ends and released files of CosyVoice2."""

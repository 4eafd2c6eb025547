"""Files and the torchaudio import."""

"""Shared set-up of all tests."""

import speechbrain_emofilm  # noqa: F401  first: makes torchaudio importable on CPU

"""E-FiLM, and batches with the lengths of ESD's English part."""

from speechbrain_emofilm.lobes.conditioned_lm import (
    ConditionedLMInputs,
    EmotionConditionedLM,
)
from speechbrain_emofilm.lobes.cosyvoice2.llm import CosyVoice2LM
from speechbrain_emofilm.lobes.efilm import (
    EFiLM,
    EmotionEncoder,
    FiLM,
    WordEmotionLoss,
)

import torch

N_EMOTIONS = 5
TEXT_PER_SECOND = 3.3  # text tokens
SPEECH_PER_SECOND = 25


def make_emofilm(lm: CosyVoice2LM, seed: int = 0) -> EmotionConditionedLM:
    """Create E-FiLM on the frozen language model, with word emotion loss."""
    torch.manual_seed(seed)
    dim = lm.llm.config.hidden_size
    return EmotionConditionedLM(
        lm,
        EFiLM(
            EmotionEncoder(N_EMOTIONS, dim=64), FiLM(64, dim, text_scale=0.02)
        ),
        WordEmotionLoss(N_EMOTIONS, dim),
    )


def esd_like_batch(batch_size: int, seed: int = 0) -> ConditionedLMInputs:
    """Draw inputs of ``EmotionConditionedLM`` for sentences of 1.2 to 5.5 s.

    Each word has two text tokens.
    """
    generator = torch.Generator().manual_seed(seed)
    seconds = torch.randn(batch_size, generator=generator) * 0.85 + 2.9
    seconds = seconds.clamp(1.2, 5.5)
    n_text = (seconds * TEXT_PER_SECOND).long()
    n_speech = (seconds * SPEECH_PER_SECOND).long()
    text_size, speech_size = int(n_text.max()), int(n_speech.max())
    n_words = text_size // 2 + 1
    emotions = torch.randint(
        N_EMOTIONS, (batch_size, n_words), generator=generator
    )
    word_of_speech = torch.arange(speech_size) * n_words // speech_size
    shape = batch_size, speech_size
    return ConditionedLMInputs(
        text_tokens=torch.randint(
            1000, (batch_size, text_size), generator=generator
        ),
        text_lens=n_text / text_size,
        word_of_token=(torch.arange(text_size) // 2).repeat(batch_size, 1),
        speech_tokens=torch.randint(6561, shape, generator=generator),
        speech_lens=n_speech / speech_size,
        word_of_speech=word_of_speech.repeat(batch_size, 1),
        word_emotions=torch.eye(N_EMOTIONS)[emotions],
        word_intensity=torch.ones(batch_size, n_words),
    )

"""A snapshot of CosyVoice2 in the original's files, small and random."""

import sys
from pathlib import Path
from unittest import mock

# Not for longer: some scripts there are called as a recipe's are.
_BENCHMARKS = str(Path(__file__).resolve().parents[2] / "benchmarks")
with mock.patch.object(sys, "path", [_BENCHMARKS, *sys.path]):
    from common import fake_snapshot
    from common.fake_snapshot import make_speaker_encoder  # noqa: F401

#: What the tokenizer has read; it knows other text byte by byte.
TOKENIZER_TEXT = [
    "We won the game, but he left! Come and see it now.",
    "Don't you think so? It's 1,000.5 dollars; \"really\" well-kept.",
    "我们赢了,但是他走了。你好吗?今天天气很好!",
    "twenty one dollars and three cents on the fourth of march",
] * 20
QWEN2 = {
    "vocab_size": 448,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 2048,
}
FLOW = {
    "token_dim": 8,
    "encoder_dim": 8,
    "encoder_heads": 2,
    "encoder_ffn": 16,
    "encoder_blocks": 1,
    "encoder_up_blocks": 1,
    "estimator_channels": 8,
    "estimator_heads": 2,
    "estimator_head_dim": 4,
    "estimator_blocks": 1,
    "estimator_mid_blocks": 1,
}
VOCODER = {"base_channels": 16, "f0_cond_channels": 8}
SPEECH_TOKENIZER = {"n_state": 64, "n_heads": 1, "n_layers": 1}
#: What makes hparams/backbone/cosyvoice2.yaml fit such a snapshot.
BACKBONE = {
    "text_dim": QWEN2["hidden_size"],
    "flow": FLOW,
    "vocoder": VOCODER,
    "speech_tokenizer": SPEECH_TOKENIZER,
    "generation": {"min_ratio": 1.0, "max_ratio": 2.0},
}


def make_tokenizer(folder):
    """A small byte-level BPE tokenizer in the files of Qwen2's."""
    from tokenizers import ByteLevelBPETokenizer

    fake_snapshot.write_config(folder, QWEN2)
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        TOKENIZER_TEXT, vocab_size=420, show_progress=False
    )
    tokenizer.save_model(str(folder))


def make_speech_tokenizer(path):
    """Weights of an S3TokenizerV2, named as its ONNX export names them."""
    fake_snapshot.make_speech_tokenizer(path, SPEECH_TOKENIZER)


def make_snapshot(folder):
    """Writes all files that are used of a snapshot."""
    folder = Path(folder)
    make_tokenizer(folder / "CosyVoice-BlankEN")
    fake_snapshot.make_models(folder, QWEN2, FLOW, VOCODER, SPEECH_TOKENIZER)

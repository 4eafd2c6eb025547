"""A CTC recogniser of transformers, of random weights."""

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

from speechbrain_emofilm.integrations.aligner.ctc import HuggingFaceCTC

import torch


def tiny_ctc(characters: Iterable[str]) -> HuggingFaceCTC:
    """Makes a recogniser, 50 frames per second.

    Arguments
    ---------
    characters : iterable of str
        What it knows.

    Returns
    -------
    HuggingFaceCTC
        With a token between words.
    """
    from transformers import (
        Wav2Vec2Config,
        Wav2Vec2CTCTokenizer,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForCTC,
    )

    tokens = ["<pad>", "<unk>", "|", *characters]
    config = Wav2Vec2Config(
        vocab_size=len(tokens),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8, 8),
        conv_kernel=(10, 8),
        conv_stride=(10, 32),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        pad_token_id=0,
    )
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        torch.manual_seed(0)
        vocabulary = Path(folder, "vocab.json")
        vocabulary.write_text(
            json.dumps({token: i for i, token in enumerate(tokens)})
        )
        Wav2Vec2CTCTokenizer(
            str(vocabulary), pad_token="<pad>", unk_token="<unk>"
        ).save_pretrained(folder)
        Wav2Vec2FeatureExtractor().save_pretrained(folder)
        Wav2Vec2ForCTC(config).save_pretrained(folder)
        return HuggingFaceCTC(folder)

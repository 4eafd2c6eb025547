"""Shared set-up of all tests."""

import json

import speechbrain_emofilm  # noqa: F401  first: makes torchaudio importable on CPU

import pytest

#: What the small tokenizer has read; it knows other text byte by byte.
TOKENIZER_TEXT = [
    "We won the game, but he left! Come and see it now.",
    "Don't you think so? It's 1,000.5 dollars; \"really\" well-kept.",
    "我们赢了,但是他走了。你好吗?今天天气很好!",
    "twenty one dollars and three cents on the fourth of march",
] * 20


@pytest.fixture(scope="session")
def qwen2_folder(tmp_path_factory):
    """A small byte-level BPE tokenizer in the files of Qwen2's."""
    from tokenizers import ByteLevelBPETokenizer

    folder = tmp_path_factory.mktemp("snapshot") / "CosyVoice-BlankEN"
    folder.mkdir()
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        TOKENIZER_TEXT, vocab_size=420, show_progress=False
    )
    tokenizer.save_model(str(folder))
    config = {"model_type": "qwen2"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder

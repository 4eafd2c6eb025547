"""Shared set-up of all tests."""

import sys
from pathlib import Path

import speechbrain_emofilm  # noqa: F401  first: makes torchaudio importable on CPU

import pytest

sys.path.insert(0, str(Path(__file__).parent / "integration"))


def pytest_collection_modifyitems(items):
    """The longest file comes first: no process waits for it at the end."""
    items.sort(key=lambda item: item.path.name != "test_recipes.py")


@pytest.fixture(scope="session")
def qwen2_folder(tmp_path_factory):
    """A small byte-level BPE tokenizer in the files of Qwen2's."""
    from tiny_cosyvoice2 import make_tokenizer

    folder = tmp_path_factory.mktemp("snapshot") / "CosyVoice-BlankEN"
    make_tokenizer(folder)
    return folder

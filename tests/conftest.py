"""Shared set-up of all tests."""

import sys
from pathlib import Path

import speechbrain_emofilm  # noqa: F401  first: makes torchaudio importable on CPU

import pytest
from speechbrain.utils.importutils import LazyModule

# hypothesis asks each loaded module for its file, whereupon the deprecated ones
# of SpeechBrain would import packages that are not installed.
LazyModule.__file__ = None

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "integration"))


#: Fixtures that cost seconds (models are loaded, corpora spoken), by file.
SLOW_FIXTURES = {
    "test_emotion2vec.py": "folder",
    "test_fedd.py": "bridged evaluated",
    "test_miniesd_corpus.py": "corpus pretraining features",
    "test_miniesd_voice.py": "voice",
    "test_whisper.py": "asr",
    "test_whisper_prosody.py": "extractor",
}


def pytest_collection_modifyitems(items):
    """The longest file comes first: no process waits for it at the end.

    Tests that use a slow fixture are slow.
    """
    items.sort(key=lambda item: item.path.name != "test_recipes.py")
    for item in items:
        slow = SLOW_FIXTURES.get(item.path.name, "").split()
        if not set(slow).isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def qwen2_folder(tmp_path_factory):
    """A small byte-level BPE tokenizer in the files of Qwen2's."""
    from tiny_cosyvoice2 import make_tokenizer

    folder = tmp_path_factory.mktemp("snapshot") / "CosyVoice-BlankEN"
    make_tokenizer(folder)
    return folder

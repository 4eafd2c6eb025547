"""torchaudio imports and works beside a CPU build of torch."""

import importlib
import subprocess
import sys

from speechbrain_emofilm.utils import torchaudio_compat
from speechbrain_emofilm.utils.torchaudio_compat import import_torchaudio

import pytest
import torch


@pytest.fixture
def broken_library(monkeypatch):
    """torchaudio as if freshly installed, with a library that cannot load."""
    for name in list(sys.modules):
        if name.split(".")[0] == "torchaudio":
            monkeypatch.delitem(sys.modules, name)
    real_import = importlib.import_module
    tries = []

    def import_module(name, package=None):
        if name == "torchaudio" and not tries:
            tries.append(name)
            sys.modules["torchaudio.half_imported"] = None
            raise OSError("libcudart.so.13: cannot open shared object file")
        return real_import(name, package)

    monkeypatch.setattr(
        torchaudio_compat.importlib, "import_module", import_module
    )
    yield
    for name in list(sys.modules):
        if name.split(".")[0] == "torchaudio":
            del sys.modules[name]


def test_works_without_the_compiled_library(broken_library):
    torchaudio = import_torchaudio()
    assert "torchaudio.half_imported" not in sys.modules
    wav = torchaudio.functional.resample(torch.randn(1, 2400), 24000, 16000)
    assert wav.shape == (1, 1600)
    assert torchaudio.transforms.MelSpectrogram()(wav).shape[1] == 128


def test_forced_alignment_says_what_is_missing(broken_library):
    torchaudio = import_torchaudio()
    with pytest.raises(RuntimeError, match="torchaudio's compiled library"):
        torchaudio.functional.forced_align(
            torch.zeros(1, 4, 3), torch.ones(1, 2, dtype=torch.int32)
        )


def test_other_import_errors_pass_through(monkeypatch):
    def import_module(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(
        torchaudio_compat.importlib, "import_module", import_module
    )
    with pytest.raises(ModuleNotFoundError, match="torchaudio"):
        import_torchaudio()


def test_calling_it_again_gives_the_same_module():
    assert import_torchaudio() is import_torchaudio()


@pytest.mark.slow
def test_speechbrain_imports_after_the_package_in_a_fresh_process():
    code = "import speechbrain_emofilm, speechbrain; print('imported')"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert result.stdout.endswith("imported\n"), result.stderr

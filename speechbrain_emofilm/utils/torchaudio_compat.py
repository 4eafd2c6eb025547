"""Import of torchaudio where its compiled library does not match torch.

The torchaudio wheel on PyPI is linked against CUDA libraries. With a CPU
build of torch, ``import torchaudio`` therefore fails with an ``OSError`` and
takes SpeechBrain with it, although nothing here needs compiled code: resampling
and mel filters are plain torch.
"""

import importlib
import sys
import types

_EXTENSION = "torchaudio._extension"


def _extension_stub():
    """Return a ``torchaudio._extension`` that reports no compiled library."""

    def fail_if_no_align(function):
        def refuse(*args, **kwargs):
            raise RuntimeError(
                f"{function.__name__} needs torchaudio's compiled library, "
                "which does not load with this build of torch: install torch "
                "and torchaudio from the same package index."
            )

        return refuse

    stub = types.ModuleType(_EXTENSION)
    stub.__path__ = []  # torchaudio imports submodules of it: be a package
    stub._IS_TORCHAUDIO_EXT_AVAILABLE = False
    stub._IS_ALIGN_AVAILABLE = False
    stub._check_cuda_version = lambda: None
    stub.fail_if_no_align = fail_if_no_align
    return stub


def import_torchaudio() -> types.ModuleType:
    """Import torchaudio, without its compiled library if that cannot load.

    This must run before the first ``import speechbrain``; importing
    ``speechbrain_emofilm`` does it. Calling it again costs nothing.

    Without the compiled library only forced alignment is missing: it raises
    RuntimeError when called.

    Example
    -------
    >>> torchaudio = import_torchaudio()
    >>> torchaudio.functional.melscale_fbanks(9, 0.0, 8000.0, 4, 16000).shape
    torch.Size([9, 4])
    """
    try:
        return importlib.import_module("torchaudio")
    except OSError:  # a shared library is missing or does not fit
        for name in list(sys.modules):
            if name == "torchaudio" or name.startswith("torchaudio."):
                del sys.modules[name]
        sys.modules[_EXTENSION] = _extension_stub()
        return importlib.import_module("torchaudio")

"""The server with the shipped model, in this process."""

import threading
import time
from contextlib import contextmanager

from speechbrain_emofilm.dataio.voices import Voice, write_voices
from speechbrain_emofilm.inference.prompted_token_to_wav import (
    PromptedTokenToWav,
)
from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer
from speechbrain_emofilm.inference.voices import VoiceMaker
from speechbrain_emofilm.utils.assets import find_file

import torch
from small_flow import small_flow

SHIPPED_MODEL = "speechbrain_emofilm/assets/mini/synthesizer.yaml"
N_TOKENS = 6561  # different speech tokens


@contextmanager
def running(app):
    """The port of a server of an application, which stops at the end."""
    from speechbrain_emofilm.serve.server import make_server

    server = make_server(app, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def shipped_model():
    """The model that the package brings."""
    return EmoFiLMSynthesizer.from_hparams(find_file(SHIPPED_MODEL).parent)


class Tokenizer:
    """Speech tokens that have nothing to do with the recording."""

    sample_rate = 16000

    def tokenize_batch(self, wavs):
        return [torch.arange(len(wav) // 640) % N_TOKENS for wav in wavs]


class Encoder:
    """The same speaker for everyone."""

    sample_rate = 16000

    def embed(self, wavs):
        return torch.zeros(len(wavs), 192)


def prompted_model(folder):
    """A model that takes on voices: its flow has random weights."""
    synthesizer = shipped_model()
    voice = Voice(torch.ones(192), torch.arange(50), torch.zeros(100, 80))
    write_voices(folder / "voices.safetensors", {"anna": voice})
    torch.manual_seed(0)
    synthesizer.mods["token_to_wav"] = PromptedTokenToWav(
        small_flow(vocab_size=N_TOKENS, mel_mean=-6.0, mel_std=2.5).eval(),
        synthesizer.mods["token_to_wav"].vocoder,
        folder / "voices.safetensors",
        n_timesteps=2,
    )
    synthesizer.hparams.voice_maker = VoiceMaker(Tokenizer(), Encoder())
    synthesizer.folder = folder
    return synthesizer


@contextmanager
def serving_model(synthesizer=None, settings=None, parts=None):
    """The address of a server; it labels and suggests if parts are given."""
    from speechbrain_emofilm.serve.app import create_app
    from speechbrain_emofilm.serve.service import Parts

    app = create_app(synthesizer or shipped_model(), settings, parts or Parts())
    with running(app) as port:
        yield f"http://127.0.0.1:{port}/"

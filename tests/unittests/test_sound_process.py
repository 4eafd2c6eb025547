"""Sound that is made in a process of its own."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import nullcontext
from itertools import chain

from speechbrain_emofilm.dataio.voices import Voice
from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer
from speechbrain_emofilm.inference.token_to_wav import TokenToWav
from speechbrain_emofilm.lobes.mini.harmonic_noise_vocoder import (
    HarmonicNoiseVocoder,
)
from speechbrain_emofilm.lobes.mini.token_decoder import RegressionDecoder
from speechbrain_emofilm.serve.engine import Row, Speaking
from speechbrain_emofilm.serve.sound_process import SoundProcess
from speechbrain_emofilm.serve.speaker import ContinuousSpeaker
from speechbrain_emofilm.utils.assets import find_file

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.slow  # the process imports torch

SHIPPED_MODEL = "speechbrain_emofilm/assets/mini/synthesizer.yaml"
TEXTS = [
    "<happy>We won!</happy> <sad>But he left the old house.</sad>",
    "He left.",
    "<sad>No dog ran home again, and we are here.</sad>",
]


def wait_for(condition):
    """Wait until something holds; fail if it never does."""
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("It never came true.")


def alive(pid):
    """Whether a process runs: a zombie does not."""
    try:
        state = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


class Echo(torch.nn.Module):
    """Says its tokens as sound, each times a number of the voice."""

    speakers = ("one",)
    xvectors = None

    def __init__(self):
        super().__init__()
        self.voices = {"one": None}
        self.weight = torch.nn.Parameter(torch.ones(1))

    def voice_of(self, name):
        return self.voices.get(name)

    def add_voice(self, name, voice):
        self.voices[name] = voice
        self.speakers = tuple(self.voices)

    def forward(self, tokens, speaker, speed):
        if tokens[0][0] == 13:
            raise ValueError("unlucky")
        voice = self.voices[speaker]
        factor = 1.0 if voice is None else voice.xvector[0]
        return [tokens[0] * self.weight.detach() * factor]


@pytest.fixture
def echo():
    token_to_wav = Echo()
    process = SoundProcess(token_to_wav, nullcontext(), 1)
    assert process.wait_until_ready(120)
    yield token_to_wav, process
    process.close()


def take(process):
    """The next answer."""
    (made,) = process.take(120)
    return made


def test_a_process_makes_the_same_sound_with_the_same_weights():
    torch.manual_seed(0)
    token_to_wav = TokenToWav(
        RegressionDecoder(channels=16, n_blocks=1, speaker_dim=4),
        HarmonicNoiseVocoder(channels=16),
        {"a": torch.ones(4), "b": torch.arange(4.0)},
    ).eval()
    weights = [
        value.clone()
        for value in chain(token_to_wav.parameters(), token_to_wav.buffers())
    ]
    tokens = torch.arange(60)
    (expected,) = token_to_wav([tokens], "b", speed=1.25)
    process = SoundProcess(token_to_wav, nullcontext(), 1)
    try:
        assert process.wait_until_ready(120)
        mapped = open("/proc/self/maps").read()
        assert "token_to_wav.pt" in mapped  # and not copied
        for old, new in zip(
            weights, chain(token_to_wav.parameters(), token_to_wav.buffers())
        ):
            assert torch.equal(old, new)
        process.make(3, tokens.tolist(), "b", 1.25, "whole")
        made = take(process)
        assert made.key == 3 and np.array_equal(made.wav, expected)
        # Two streams at once; one of them is dropped in the middle.
        streams = {key: token_to_wav.stream("a") for key in (4, 5)}
        for key in streams:
            process.make(key, tokens[:40].tolist(), "a", 1.0, "part")
            sound = streams[key].push(tokens[:40])
            assert np.array_equal(take(process).wav, sound)
        process.drop(5)
        process.make(4, tokens[40:].tolist(), "a", 1.0, "end")
        sound = streams[4].finish(tokens[40:])
        assert np.array_equal(take(process).wav, sound)
    finally:
        process.close()
    assert not alive(process.pid) and not process.ready


def test_a_voice_that_is_new_reaches_the_process(echo):
    token_to_wav, process = echo
    assert process.knows("one") and not process.knows("two")
    for factor in (2.0, 3.0):  # also in place of another
        voice = Voice(torch.tensor([factor]), torch.arange(2), torch.ones(4, 3))
        token_to_wav.add_voice("two", voice)
        assert process.knows("two")
        process.make(1, [5, 7], "two", 1.0, "whole")
        assert take(process).wav.tolist() == [5 * factor, 7 * factor]


def test_an_error_is_told_and_is_no_end(echo):
    _, process = echo
    process.make(1, [13], "one", 1.0, "whole")
    assert take(process) == (1, None)
    process.make(2, [14], "one", 1.0, "whole")
    assert take(process).wav.tolist() == [14.0]


def test_what_was_dropped_is_not_made(echo):
    _, process = echo
    for key in range(50):
        process.make(key, [1] * 1000, "one", 1.0, "whole")
        process.drop(key)
    process.make(50, [2], "one", 1.0, "whole")
    keys = []
    while 50 not in keys:
        keys += [made.key for made in process.take(120)]
    assert len(keys) < 51


def test_the_process_ends_with_a_program_that_is_killed(tmp_path):
    """Also if the program does not ask whether it is the main one."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, signal, torch
            from contextlib import nullcontext
            from speechbrain_emofilm.inference.token_to_wav import TokenToWav
            from speechbrain_emofilm.lobes.mini import (
                harmonic_noise_vocoder, token_decoder
            )
            from speechbrain_emofilm.serve.sound_process import SoundProcess

            print("begun", flush=True)
            token_to_wav = TokenToWav(
                token_decoder.RegressionDecoder(16, 1, 4),
                harmonic_noise_vocoder.HarmonicNoiseVocoder(channels=16),
                {"a": torch.ones(4)},
            ).eval()
            process = SoundProcess(token_to_wav, nullcontext(), 1)
            assert process.wait_until_ready(120)
            print(process.pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
            """
        )
    )
    ran = subprocess.run(
        [sys.executable, script], stdout=subprocess.PIPE, text=True
    )
    assert ran.returncode == -signal.SIGKILL
    begun, pid = ran.stdout.split()  # it began once
    wait_for(lambda: not alive(int(pid)))


# ---------------------------------------------------------------- the speaker


@pytest.fixture(scope="module")
def synthesizer():
    return EmoFiLMSynthesizer.from_hparams(find_file(SHIPPED_MODEL).parent)


@pytest.fixture(scope="module")
def expected(synthesizer):
    """Sound of the texts, streamed and whole, made in this process."""
    return {
        streaming: hear(ContinuousSpeaker(synthesizer, 3, False), streaming)
        for streaming in (True, False)
    }


def hear(speaker, streaming, at_step=lambda step: None):
    """Let the texts be spoken together; returns the sound of each."""
    speaker.join(
        Row(i, speaker.synthesizer.plan(text)[0], Speaking(), i, streaming)
        for i, text in enumerate(TEXTS)
    )
    sounds, step = {key: [] for key in range(len(TEXTS))}, 0
    while speaker.busy:
        at_step(step)
        step += 1
        for said in speaker.step():
            assert said.error is None
            sounds[said.key].append(said)
    for parts in sounds.values():
        assert [part.last for part in parts] == [False] * (len(parts) - 1) + [
            True
        ]
    return [
        np.concatenate([part.wav for part in parts])
        for parts in sounds.values()
    ]


@pytest.fixture
def speaker(synthesizer):
    speaker = ContinuousSpeaker(synthesizer, 3, True)
    speaker.start()
    yield speaker
    speaker.close()


def same(sounds, expected):
    return all(map(np.array_equal, sounds, expected))


@pytest.mark.parametrize("streaming", [False, True])
def test_until_the_process_is_ready_sound_is_made_here(
    speaker, expected, streaming, monkeypatch
):
    process = speaker.process
    make = process.make
    n_made = []
    monkeypatch.setattr(
        process, "make", lambda *args: n_made.append(make(*args))
    )
    monkeypatch.setattr(SoundProcess, "ready", False)
    assert same(hear(speaker, streaming), expected[streaming])
    assert not n_made
    monkeypatch.undo()
    monkeypatch.setattr(
        process, "make", lambda *args: n_made.append(make(*args))
    )
    assert process.wait_until_ready(120)
    assert same(hear(speaker, streaming), expected[streaming])
    assert len(n_made) >= len(TEXTS)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("stop", [signal.SIGSTOP, None])
def test_sound_of_a_killed_process_is_made_here(
    speaker, expected, streaming, stop, caplog
):
    """Nothing is lost or heard twice, whatever was made before."""
    process = speaker.process
    assert process.wait_until_ready(120)

    def kill(step):
        if step == 20 and stop is not None:  # what follows is not made
            os.kill(process.pid, stop)
        if step == 50:
            os.kill(process.pid, signal.SIGKILL)

    assert same(hear(speaker, streaming, kill), expected[streaming])
    assert not process.ready and speaker.process is None
    assert same(hear(speaker, streaming), expected[streaming])
    warnings = [r for r in caplog.records if "has ended" in r.getMessage()]
    assert len(warnings) == 1


def test_a_row_that_leaves_is_dropped(speaker, expected):
    assert speaker.process.wait_until_ready(120)
    plan = speaker.synthesizer.plan
    speaker.join([Row(7, plan(TEXTS[0])[0], Speaking(), 0, streaming=True)])
    for _ in range(40):  # some of its sound has been asked for
        speaker.step()
    speaker.leave(7)
    assert not speaker.busy and speaker.room == 3
    assert same(hear(speaker, True), expected[True])


def test_an_error_of_the_process_is_made_good_here(
    speaker, expected, monkeypatch
):
    process = speaker.process
    assert process.wait_until_ready(120)
    make = process.make
    monkeypatch.setattr(
        process,
        "make",
        lambda key, tokens, name, *args: make(
            key, tokens, name if key != 1 else "nobody", *args
        ),
    )
    for streaming in (False, True):
        assert same(hear(speaker, streaming), expected[streaming])
    assert process.ready


def test_a_module_that_cannot_be_handed_over_speaks_here(
    synthesizer, expected, monkeypatch, caplog
):
    token_to_wav = synthesizer.mods.token_to_wav
    monkeypatch.setattr(token_to_wav, "secret", lambda: 0, raising=False)
    speaker = ContinuousSpeaker(synthesizer, 3, True)
    speaker.start()
    assert speaker.process is None
    assert "between the tokens" in caplog.text
    assert same(hear(speaker, False), expected[False])


def test_a_speaker_of_one_row_has_no_process(synthesizer):
    """It speaks one text at a time."""
    speaker = ContinuousSpeaker(synthesizer, 1)
    speaker.start()
    assert speaker.process is None

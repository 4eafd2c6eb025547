"""Voices that follow the emotions of the words within an utterance."""

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.text import TextUnits, split_words
from speechbrain_emofilm.dataio.voices import Voice, write_voices
from speechbrain_emofilm.inference.prompted_token_to_wav import (
    PromptedTokenToWav,
)
from speechbrain_emofilm.inference.spans import (
    Span,
    blend_mels,
    voice_spans,
    word_voices,
)
from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer
from speechbrain_emofilm.lobes.cosyvoice2.flow import CosyVoice2Flow
from speechbrain_emofilm.lobes.cosyvoice2.hift import HiFTGenerator
from speechbrain_emofilm.utils.assets import find_file

import pytest
import torch
from tiny_cosyvoice2 import FLOW, VOCODER

EMOTIONS = ["neutral", "angry", "happy", "sad"]
#: 12 letters of 4 frames: the voice changes at the frames 20 and 32.
TEXT = "<happy>We won,</happy> but <sad>left.</sad>"
PLAIN = "We won, but left."


class Frontend:
    """Each letter is a unit."""

    language = "xx"

    def encode(self, text):
        words = [word.text for word in split_words(text)]
        owners = [i for i, word in enumerate(words) for _ in word]
        return TextUnits(list(map(ord, "".join(words))), owners, words)


class Level(torch.nn.Module):
    """Stands for a vocoder: the mean of the mel, held for each frame."""

    def forward(self, mel, lens, seed):
        return mel.mean(-1).repeat_interleave(480, 1)


class NoAligner:
    """Finds nothing, so that times are proportional."""

    def align(self, wav, sample_rate, text, language):
        return []


class Aligner:
    """Gives every word the same time, and keeps what it has heard."""

    def __init__(self):
        self.heard = []

    def align(self, wav, sample_rate, text, language):
        self.heard.append(wav)
        words = text.split()
        step = len(wav) / sample_rate / len(words)
        return [
            Word(word, i * step, (i + 1) * step, 0.5)
            for i, word in enumerate(words)
        ]


def make_voice(seed, n_tokens):
    generator = torch.Generator().manual_seed(seed)
    return Voice(
        torch.randn(192, generator=generator),
        torch.randint(6561, (n_tokens,), generator=generator),
        torch.randn(2 * n_tokens, 80, generator=generator),
        transcript=f"Voice {seed}",
    )


VOICES = {
    "0011/happy": make_voice(1, 7),
    "0011/neutral": make_voice(2, 12),
    "0011/sad": make_voice(3, 9),
    "0012": make_voice(4, 8),
    "0013/angry": make_voice(5, 8),
    "0013/sad": make_voice(6, 8),
    "0014": make_voice(7, 8),
    "0014/sad": make_voice(8, 10),
}


@pytest.fixture(scope="module")
def flow():
    torch.manual_seed(0)
    return CosyVoice2Flow(**FLOW).eval().requires_grad_(False)


@pytest.fixture
def make_synthesizer(flow, tmp_path, monkeypatch):
    """Makes a synthesizer that speaks two tokens for each letter."""

    def make(vocoder=None, **hparams):
        path = tmp_path / "voices.safetensors"
        write_voices(path, VOICES)
        token_to_wav = PromptedTokenToWav(
            flow, vocoder or Level(), path, n_timesteps=2
        )
        synthesizer = EmoFiLMSynthesizer(
            modules={
                "emofilm": torch.nn.Identity(),
                "token_to_wav": token_to_wav,
            },
            hparams={
                "emotions": EMOTIONS,
                "text_frontend": Frontend(),
                "aligner": NoAligner(),
                **hparams,
            },
            run_opts={"device": "cpu"},
        )
        synthesizer.prompts = []

        def generate(batch, prompts, seeds, guidance):
            synthesizer.prompts += prompts
            ids = [torch.tensor(r.units.ids) for r in batch]
            return [torch.stack([i, 7 * i], 1).flatten() for i in ids]

        monkeypatch.setattr(synthesizer, "_generate", generate)
        return synthesizer

    return make


@pytest.fixture
def synthesizer(make_synthesizer):
    return make_synthesizer()


def levels(result):
    """One value for each frame."""
    return result.wav[::480]


def test_each_word_has_the_voice_of_its_emotion(synthesizer):
    spoken = levels(synthesizer.synthesize(TEXT, "0011", reference="per_span"))
    own = [
        levels(synthesizer.synthesize(PLAIN, f"0011/{emotion}"))
        for emotion in ("happy", "neutral", "sad")
    ]
    happy, neutral, sad = own
    fade = (torch.arange(6) + 0.5) / 6
    expected = torch.cat(
        [
            happy[:17],
            happy[17:23].lerp(neutral[17:23], fade),
            neutral[23:29],
            neutral[29:35].lerp(sad[29:35], fade),
            sad[35:],
        ]
    )
    torch.testing.assert_close(spoken, expected, atol=1e-5, rtol=0)
    assert (happy - neutral).abs().max() > 0.01 < (sad - neutral).abs().max()


@pytest.mark.parametrize(
    "text, voice",
    [
        ("<happy>We won</happy>", "happy"),
        ("<neutral>We</neutral> won", "neutral"),
        ("<angry>We</angry> won", "neutral"),
        ("<happy intensity=0>We</happy> won", "neutral"),
    ],
)
def test_one_voice_gives_the_wave_of_that_voice(make_synthesizer, text, voice):
    torch.manual_seed(0)
    synthesizer = make_synthesizer(HiFTGenerator(**VOCODER).eval())
    spoken = synthesizer.synthesize(text, "0011", reference="per_span")
    expected = synthesizer.synthesize(text, f"0011/{voice}")
    assert torch.equal(spoken.wav, expected.wav)


def test_an_utterance_sounds_the_same_alone_and_in_a_batch(make_synthesizer):
    torch.manual_seed(0)
    synthesizer = make_synthesizer(HiFTGenerator(**VOCODER).eval())
    texts = [TEXT, "Oh", "<sad>Yes</sad> or no", "<happy>Yes</happy>"]
    speakers = ["0011", "0011", "0014", "0011"]
    options = {"reference": "per_span"}
    together = synthesizer.synthesize(texts, speakers, **options)
    for text, speaker, result in zip(texts, speakers, together):
        alone = synthesizer.synthesize(text, speaker, **options)
        torch.testing.assert_close(result.wav, alone.wav, atol=1e-4, rtol=0)


def test_the_flow_runs_once_for_all_voices(synthesizer, flow, monkeypatch):
    sizes = []
    inference = flow.inference

    def count(tokens, *args, **options):
        sizes.append(len(tokens))
        return inference(tokens, *args, **options)

    monkeypatch.setattr(flow, "inference", count)
    texts = [TEXT, "We won", "<happy>We</happy> <sad>won</sad>"]
    synthesizer.synthesize(texts, "0011", reference="per_span")
    # The neutral voice, which has no word of the last text, times its words.
    assert sizes == [3 + 1 + 3]


def test_words_are_aligned_in_neutral_speech(make_synthesizer):
    aligner = Aligner()
    synthesizer = make_synthesizer(aligner=aligner)
    text = "<happy>We won</happy> <sad>but left.</sad>"
    result = synthesizer.synthesize(text, "0011", reference="per_span")
    first, last = aligner.heard
    neutral = synthesizer.synthesize("We won but left.", "0011/neutral")
    torch.testing.assert_close(first, neutral.wav, atol=1e-5, rtol=0)
    assert torch.equal(last, result.wav)
    sad = levels(synthesizer.synthesize("We won but left.", "0011/sad"))
    equal = (levels(result) - sad).abs() < 1e-5
    assert equal.nonzero()[:, 0].tolist() == list(range(27, 48))


@pytest.mark.parametrize("speaker", ["0011", "0011/happy", ["0011/sad"], None])
def test_the_language_model_hears_the_neutral_voice(synthesizer, speaker):
    expected = synthesizer.synthesize([TEXT], "0011", reference="per_span")
    synthesizer.prompts.clear()
    spoken = synthesizer.synthesize(
        [TEXT], speaker, reference="per_span", prompting="zero_shot"
    )
    (prompt,) = synthesizer.prompts
    neutral = VOICES["0011/neutral"].prompt_tokens
    assert torch.equal(prompt.speech_tokens, neutral)
    assert torch.equal(spoken[0].wav, expected[0].wav)


def test_a_voice_without_an_emotion_is_the_neutral_one(synthesizer):
    token_to_wav = synthesizer.mods.token_to_wav
    expected = {"neutral": "0014", "sad": "0014/sad"}
    assert token_to_wav.emotion_voices("0014") == expected
    token_to_wav.add_voice("0014/neutral", VOICES["0012"])
    expected["neutral"] = "0014/neutral"
    assert token_to_wav.emotion_voices("0014") == expected


@pytest.mark.parametrize(
    "speaker, reference, message",
    [
        ("0011", "matched", "reference is 'matched': give 'per_span' or None"),
        ("0012", "per_span", "'0012' has only the voices 0012: .*per_span"),
        ("0013", "per_span", "only the voices 0013/angry, 0013/sad: .*neutral"),
        ("001", "per_span", "'001' is not known: this model has 0011, 0012, "),
        (["0011"] * 2, "per_span", "2 speakers were given for 1 items"),
    ],
)
def test_bad_references_are_refused_before_anything_is_spoken(
    synthesizer, speaker, reference, message
):
    with pytest.raises(ValueError, match=message):
        synthesizer.synthesize(TEXT, speaker, reference=reference)
    assert not synthesizer.prompts


def test_the_mini_voice_has_no_voices_of_emotions():
    shipped = find_file("speechbrain_emofilm/assets/mini/synthesizer.yaml")
    mini = EmoFiLMSynthesizer.from_hparams(shipped.parent)
    with pytest.raises(ValueError, match="fixed speakers .* reference=None"):
        mini.synthesize("We won.", reference="per_span")


# --- Parts ----------------------------------------------------------------


def test_mels_of_several_voices_are_those_of_each(synthesizer):
    token_to_wav = synthesizer.mods.token_to_wav
    tokens = [torch.arange(12), torch.arange(5) + 40]
    voices = [["0011/sad", "0012"], ["0011/happy"]]
    decoded = token_to_wav.decode_voices(tokens, voices)
    assert [tuple(mel.shape) for mel in decoded] == [(2, 24, 80), (1, 10, 80)]
    for item, names, mels in zip(tokens, voices, decoded):
        for name, mel in zip(names, mels):
            index = token_to_wav.speakers.index(name)
            (alone,), _ = token_to_wav.decode_mels([item], [index], 0)
            torch.testing.assert_close(mel, alone, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="'0011' is not known"):
        token_to_wav.decode_voices(tokens, [["0011"], ["0012"]])


def test_a_mixture_has_the_voice_of_its_strongest_emotion():
    emotions = torch.tensor([[0.2, 0.0, 0.3, 0.5], [0.6, 0.0, 0.4, 0.0]])
    voices = {"neutral": "n", "happy": "h", "sad": "s"}
    chosen = word_voices(emotions, torch.ones(2), EMOTIONS, voices)
    assert chosen == ["s", "n"]


def test_a_blend_changes_in_the_fades_only():
    torch.manual_seed(0)
    mels = torch.randn(3, 40, 80)
    spans = [Span(2, 0), Span(0, 10), Span(2, 25)]
    blended = blend_mels(mels, spans)
    assert torch.equal(blended[:7], mels[2, :7])
    assert torch.equal(blended[13:22], mels[0, 13:22])
    assert torch.equal(blended[28:], mels[2, 28:])
    for frame in (*range(7, 13), *range(22, 28)):
        low, high = mels[[0, 2], frame].sort(0).values
        assert ((blended[frame] > low) & (blended[frame] < high)).all()
    assert torch.equal(blend_mels(mels, spans[:1]), mels[2])


@pytest.mark.parametrize("fade_frames", [0, 6])
def test_short_spans_are_blended_without_gain(fade_frames):
    spans = [Span(0, 0), Span(1, 1), Span(2, 3), Span(0, 3), Span(1, 6)]
    mels = torch.ones(3, 6, 80)
    blended = blend_mels(mels, spans, fade_frames)
    torch.testing.assert_close(blended, torch.ones(6, 80))
    if fade_frames == 0:
        mels = mels * torch.tensor([0.0, 1.0, 2.0])[:, None, None]
        switched = blend_mels(mels, spans, fade_frames)[:, 0]
        assert switched.tolist() == [0, 1, 1, 0, 0, 0]


def test_words_beyond_the_end_or_out_of_order_give_spans_in_order():
    times = [(0.0, 0.4), (0.4, 0.9), (0.1, 0.2), (1.5, 1.9)]
    words = [Word("a", start, end, 0.0) for start, end in times]
    spans = voice_spans(words, [0, 1, 2, 0], duration=1.0, n_frames=50)
    assert spans == [Span(0, 0), Span(1, 20), Span(2, 25), Span(0, 42)]
    spans = voice_spans(words[2:], [1, 0], duration=0.5, n_frames=25)
    assert spans == [Span(1, 0), Span(0, 25)]

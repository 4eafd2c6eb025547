"""The synthesizer prompts the language model as the original does."""

import json
from pathlib import Path

from speechbrain_emofilm.dataio.text import (
    END_OF_INSTRUCTION,
    TextUnits,
    split_words,
)
from speechbrain_emofilm.dataio.voices import Voice, read_voices
from speechbrain_emofilm.inference.prompting import make_prompt
from speechbrain_emofilm.inference.synthesizer import (
    ADDED_VOICES,
    EmoFiLMSynthesizer,
)
from speechbrain_emofilm.inference.token_to_wav import TokenToWavBase
from speechbrain_emofilm.integrations.cosyvoice2.checkpoint import (
    rename_llm_tensors,
)
from speechbrain_emofilm.lobes.conditioned_lm import EmotionConditionedLM
from speechbrain_emofilm.lobes.cosyvoice2.llm import CosyVoice2LM
from speechbrain_emofilm.lobes.cosyvoice2.sampling import GreedySampler
from speechbrain_emofilm.lobes.efilm import EFiLM, EmotionEncoder, FiLM
from speechbrain_emofilm.utils.assets import find_file

import pytest
import torch
from safetensors.torch import load_file

FIXTURES = Path(__file__).parents[1] / "fixtures"
TEXT, TRANSCRIPT = "What is to be said.", "What was said."
EMOTIONS = ["neutral", "happy", "sad"]


class Frontend:
    """Gives the reference's token ids for its two texts, bytes otherwise."""

    language = "none"

    def __init__(self, known):
        self.known = known

    def encode(self, text):
        instruction, mark, spoken = text.rpartition(END_OF_INSTRUCTION)
        words = [word.text for word in split_words(spoken)]
        before = list((instruction + mark).encode())
        ids = self.known.get(spoken) or list(spoken.encode())
        owner = [min(i, len(words) - 1) for i in range(len(ids))]
        return TextUnits(before + ids, [-1] * len(before) + owner, words)


class Silence(TokenToWavBase):
    """Says nothing, in the voices it is given."""

    def __init__(self, voices):
        super().__init__(torch.nn.Identity(), torch.nn.Identity())
        self.voices = voices

    @property
    def speakers(self):
        return list(self.voices)

    def voice_of(self, speaker):
        return self.voices[speaker]

    def check_new_voice(self, name):
        pass

    def add_voice(self, name, voice):
        self.voices[name] = voice

    def decode_mels(self, tokens, speakers, seed):
        raise NotImplementedError

    def forward(self, tokens, speaker=None, seed=0):
        return [torch.zeros(960 * len(t)) for t in tokens]


def voice(tokens, transcript=TRANSCRIPT):
    tokens = torch.as_tensor(tokens)
    return Voice(
        torch.zeros(192),
        tokens,
        torch.zeros(2 * len(tokens), 80),
        transcript=transcript,
    )


@pytest.fixture(scope="module")
def reference():
    tensors = load_file(FIXTURES / "llm_small.safetensors")
    return tensors, json.loads((FIXTURES / "llm_small.json").read_text())


@pytest.fixture
def synthesizer(reference):
    tensors, description = reference
    config = description["config"]
    lm = CosyVoice2LM(config["qwen2"], config["speech_token_size"])
    weights = {k[2:]: v for k, v in tensors.items() if k.startswith("w.")}
    lm.load_state_dict(rename_llm_tensors(weights))
    torch.manual_seed(0)
    efilm = EFiLM(EmotionEncoder(len(EMOTIONS), dim=8), FiLM(8, 64))
    for parameter in efilm.parameters():  # as if trained
        torch.nn.init.normal_(parameter)
    prompt = tensors["gr_prompt_speech"][0]
    return EmoFiLMSynthesizer(
        modules={
            "emofilm": EmotionConditionedLM(lm, efilm).eval(),
            "token_to_wav": Silence(
                {
                    "told": voice(prompt),
                    "other": voice(prompt.flip(0)),
                    "untold": voice(prompt, transcript=None),
                }
            ),
        },
        hparams={
            "emotions": EMOTIONS,
            "text_frontend": Frontend(
                {
                    TEXT: tensors["gr_text"][0].tolist(),
                    TRANSCRIPT: tensors["gr_prompt_text"][0].tolist(),
                }
            ),
            "prompting": "zero_shot",
            "generation": {
                "sampler": GreedySampler(),
                # 40 tokens for the 9 of the text, whatever its prompt.
                "min_ratio": 4.45,
                "max_ratio": 4.45,
            },
        },
    )


def tokens_of(result):
    return result.speech_tokens.tolist()


@pytest.mark.parametrize(
    "prompting, case",
    [("zero_shot", "greedy_prompt"), ("cross_lingual", "greedy_noprompt")],
)
def test_greedy_tokens_are_those_of_the_original(
    synthesizer, reference, prompting, case
):
    spoken = synthesizer.synthesize(TEXT, "told", prompting=prompting)
    expected = reference[1]["results"][case]["ids_all3_masked"]
    assert tokens_of(spoken) == expected


def test_the_default_hears_the_voice(synthesizer):
    one, other = synthesizer.synthesize([TEXT] * 2, ["told", "other"])
    assert tokens_of(one) != tokens_of(other)
    one, other = synthesizer.synthesize(
        [TEXT] * 2, ["told", "other"], prompting="cross_lingual"
    )
    assert tokens_of(one) == tokens_of(other)


def test_prompted_texts_are_spoken_in_a_batch_as_alone(synthesizer):
    texts = [TEXT, "Yes."]
    together = synthesizer.synthesize(texts, ["told", "other"])
    for text, speaker, result in zip(texts, ["told", "other"], together):
        alone = synthesizer.synthesize(text, speaker)
        assert tokens_of(alone) == tokens_of(result)


def test_the_length_limits_count_the_text_to_speak_only(synthesizer):
    for prompting in ("zero_shot", "cross_lingual"):
        spoken = synthesizer.synthesize(TEXT, "told", prompting=prompting)
        assert len(spoken.speech_tokens) == 40
    spoken = synthesizer.synthesize(TEXT, "told", instruction="Softly, please.")
    assert len(spoken.speech_tokens) == 40


def test_emotions_reach_the_text_behind_a_prompt(synthesizer):
    """The prompt has no word: its tokens move no mark to another word."""
    plain = synthesizer.synthesize(TEXT, "told")
    happy = synthesizer.synthesize(f"<happy>{TEXT}</happy>", "told")
    assert tokens_of(plain) != tokens_of(happy)
    assert happy.word_emotions.argmax(1).tolist() == [1] * 5


def test_an_instruction_is_given_in_two_ways(synthesizer):
    given = synthesizer.synthesize(TEXT, "told", instruction="Softly.")
    written = synthesizer.synthesize(f"Softly.<|endofprompt|>{TEXT}", "told")
    assert tokens_of(given) == tokens_of(written)
    assert given.text == written.text == TEXT
    assert tokens_of(given) != tokens_of(synthesizer.synthesize(TEXT, "told"))
    # The original gives the language model no speech beside an instruction.
    other = synthesizer.synthesize(TEXT, "other", instruction="Softly.")
    assert tokens_of(other) == tokens_of(given)


@pytest.mark.parametrize(
    "speaker, options, message",
    [
        ("untold", {}, "'untold' has no transcript"),
        ("told", {"prompting": "clone"}, "choose zero_shot, cross_lingual"),
        ("told", {"prompting": "instruct"}, "belong together"),
        (
            "told",
            {"prompting": "zero_shot", "instruction": "Softly."},
            "belong together",
        ),
    ],
)
def test_a_prompt_that_cannot_be_made_is_refused(
    synthesizer, speaker, options, message
):
    with pytest.raises(ValueError, match=message):
        synthesizer.synthesize(TEXT, speaker, **options)


def test_speakers_without_recordings_have_nothing_to_continue():
    with pytest.raises(ValueError, match="no recording to continue"):
        make_prompt(None, "zero_shot", "0011")


def test_an_added_voice_speaks_and_is_kept(synthesizer, tmp_path):
    tokens = torch.arange(20)
    synthesizer.hparams.voice_maker = lambda path, text: voice(tokens, text)
    with pytest.raises(ValueError, match="use save=False"):
        synthesizer.add_voice("me", "me.wav", TRANSCRIPT, save=True)
    assert "me" not in synthesizer.speakers
    synthesizer.folder = tmp_path
    synthesizer.add_voice("me", "me.wav", TRANSCRIPT, save=True)
    synthesizer.add_voice("you", "you.wav", TRANSCRIPT)
    mine = synthesizer.synthesize(TEXT, "me")
    assert tokens_of(mine) != tokens_of(synthesizer.synthesize(TEXT, "told"))
    kept = read_voices(tmp_path / ADDED_VOICES)
    assert list(kept) == ["me"]
    assert kept["me"].transcript == TRANSCRIPT


def test_the_mini_voice_says_that_it_cannot_clone():
    shipped = find_file("speechbrain_emofilm/assets/mini/synthesizer.yaml")
    mini = EmoFiLMSynthesizer.from_hparams(shipped.parent)
    with pytest.raises(ValueError, match="fixed speakers .* use a CosyVoice2"):
        mini.add_voice("me", "me.wav", TRANSCRIPT)
    with pytest.raises(ValueError, match="use prompting='cross_lingual'"):
        mini.synthesize("We won.", prompting="zero_shot")

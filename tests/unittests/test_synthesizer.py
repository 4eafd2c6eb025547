"""Marked-up text to speech, with tiny random modules."""

import sys
from pathlib import Path

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.markup import MarkupError
from speechbrain_emofilm.dataio.text import TextUnits, split_words
from speechbrain_emofilm.inference import trained_model
from speechbrain_emofilm.inference.speech import proportional_times
from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer
from speechbrain_emofilm.inference.token_to_wav import TokenToWav
from speechbrain_emofilm.inference.trained_model import TrainedModel
from speechbrain_emofilm.lobes.conditioned_lm import EmotionConditionedLM
from speechbrain_emofilm.lobes.cosyvoice2.llm import CosyVoice2LM
from speechbrain_emofilm.lobes.efilm import (
    EFiLM,
    EmotionEncoder,
    FiLM,
    WordStyleEncoder,
)
from speechbrain_emofilm.utils.threads import (
    PARAMETERS_PER_THREAD,
    VARIABLES,
    threads_for,
)

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from speechbrain.inference.interfaces import Pretrained
from speechbrain.utils.run_opts import RunOptions

EMOTIONS = ["neutral", "angry", "happy", "sad", "surprise"]
GENERATION = {"min_ratio": 1.0, "max_ratio": 1.5}
TEXTS = ["<happy>We won!</happy>", "Oh <sad intensity=0.5>no</sad>", "Yes."]


class CharacterFrontend:
    """Each letter is a unit; reads plain English letters only."""

    language = "xx"

    def encode(self, text):
        if not text.isascii():
            raise ValueError(f"{text!r} cannot be read: write English.")
        words = split_words(text)
        pairs = [
            (ord(letter), index)
            for index, word in enumerate(words)
            for letter in word.text
        ]
        ids, word_of_unit = zip(*pairs)
        return TextUnits(
            list(ids), list(word_of_unit), [word.text for word in words]
        )


class Flow(torch.nn.Module):
    """One frame value for each token."""

    def inference(self, tokens, lens, xvector, n_timesteps, seed):
        mel = (tokens / 30 + xvector[:, :1]).repeat_interleave(2, 1)
        return mel[..., None].expand(-1, -1, 80), lens


class Vocoder(torch.nn.Module):
    """480 samples for each frame."""

    def forward(self, mel, lens, seed):
        return mel[..., 0].repeat_interleave(480, 1)


def tiny_emofilm(vocab_size=128, seed=0):
    torch.manual_seed(seed)
    llm = CosyVoice2LM(
        dict(
            vocab_size=vocab_size,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
        ),
        speech_token_size=27,
    )
    emofilm = EmotionConditionedLM(
        llm, EFiLM(EmotionEncoder(5, dim=8), FiLM(8, 16))
    )
    for parameter in emofilm.efilm.encoder.parameters():
        # Not the identity of the start: emotions are to be heard.
        torch.nn.init.normal_(parameter, std=3.0)
    return emofilm


def make_synthesizer(frontend=None, **hparams):
    speakers = {"0011": torch.zeros(4), "0012": torch.ones(4)}
    return EmoFiLMSynthesizer(
        modules={
            "emofilm": tiny_emofilm(),
            "token_to_wav": TokenToWav(Flow(), Vocoder(), speakers),
        },
        hparams={
            "emotions": EMOTIONS,
            "text_frontend": frontend or CharacterFrontend(),
            "generation": GENERATION,
            **hparams,
        },
        run_opts={"device": "cpu"},
    )


@pytest.fixture(scope="module")
def synthesizer():
    return make_synthesizer()


def test_a_text_gives_a_wave_with_its_words_in_time(synthesizer):
    result = synthesizer.synthesize(TEXTS[0])
    assert result.text == "We won!"
    assert result.sample_rate == 24000
    assert len(result.wav) == 960 * len(result.speech_tokens) > 0
    assert [word.text for word in result.words] == ["We", "won"]
    seconds = len(result.wav) / 24000
    assert result.words[0].start == 0
    assert result.words[0].end == pytest.approx(seconds * 2 / 5)
    assert result.words[1].end == pytest.approx(seconds)
    assert result.word_times_source == "proportional"
    assert result.word_emotions.tolist() == [[0, 0, 1, 0, 0]] * 2


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_the_same_seed_sounds_the_same_alone_and_in_a_batch(
    synthesizer, guidance
):
    options = {"guidance": guidance}
    batch = synthesizer.synthesize(TEXTS, seed=[5, 6, 5], **options)
    parts = synthesizer.synthesize(
        TEXTS, seed=[5, 6, 5], batch_size=2, **options
    )
    for text, seed, result, part in zip(TEXTS, [5, 6, 5], batch, parts):
        alone = synthesizer.synthesize(text, seed=seed, **options)
        assert torch.equal(result.speech_tokens, alone.speech_tokens)
        torch.testing.assert_close(result.wav, alone.wav)
        assert torch.equal(part.speech_tokens, alone.speech_tokens)


def test_another_seed_is_another_reading(synthesizer):
    text = "We have all won again today"
    one, other = (synthesizer.synthesize(text, seed=seed) for seed in (1, 2))
    assert one.speech_tokens.tolist() != other.speech_tokens.tolist()


def test_emotions_change_what_is_spoken(synthesizer):
    text = "We have all won again today"
    spoken = {
        emotion: synthesizer.synthesize(
            text, emotion=emotion
        ).speech_tokens.tolist()
        for emotion in EMOTIONS
    }
    assert len({tuple(tokens) for tokens in spoken.values()}) > 1


def test_no_guidance_at_all_is_the_unlabelled_model(synthesizer):
    marked = synthesizer.synthesize("<sad>We won it</sad>", guidance=0.0)
    plain = synthesizer.synthesize("We won it")
    assert marked.speech_tokens.tolist() == plain.speech_tokens.tolist()


def test_an_emotion_for_all_leaves_marked_words_as_they_are(synthesizer):
    result = synthesizer.synthesize(
        "We <sad>won</sad> it", emotion={"happy": 0.5, "angry": 0.5}
    )
    assert result.word_emotions.tolist() == [
        [0, 0.5, 0.5, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0.5, 0.5, 0, 0],
    ]


def test_intensity_is_for_words_whose_mark_gives_none(synthesizer):
    result = synthesizer.synthesize(
        "<sad>We</sad> <sad intensity=0.25>won</sad> it", intensity=0.5
    )
    assert result.word_intensity.tolist() == [0.5, 0.25, 0.0]


def test_unmarked_words_can_be_neutral(synthesizer):
    result = synthesizer.synthesize("We <sad>won</sad>", unmarked="neutral")
    assert result.word_emotions[0].tolist() == [1, 0, 0, 0, 0]


def test_speakers_are_chosen_for_all_or_for_each(synthesizer):
    texts = ["Yes.", "Yes."]
    one, two = synthesizer.synthesize(texts, speaker=["0011", "0012"])
    assert not torch.allclose(one.wav, two.wav)
    assert torch.equal(synthesizer.synthesize(texts[0]).wav, one.wav)
    assert synthesizer.speakers == ["0011", "0012"]


def test_no_texts_give_no_results(synthesizer):
    assert synthesizer.synthesize([]) == []


@pytest.mark.parametrize(
    "text, options, error, message",
    [
        ("", {}, MarkupError, "no word to speak"),
        ("<joy>We</joy>", {}, MarkupError, "'joy' is not known"),
        ("We won 🎉", {}, ValueError, "write English"),
        ("我们赢了", {}, ValueError, "write English"),
        ("We", {"speaker": "x"}, ValueError, "speaker 'x' is not known"),
        ("We", {"emotion": "joy"}, ValueError, "cannot be 'joy'"),
        ("We", {"intensity": 1.5}, ValueError, "intensity 1.5"),
        ("We", {"guidance": -1.0}, ValueError, "guidance -1.0"),
        ("We", {"guidance": float("nan")}, ValueError, "guidance nan"),
        ("We", {"seed": [1, 2]}, ValueError, "2 seeds were given for 1 text"),
        ("We", {"seed": 1.5}, ValueError, "seed is 1.5"),
        ("We", {"seed": ["1"]}, ValueError, "seed is"),
        ("We", {"batch_size": 0}, ValueError, "batch_size is 0"),
        ("We", {"speaker": 11}, ValueError, "speaker is 11: give a string"),
        ("We", {"speaker": [11]}, ValueError, r"speaker is \[11\]"),
        (b"We", {}, ValueError, "text is b'We': give a string"),
        ([b"We"], {}, ValueError, r"text is \[b'We'\]"),
        (None, {}, ValueError, "text is None"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_spoken(
    synthesizer, text, options, error, message, monkeypatch
):
    monkeypatch.setattr(synthesizer, "_speak", None)
    with pytest.raises(error, match=message):
        synthesizer.synthesize(text, **options)


def test_integers_of_numpy_are_seeds(synthesizer):
    expected = synthesizer.synthesize("We won", seed=7).speech_tokens
    for seed in (np.int64(7), np.array([7])):
        result = synthesizer.synthesize("We won", seed=seed)
        assert torch.equal(result.speech_tokens, expected)


def test_a_bad_text_of_several_is_named(synthesizer):
    with pytest.raises(ValueError, match="Text 1 of 2: Character 0: the text"):
        synthesizer.synthesize(["Fine.", ""])


def test_a_front_end_that_counts_other_words_is_an_error():
    class Merging(CharacterFrontend):
        def encode(self, text):
            return TextUnits([1], [0], ["U.S."])

    with pytest.raises(ValueError, match="reads 1 words .U.S.. .* has 2"):
        make_synthesizer(Merging()).synthesize("U. S.")


class Aligner:
    """Puts each word into a tenth of a second."""

    def __init__(self, n_missing=0, error=None):
        self.n_missing, self.error = n_missing, error

    def align(self, wav, sample_rate, text, language):
        if self.error:
            raise self.error
        assert (sample_rate, language) == (24000, "xx")
        words = text.split()[self.n_missing :]
        return [
            Word(word.lower(), i / 10, (i + 1) / 10, 0.75)
            for i, word in enumerate(words)
        ]


def test_an_aligner_gives_word_times_and_confidence():
    result = make_synthesizer(aligner=Aligner()).synthesize("We won!")
    assert result.words == [
        Word("We", 0.0, 0.1, 0.75),
        Word("won", 0.1, 0.2, 0.75),
    ]
    assert result.word_times_source == "Aligner"


@pytest.mark.parametrize(
    "aligner", [Aligner(n_missing=1), Aligner(error=ValueError("no such word"))]
)
def test_times_are_proportional_where_the_aligner_fails(aligner):
    result = make_synthesizer(aligner=aligner).synthesize("We won!")
    assert result.word_times_source == "proportional"
    assert [word.confidence for word in result.words] == [0.0, 0.0]


def test_english_is_aligned_by_pocketsphinx_where_it_is_installed():
    pytest.importorskip("pocketsphinx")

    class English(CharacterFrontend):
        language = "en"

    sound = 0.01 * torch.randn(24000)
    synthesizer = make_synthesizer(English())
    (piece,) = synthesizer.plan("We won")
    words, source = synthesizer.word_times(piece, sound, 24000)
    assert source in ("PocketsphinxAligner", "proportional")
    assert [word.text for word in words] == ["We", "won"]


def test_a_word_without_units_takes_no_time():
    units = TextUnits([1, 2], [0, 2], ["a", "b", "c"])
    words = proportional_times(["a", "b", "c"], units, 1.0)
    assert [(w.start, w.end) for w in words] == [(0, 0.5), (0.5, 0.5), (0.5, 1)]


def test_missing_parts_are_named():
    with pytest.raises(ValueError, match=r"no modules\['token_to_wav'\]"):
        EmoFiLMSynthesizer(
            modules={"emofilm": tiny_emofilm()},
            hparams={
                "emotions": EMOTIONS,
                "text_frontend": CharacterFrontend(),
            },
        )


SYNTHESIZER_YAML = """
emotions: [neutral, angry, happy, sad, surprise]
text_frontend: !new:speechbrain_emofilm.integrations.hibari.HibariTextFrontend
generation:
    min_ratio: 0.5
    max_ratio: 1.0
emofilm: !apply:{module}.tiny_emofilm
    vocab_size: !ref <text_frontend.vocab_size>
    seed: 1
modules:
    emofilm: !ref <emofilm>
    token_to_wav: !new:speechbrain_emofilm.inference.token_to_wav.TokenToWav
        mel_decoder: !new:{module}.Flow
        vocoder: !new:{module}.Vocoder
        speakers: !apply:speechbrain_emofilm.utils.assets.load_tensors
            path: {folder}/speakers.safetensors
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        efilm: !ref <emofilm.efilm>
"""


@pytest.fixture
def model_folder(tmp_path, monkeypatch):
    """A folder as the training recipe leaves it."""
    pytest.importorskip("hibari")
    # So that the YAML can name the modules of this file.
    monkeypatch.setitem(sys.modules, "tiny_synthesizer", sys.modules[__name__])
    torch.save(tiny_emofilm(seed=2).efilm.state_dict(), tmp_path / "efilm.ckpt")
    save_file({"0011": torch.zeros(4)}, tmp_path / "speakers.safetensors")
    (tmp_path / "synthesizer.yaml").write_text(
        SYNTHESIZER_YAML.format(module="tiny_synthesizer", folder=tmp_path)
    )
    return tmp_path


def test_a_training_folder_is_loaded_with_its_weights(model_folder):
    trained = tiny_emofilm(seed=2).efilm.state_dict()
    synthesizer = EmoFiLMSynthesizer.from_hparams(model_folder)
    loaded = synthesizer.mods.emofilm.efilm.state_dict()
    assert all(torch.equal(loaded[name], trained[name]) for name in trained)
    assert not any(p.requires_grad for p in synthesizer.parameters())
    result = synthesizer("<happy>We won!</happy>")
    assert [word.text for word in result.words] == ["We", "won"]
    for text in ("We won 🎉", "我们赢了"):
        with pytest.raises(ValueError, match="cannot read"):
            synthesizer.synthesize(text)


def test_a_checkpoint_of_other_sizes_is_named(model_folder):
    other = EFiLM(EmotionEncoder(5, dim=4), FiLM(4, 16))
    torch.save(other.state_dict(), model_folder / "efilm.ckpt")
    with pytest.raises(ValueError, match="does not fit") as caught:
        EmoFiLMSynthesizer.from_hparams(model_folder)
    assert str(model_folder) in str(caught.value)


def test_a_missing_checkpoint_is_named(model_folder):
    (model_folder / "efilm.ckpt").unlink()
    with pytest.raises(FileNotFoundError, match="efilm.ckpt"):
        EmoFiLMSynthesizer.from_hparams(model_folder)


@pytest.mark.parametrize("device", ["mps", "cuda:99", "abacus"])
def test_a_device_that_is_not_there_is_named(model_folder, device):
    with pytest.raises(ValueError, match=f"The device '{device}' cannot be"):
        EmoFiLMSynthesizer.from_hparams(
            model_folder, run_opts={"device": device}
        )


@pytest.mark.parametrize("source", ["/no/model", "./model", "a/b/c", "here/b"])
def test_a_missing_folder_is_not_sought_elsewhere(
    source, tmp_path, monkeypatch
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Pretrained, "from_hparams", None)
    with pytest.raises(FileNotFoundError, match=f"{source} does not exist"):
        EmoFiLMSynthesizer.from_hparams(source)


def test_the_shipped_model_is_found_from_any_folder(tmp_path, monkeypatch):
    found = []

    def load(*arguments):
        found.append(arguments)
        return TrainedModel.__new__(TrainedModel)

    monkeypatch.setattr(Pretrained, "from_hparams", load)
    monkeypatch.chdir(tmp_path)
    TrainedModel.from_hparams(
        "speechbrain_emofilm/assets/mini", "synthesizer.yaml"
    )
    TrainedModel.from_hparams("speechbrain/hub-model", "synthesizer.yaml")
    assert Path(found[0][0]).is_absolute() and Path(found[0][0]).is_dir()
    assert found[1][0] == "speechbrain/hub-model"


def test_a_folder_without_a_synthesizer_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no synthesizer.yaml"):
        EmoFiLMSynthesizer.from_hparams(tmp_path)


@pytest.fixture
def unset_threads(monkeypatch):
    """No wish of the user; the number of torch's threads is restored."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def threads_within(synthesizer):
    """Numbers of threads while and after the model computes."""
    with synthesizer.inference_ctx:
        within = torch.get_num_threads()
    return within, torch.get_num_threads()


def test_a_small_model_decodes_with_one_thread(
    unset_threads, model_folder, monkeypatch
):
    synthesizer = EmoFiLMSynthesizer.from_hparams(model_folder)
    assert threads_within(synthesizer) == (1, 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert threads_within(synthesizer) == (2, 2)
    given = EmoFiLMSynthesizer.from_hparams(model_folder, threads=3)
    assert threads_within(given) == (3, 2)


def test_an_error_restores_the_threads(unset_threads, synthesizer):
    with pytest.raises(ValueError, match="stop"):
        with synthesizer.inference_ctx:
            assert torch.get_num_threads() == 1
            raise ValueError("stop")
    assert torch.get_num_threads() == 2


def test_a_large_model_gets_more_threads_but_no_more_than_there_are(
    unset_threads,
):
    assert threads_for(PARAMETERS_PER_THREAD) == 1
    assert threads_for(2 * PARAMETERS_PER_THREAD) == 2
    assert threads_for(500_000_000) == 2


def test_the_device_may_be_an_argument(model_folder):
    options = {"run_opts": {"device": "cpu"}}
    for given in ({"device": "abacus"}, {"device": "abacus", **options}):
        with pytest.raises(ValueError, match="The device 'abacus' cannot be"):
            EmoFiLMSynthesizer.from_hparams(model_folder, **given)
    run_opts = RunOptions.from_dictionary({"device": "cpu"})
    for given in ({"device": "cpu"}, {"run_opts": run_opts}, options):
        loaded = EmoFiLMSynthesizer.from_hparams(model_folder, **given)
        assert loaded.device == "cpu"


def test_the_gpu_of_a_mac_is_not_taken_unasked(model_folder, monkeypatch):
    monkeypatch.setattr(trained_model, "infer_device", lambda: "mps:0")
    loaded = EmoFiLMSynthesizer.from_hparams(model_folder)
    assert loaded.device == "cpu"


@pytest.mark.parametrize(
    "precision, layer", [("fp32", "Linear"), ("bf16", "BFloat16Linear")]
)
def test_the_precision_is_that_of_the_language_model(
    precision, layer, model_folder
):
    loaded = EmoFiLMSynthesizer.from_hparams(
        model_folder, device="cpu", precision=precision
    )
    projection = loaded.mods.emofilm.llm.llm.layers[0].self_attn.q_proj
    assert type(projection).__name__ == layer
    assert loaded("We won.").wav.isfinite().all()


def test_int8_weights_speak(model_folder):
    loaded = EmoFiLMSynthesizer.from_hparams(
        model_folder, device="cpu", precision="int8"
    )
    projection = loaded.mods.emofilm.llm.llm.layers[0].self_attn.q_proj
    assert "quantized" in type(projection).__module__
    assert loaded("We won.").wav.isfinite().all()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"precision": "fp16", "device": "cpu"}, "fp16 is not possible on cpu"),
        ({"precision": "fp8"}, "'fp8' is not known"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_impossible_ways_to_run_are_refused(options, message, model_folder):
    with pytest.raises(ValueError, match=message):
        EmoFiLMSynthesizer.from_hparams(model_folder, **options)


def test_a_model_without_a_language_model_has_no_precision_to_reduce():
    with pytest.raises(ValueError, match="no language model"):
        TrainedModel(modules={}, hparams={})._reduce_weights("bf16")


# --- Prosody of words --------------------------------------------------------

AXES = ["pitch", "pace", "level"]


@pytest.fixture(scope="module")
def with_axes():
    """A synthesizer that has learned something of every axis."""
    made = make_synthesizer()
    emofilm = made.mods.emofilm
    encoder = WordStyleEncoder(5, dim=8, axes=AXES)
    encoder.load_state_dict(emofilm.efilm.encoder.state_dict())
    torch.manual_seed(1)
    torch.nn.init.normal_(encoder.axis_layer.weight, std=3.0)
    emofilm.efilm.encoder = encoder.eval()
    return EmoFiLMSynthesizer(
        modules=dict(made.mods),
        hparams=vars(made.hparams),
        run_opts={"device": "cpu"},
    )


def tokens(synthesizer, text, **options):
    return synthesizer.synthesize(text, **options).speech_tokens


def test_a_model_tells_its_axes_and_a_plain_one_refuses_them(
    synthesizer, with_axes
):
    assert with_axes.axes == AXES and synthesizer.axes == []
    with pytest.raises(MarkupError, match="pitch, an axis .* this model lacks"):
        synthesizer.synthesize("We <pitch=+2st>won</>")


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_axes_change_the_speech_and_texts_without_them_keep_theirs(
    synthesizer, with_axes, guidance
):
    for text in TEXTS:
        assert torch.equal(
            tokens(with_axes, text, guidance=guidance),
            tokens(synthesizer, text, guidance=guidance),
        )
    asked = [
        "We won the game",
        "<pitch=8st>We won the game</>",
        "<pitch=-8st>We won the game</>",
        "<happy pitch=8st>We won the game</>",
        "<stress>We won the game</>",
    ]
    spoken = [
        tuple(tokens(with_axes, t, seed=3, guidance=guidance).tolist())
        for t in asked
    ]
    assert len(set(spoken)) == len(asked)


def test_axes_sound_the_same_alone_in_a_batch_and_in_a_stream(with_axes):
    texts = ["We <level=6dB>won</>", "Yes", "<sad pace=0.6>He left us</> all"]
    batch = with_axes.synthesize(texts, seed=[1, 2, 3])
    for text, seed, result in zip(texts, [1, 2, 3], batch):
        alone = with_axes.synthesize(text, seed=seed)
        assert torch.equal(result.speech_tokens, alone.speech_tokens)


def test_pieces_of_a_long_text_carry_their_axes(with_axes):
    planned = with_axes.plan(
        "We <pace=0.5>won <break time=1s/>it</> all", emotion="sad"
    )
    first, _, second = planned
    nan = float("nan")
    for piece, pace in ((first, [nan, -1.0]), (second, [-1.0, nan])):
        torch.testing.assert_close(
            piece.word_axes[:, 1], torch.tensor(pace), equal_nan=True
        )
        assert piece.word_emotions[:, 3].eq(1).all()

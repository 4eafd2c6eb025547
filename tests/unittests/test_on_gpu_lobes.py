"""All parts of the models compute on a GPU what they compute on the CPU.

The GPU is pretended: placement is as strict as there, arithmetic the CPU's.
Weights of 8 bits are not here: torch computes with them on CPUs only.
"""

from pathlib import Path

from speechbrain_emofilm.lobes.conditioned_lm import (
    ConditionedLMInputs,
    EmotionConditionedLM,
)
from speechbrain_emofilm.lobes.cosyvoice2.flow import CosyVoice2Flow
from speechbrain_emofilm.lobes.cosyvoice2.flow_stream import FlowStream
from speechbrain_emofilm.lobes.cosyvoice2.hift import HiFTGenerator
from speechbrain_emofilm.lobes.cosyvoice2.hift_stream import HiFTStream
from speechbrain_emofilm.lobes.cosyvoice2.llm import CosyVoice2LM
from speechbrain_emofilm.lobes.cosyvoice2.precision import set_weight_precision
from speechbrain_emofilm.lobes.cosyvoice2.sampling import (
    GreedySampler,
    RepetitionAwareSampler,
)
from speechbrain_emofilm.lobes.efilm import (
    EFiLM,
    EmotionEncoder,
    FiLM,
    WordEmotionLoss,
    WordStyleEncoder,
)
from speechbrain_emofilm.lobes.mini.fsq import FSQ, FSQEmbedding, FSQLinear
from speechbrain_emofilm.lobes.mini.harmonic_noise_vocoder import (
    HarmonicNoiseVocoder,
)
from speechbrain_emofilm.lobes.mini.phoneme_recognizer import (
    PhonemeRecognizer,
    PhoneticLoss,
)
from speechbrain_emofilm.lobes.mini.speech_tokenizer import (
    FSQSpeechTokenizer,
    TokenDecoder,
    pool_prosody,
)
from speechbrain_emofilm.lobes.mini.token_decoder import RegressionDecoder
from speechbrain_emofilm.lobes.mini.vocoder_losses import (
    MultiResolutionDiscriminator,
    MultiResolutionSTFTLoss,
)
from speechbrain_emofilm.lobes.open_backbone import OpenBackbone
from speechbrain_emofilm.lobes.word_emotion import (
    BroadcastLoss,
    FrameNormalization,
    MultipleInstanceLoss,
    WordEmotionTransformer,
    WordLoss,
    WordTargets,
    splice_bags,
)
from speechbrain_emofilm.metrics.condition_effect import ConditionEffect
from speechbrain_emofilm.processing.mel import log_mel
from speechbrain_emofilm.processing.pooling import (
    spread,
    word_average_pooling,
)

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from pretend_gpu import assert_same_on_gpu, gradients
from tiny_cosyvoice2 import FLOW

FUSIONS = Path(__file__).parents[2] / "hparams" / "fusion"
QWEN2 = dict(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    initializer_range=0.3,
)
K, V = 5, 27


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# --- The language model -----------------------------------------------------


def make_lm(**options):
    return CosyVoice2LM(QWEN2, speech_token_size=V, **options)


@pytest.fixture
def text():
    """Text tokens and relative lengths of three utterances."""
    return torch.randint(40, (3, 7)), torch.tensor([7, 4, 5]) / 7


@pytest.fixture
def speech():
    """Speech tokens and relative lengths of three utterances."""
    return torch.randint(V, (3, 20)), torch.tensor([6, 20, 3]) / 20


@pytest.fixture
def prompt():
    """Speech to continue, of three utterances."""
    return torch.randint(V, (3, 4)), torch.tensor([4, 2, 0]) / 4


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"history": torch.randint(V, (3, 20))},
        {"n_prompt": torch.tensor([2, 0, 1])},
        {"bistream_probability": 1.0},
        {"output_attentions": True},
    ],
    ids=lambda options: "_".join(options) or "plain",
)
@pytest.mark.parametrize("digits", [False, True], ids=["tables", "digits"])
def test_language_model_learns(text, speech, options, digits):
    parts = {}
    if digits:
        parts["speech_embedding"] = FSQEmbedding(16, 8, n_dims=3)
        parts["llm_decoder"] = FSQLinear(16, 8, n_dims=3)
    if "output_attentions" in options:
        parts["attn_implementation"] = "eager"
    lm = make_lm(frozen=False, **parts)

    def run(lm, text, speech, options):
        out = lm(lm.embed_text(text[0]), text[1], *speech, **options)
        loss = torch.nn.functional.cross_entropy(out.logits, out.targets)
        return out, gradients(loss, lm)

    assert_same_on_gpu(run, lm, text, speech, options)


@pytest.mark.parametrize("sampler", [GreedySampler, RepetitionAwareSampler])
@pytest.mark.parametrize("prompted", [False, True], ids=["", "prompt"])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_language_model_speaks(text, prompt, sampler, prompted, guidance):
    lm = make_lm()

    def run(lm, text, prompt):
        embedded = lm.embed_text(text[0])
        return lm.generate(
            embedded,
            text[1],
            *(prompt if prompted else ()),
            unconditional_embeddings=0.9 * embedded,
            guidance=guidance,
            candidate_top_k=9,
            candidate_top_p=0.9,
            sampler=sampler(),
            min_ratio=1.0,
            max_ratio=3.0,
            n_target_text=[3, 4, 2],
            seeds=[3, 4, 5],
        )

    tokens = assert_same_on_gpu(run, lm, text, prompt)
    assert len({len(item) for item in tokens}) > 1


def test_language_model_speaks_with_bfloat16_weights(text):
    def run(lm, text):
        return lm.generate(
            lm.embed_text(text[0]), text[1], min_ratio=1.0, max_ratio=2.0
        )

    # A GPU multiplies in bfloat16, so other tokens may be drawn than here.
    lm = set_weight_precision(make_lm(), "bf16")
    for module in lm.modules():
        if hasattr(module, "is_native"):
            module.is_native = True
    assert_same_on_gpu(run, lm, text)


@pytest.mark.parametrize("prompted", [False, True], ids=["", "prompt"])
def test_language_model_speaks_while_text_is_written(text, prompt, prompted):
    lm = make_lm(mix_ratio=(2, 4))

    def run(lm, text, prompt):
        pieces = lm.embed_text(text[0][:1]).split(3, dim=1)
        prompt = prompt[0][:1] if prompted else None
        return list(lm.generate_stream(pieces, prompt, max_ratio=4.0, seed=1))

    assert assert_same_on_gpu(run, lm, text, prompt, result_on="cpu")


@pytest.mark.parametrize("method", ["joint", "lora"])
def test_an_opened_backbone_is_saved_and_loaded(tmp_path, text, method):
    def run(lm, text):
        backbone = OpenBackbone(
            lm, method, **({"rank": 2} if method == "lora" else {})
        ).to(text[0].device)
        path = tmp_path / str(text[0].device).replace(":", "")
        with torch.no_grad():
            for weight in backbone.opened.values():
                weight.add_(1.0)
        backbone.save(path)
        with torch.no_grad():
            for weight in backbone.opened.values():
                weight.zero_()
        backbone.load(path)
        return dict(backbone.opened), lm.embed_text(text[0])

    assert_same_on_gpu(run, make_lm(), text)


# --- E-FiLM -----------------------------------------------------------------


@pytest.fixture
def batch(text, speech):
    """Three utterances; the first word of the last one is unlabelled."""
    labelled = torch.ones(3, 3, 1)
    labelled[2, 0] = 0
    return ConditionedLMInputs(
        *text,
        torch.tensor([[0, 0, 1, 1, -1, 2, 2]] * 3),
        *speech,
        torch.arange(20).div(7).long().repeat(3, 1),
        torch.eye(K)[torch.randint(K, (3, 3))] * labelled,
        torch.rand(3, 3),
    )


def make_model(fusion=None, position="speech", **options):
    encoder = EmotionEncoder(K, dim=8)
    torch.nn.init.normal_(encoder.output_layer.weight)
    return EmotionConditionedLM(
        make_lm(),
        EFiLM(encoder, fusion or FiLM(8, 16)),
        position and WordEmotionLoss(K, 16, position, label_smoothing=0.1),
        **options,
    )


def learn(model, batch):
    out = model(batch)
    return out, gradients(out.speech_loss + out.emotion_loss, model)


@pytest.mark.parametrize("path", FUSIONS.glob("*.yaml"), ids=lambda p: p.stem)
def test_every_fusion_learns(path, batch):
    sizes = "{emotion_dim: 8, text_dim: 16}"
    fusion = load_hyperpyyaml(f"fusion: !include:{path} {sizes}")["fusion"]
    assert_same_on_gpu(learn, make_model(fusion), batch)


@pytest.mark.parametrize("name", ["steering", "film_deep"])
def test_modulations_inside_the_language_model_are_spoken(name, batch):
    sizes = "{emotion_dim: 8, text_dim: 16}"
    path = FUSIONS / f"{name}.yaml"
    fusion = load_hyperpyyaml(f"fusion: !include:{path} {sizes}")["fusion"]
    model = make_model(fusion).eval()
    torch.nn.init.normal_(next(model.efilm.encoder.parameters()))

    def run(model, batch):
        with torch.no_grad():
            text, plain = (
                model.condition(
                    batch.text_tokens,
                    batch.text_lens,
                    batch.word_of_token,
                    emotions,
                    batch.word_intensity,
                ).text_embeddings
                for emotions in (
                    batch.word_emotions,
                    torch.zeros_like(batch.word_emotions),
                )
            )
        options = dict(guidance=2.0, max_ratio=3.0)
        pieces = [(text[:1, :3], plain[:1, :3]), (text[:1, 3:], plain[:1, 3:])]
        growing = list(model.llm.generate_stream(pieces, **options))
        whole = model.llm.generate(
            text, batch.text_lens, unconditional_embeddings=plain, **options
        )
        return whole, torch.tensor(growing, device=text.device)

    assert_same_on_gpu(run, model, batch)


@pytest.mark.parametrize("position", ["speech", "input", None])
def test_every_emotion_loss_learns(position, batch):
    assert_same_on_gpu(learn, make_model(position=position), batch)


def test_random_draws_of_a_training_step(batch):
    model = make_model(
        history_corruption=0.5, condition_dropout=0.5, bistream_share=0.5
    )
    assert_same_on_gpu(learn, model.train(), batch)


class Prompt:
    """As a pool of prompts keeps them, on the CPU."""

    text_tokens = torch.tensor([3, 4])
    speech_tokens = torch.tensor([5, 6, 7])


def test_utterances_behind_prompts_learn(batch):
    def run(model, batch):
        return learn(model, batch.behind([Prompt, None, Prompt]))

    assert_same_on_gpu(run, make_model(), batch)


def test_effect_of_a_condition(batch):
    def run(model, batch):
        effect = ConditionEffect()
        with torch.no_grad():
            effect.append(["a", "b", "c"], model, batch)
        return effect.values()

    assert_same_on_gpu(run, make_model().eval(), batch, result_on="cpu")


# --- CosyVoice2's flow and vocoder ------------------------------------------


FLOW_SPEECH = dict(
    tokens=torch.randint(300, (2, 12)),
    lens=torch.tensor([1.0, 0.5]),
    xvector=torch.randn(2, 192),
)


@pytest.fixture(scope="module")
def flow():
    torch.manual_seed(0)
    return CosyVoice2Flow(vocab_size=300, **FLOW)


def test_flow_learns(flow):
    def run(flow, tokens, lens, xvector, mel):
        loss = flow.loss(tokens, lens, mel, lens, xvector)
        return gradients(loss, flow)

    assert_same_on_gpu(run, flow, *FLOW_SPEECH.values(), torch.rand(2, 24, 80))


def test_flow_is_validated_with_draws_of_its_own(flow):
    def run(flow, tokens, lens, xvector, mel):
        n_frames = (lens * 24).long()
        draws = flow.draw(n_frames, torch.Generator().manual_seed(3))
        return draws, flow.loss(tokens, lens, mel, lens, xvector, draws)

    assert_same_on_gpu(run, flow, *FLOW_SPEECH.values(), torch.rand(2, 24, 80))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"seed": [3, 4]},
        {"streaming": True, "finalize": False, "guidance": 0.0},
        {
            "prompt_tokens": torch.randint(300, (2, 3)),
            "prompt_mel": torch.rand(2, 6, 80),
            "prompt_lens": torch.tensor([2 / 3, 1.0]),
        },
    ],
    ids=lambda options: "_".join(options) or "plain",
)
def test_flow_speaks(flow, options):
    def run(flow, speech):
        return flow.inference(**speech, n_timesteps=2)

    assert_same_on_gpu(run, flow.eval(), FLOW_SPEECH | options)


@pytest.mark.parametrize("prompted", [False, True], ids=["", "prompt"])
@pytest.mark.parametrize("left_chunks", [1, None])
def test_flow_streams(prompted, left_chunks):
    flow = CosyVoice2Flow(vocab_size=300, chunk_size=6, **FLOW)
    prompt = (torch.randint(300, (1, 3)), torch.rand(1, 6, 80))

    def run(flow, tokens, xvector, prompt):
        stream = FlowStream(
            flow,
            xvector,
            *(prompt if prompted else ()),
            n_timesteps=1,
            left_chunks=left_chunks,
        )
        parts = [stream.push(part) for part in tokens.split(10, dim=1)]
        return [*parts, stream.finish()]

    tokens = torch.randint(300, (1, 19))
    assert_same_on_gpu(run, flow.eval(), tokens, torch.randn(1, 192), prompt)


def make_vocoder(name):
    if name == "hift":
        return HiFTGenerator(base_channels=16, f0_cond_channels=8)
    return HarmonicNoiseVocoder(channels=8)


VOCODERS = ["hift", "harmonic_noise"]


@pytest.mark.parametrize("seed", [0, None])
@pytest.mark.parametrize("name", VOCODERS)
def test_vocoder_speaks(name, seed):
    assert_same_on_gpu(
        lambda vocoder, mel, lens: vocoder(mel, lens, seed=seed),
        make_vocoder(name).eval(),
        torch.randn(2, 10, 80),
        torch.tensor([1.0, 0.5]),
    )


@pytest.mark.parametrize("name", VOCODERS)
def test_vocoder_learns(name):
    def run(vocoder, loss, mel, f0, wav):
        decoded = vocoder.decode(mel, vocoder.source(f0))
        loss = loss(decoded, wav) + 0.01 * vocoder.f0_loss(mel, f0)
        return gradients(loss, vocoder)

    assert_same_on_gpu(
        run,
        make_vocoder(name),
        MultiResolutionSTFTLoss(),
        torch.randn(2, 10, 80),
        300 * torch.rand(2, 10),
        0.1 * torch.randn(2, 4800),
        atol=1e-4,
    )


@pytest.mark.parametrize("pushed", [True, False])
def test_vocoder_streams(pushed):
    def run(vocoder, mel):
        stream = HiFTStream(vocoder, context=2)
        parts = [stream.push(part) for part in mel.split(10, 1) if pushed]
        return [*parts, stream.finish()]

    mel = torch.randn(1, 30, 80)
    assert_same_on_gpu(run, make_vocoder("hift").eval(), mel)


# --- The mini backbone ------------------------------------------------------


def test_finite_scalar_quantisation():
    def run(quantiser, x):
        codes, ids = quantiser(x)
        codes.sum().backward()
        return codes, ids, quantiser.from_id(ids), x.grad

    assert_same_on_gpu(run, FSQ(), torch.randn(2, 5, 8, requires_grad=True))


def test_tables_of_digits_are_used_before_and_after_an_update():
    def run(embedding, head, ids):
        found = []
        for _ in range(2):
            with torch.no_grad():
                found += [embedding(ids), head(embedding(ids)), head.weight]
            loss = head(embedding(ids)).square().mean()
            loss.backward()
            with torch.no_grad():
                for parameter in (*embedding.parameters(), *head.parameters()):
                    parameter -= 0.1 * parameter.grad
        with torch.inference_mode():
            found.append(head(embedding(ids)))
        return found

    assert_same_on_gpu(
        run,
        FSQEmbedding(4, 8, n_dims=3),
        FSQLinear(4, 8, n_dims=3),
        torch.randint(30, (2, 5)),
    )


def test_speech_tokenizer_learns_and_tokenises():
    def run(tokenizer, decoder, mel, speaker, f0, wav):
        out = tokenizer(mel)
        decoded = decoder(out.codes, speaker)
        pooled = pool_prosody(f0, mel.mean(-1))
        loss = (decoded - mel).abs().mean() + out.prosody.square().mean()
        loss = loss + out.phonemes.square().mean()
        return (
            gradients(loss, tokenizer),
            pooled,
            tokenizer.tokenize_mel(mel),
            tokenizer.tokenize(wav),
        )

    f0 = torch.randn(2, 10)
    f0[:, ::3] = torch.nan
    assert_same_on_gpu(
        run,
        FSQSpeechTokenizer(channels=8, n_phonemes=4),
        TokenDecoder(2, channels=8),
        torch.randn(2, 10, 80),
        torch.tensor([1, 0]),
        f0,
        0.1 * torch.randn(2, 4800),
    )


def test_token_decoder_learns_and_speaks():
    def run(decoder, tokens, lens, xvector):
        loss = decoder(tokens, xvector).square().mean()
        return gradients(loss, decoder), decoder.inference(
            tokens, lens, xvector
        )

    assert_same_on_gpu(
        run,
        RegressionDecoder(channels=8, speaker_dim=4),
        torch.randint(6561, (2, 5)),
        torch.tensor([1.0, 0.6]),
        torch.randn(2, 4),
    )


def test_phoneme_recognizer_and_its_loss():
    def run(recognizer, wav, phonemes):
        logits, features = recognizer(wav)
        loss = PhoneticLoss(recognizer)(0.9 * wav, wav, phonemes)
        return logits, features, list(loss)

    assert_same_on_gpu(
        run,
        PhonemeRecognizer(n_phonemes=5, channels=8),
        0.1 * torch.randn(2, 4800),
        torch.randint(5, (2, 10)),
    )


def test_discriminator_learns():
    def run(discriminator, wav):
        scores, features = discriminator(wav)
        loss = sum(score.square().mean() for score in scores)
        return features, gradients(loss, discriminator)

    assert_same_on_gpu(
        run,
        MultiResolutionDiscriminator((256, 512), channels=4),
        0.1 * torch.randn(2, 1, 2400),
    )


# --- Emotion of words -------------------------------------------------------


@pytest.fixture
def words():
    """Features of words, relative lengths, and targets."""
    emotions = torch.randint(3, (4, 1)).expand(4, 6).clone()
    emotions[1] = -1
    attributes = torch.rand(4, 1, 2).expand(4, 6, 2).clone()
    attributes[2] = torch.nan
    lens = torch.tensor([6, 4, 5, 6]) / 6
    bags = torch.zeros(4, 6, dtype=torch.long)
    bags[1, 4:] = bags[2, 5:] = -1
    targets = WordTargets(emotions, attributes, bags)
    return torch.randn(4, 6, 8), lens, targets


@pytest.mark.parametrize("spliced", [False, True], ids=["", "spliced"])
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5]])
@pytest.mark.parametrize(
    "kind", [BroadcastLoss, WordLoss, MultipleInstanceLoss]
)
def test_word_emotion_transformer_learns(words, kind, weights, spliced):
    model = WordEmotionTransformer(
        8, 3, n_attributes=2, d_model=8, nhead=2, d_ffn=8, context=2
    )

    def run(model, loss, features, lens, targets):
        if spliced:
            features, lens, targets = splice_bags(features, lens, targets, 1.0)
        output = model(features, lens)
        return output.attributes, gradients(loss(output, targets), model)

    assert_same_on_gpu(run, model, kind(class_weights=weights), *words)


def test_frames_are_normalised():
    def run(normalize, frames):
        # The statistics of a corpus are on the CPU.
        normalize.set(torch.ones(4), torch.full((4,), 2.0))
        return normalize(frames)

    assert_same_on_gpu(run, FrameNormalization(4), torch.randn(3, 4))


# --- Signals ----------------------------------------------------------------


@pytest.mark.parametrize("grad_mode", [torch.no_grad, torch.inference_mode])
def test_mel_spectrogram(grad_mode):
    with grad_mode():
        assert_same_on_gpu(log_mel, 0.1 * torch.randn(2, 4800))


def test_pooling_over_words_and_back():
    def run(features, times, lens, word_of_position):
        pooled, covered = word_average_pooling(
            features, times, frame_rate=50, frame_offset=0.01, lens=lens
        )
        return pooled, covered, spread(pooled, word_of_position)

    assert_same_on_gpu(
        run,
        torch.randn(2, 20, 3),
        torch.tensor([[[0.0, 0.1], [0.1, 0.3]]] * 2),
        torch.tensor([1.0, 0.5]),
        torch.tensor([[0, 0, -1, 1]] * 2),
    )


# --- Prosody of words -------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_a_model_with_axes(batch, training):
    model = make_model()
    encoder = WordStyleEncoder(K, dim=8, axes=["pitch", "level"])
    torch.nn.init.normal_(encoder.output_layer.weight)
    model.efilm.encoder = encoder
    axes = torch.randn(3, 3, 2)
    axes[torch.rand(3, 3, 2) < 0.3] = torch.nan
    batch = batch._replace(word_axes=axes)
    assert_same_on_gpu(learn, model.train(training), batch)

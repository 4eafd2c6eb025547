"""What evaluate.py chooses, asks for, speaks and counts."""

import csv
import io
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.labels import (
    UtteranceLabels,
    WordLabel,
    write_word_labels,
)
from speechbrain_emofilm.dataio.markup import parse_markup, write_markup
from speechbrain_emofilm.dataio.text import split_words
from speechbrain_emofilm.evaluation import systems
from speechbrain_emofilm.evaluation.measuring import (
    Measurement,
    MeasuringPool,
    Reading,
)
from speechbrain_emofilm.evaluation.scores import SCORES
from speechbrain_emofilm.metrics.control import WordEmotionClassifier
from speechbrain_emofilm.utils.files import read_json, write_json

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

RECIPE = Path(__file__).parents[2] / "recipes" / "ESD" / "emotional_tts"
sys.path.insert(0, str(RECIPE))
from speechbrain_emofilm.evaluation import (  # noqa: E402
    diagnosis as evaluation_diagnosis,
)

import evaluate  # noqa: E402
import evaluation_report  # noqa: E402

sys.path.remove(str(RECIPE))

EMOTIONS = ["neutral", "angry", "happy", "sad"]
SPEAKERS = ["0011", "0012"]
TEXTS = ["We won it.", "He left us.", "Come and see."]


def utterance(name, speaker, text, emotion, words=None):
    """One whose words all have its emotion, or those given."""
    words = words or [emotion] * 3
    return systems.Utterance(
        name,
        f"{name}.wav",
        speaker,
        text,
        emotion,
        UtteranceLabels(
            [
                WordLabel(
                    word.strip("."),
                    0.1 * i,
                    0.1 * i + 0.1,
                    own,
                    intensity=0.0 if own == "neutral" else 0.5,
                )
                for i, (word, own) in enumerate(zip(text.split(), words))
            ]
        ),
        [
            {"f0": 0.3 * (own == "happy"), "energy": 0.0, "duration": 0.0}
            for own in words
        ],
    )


@pytest.fixture
def corpus():
    """Every sentence by every speaker, in every emotion and mixed."""
    found = {}
    for speaker in SPEAKERS:
        for text in TEXTS:
            for emotion in [*EMOTIONS, None]:
                name = f"{speaker}_{len(found):03d}"
                words = None if emotion else ["neutral", "happy", "happy"]
                found[name] = utterance(name, speaker, text, emotion, words)
    return found


@pytest.fixture
def neutral(corpus):
    return evaluate.neutral_readings(corpus, "neutral")


# --- The choice -----------------------------------------------------------


def test_mixed_sentences_are_read_by_the_speakers_in_turn(corpus, neutral):
    chosen = evaluate.choose_mixed(corpus, neutral, 40)
    assert [u.text for u in chosen] == TEXTS * 2
    assert [u.speaker for u in chosen[:3]] == ["0011", "0012", "0011"]
    assert [u.speaker for u in chosen[3:]] == ["0012", "0011", "0012"]
    assert {u.emotion for u in chosen} == {None}
    assert len(evaluate.choose_mixed(corpus, neutral, 2)) == 2


def test_another_speaker_reads_what_one_cannot_be_compared_in(corpus, neutral):
    del neutral["0011", TEXTS[0]]
    chosen = evaluate.choose_mixed(corpus, neutral, 40)
    assert [u.speaker for u in chosen[:3]] == ["0012", "0012", "0011"]
    assert [u.speaker for u in chosen[3:]] == ["0011", "0012"]


def test_single_emotions_and_speakers_take_turns(corpus, neutral):
    chosen = evaluate.choose_single(corpus, neutral, 6, "neutral")
    assert len({(u.speaker, u.emotion) for u in chosen}) == 6
    assert "neutral" not in {u.emotion for u in chosen}
    assert len({u.text for u in chosen}) > 1


def test_no_utterance_is_chosen_twice(corpus, neutral):
    chosen = evaluate.choose_single(corpus, neutral, 100, "neutral")
    assert len({u.id for u in chosen}) == len(chosen) <= 18


def test_the_classifier_hears_neutral_words_of_other_readings(corpus, neutral):
    chosen = evaluate.choose_for_classifier(corpus, neutral, 100, "neutral")
    assert len(chosen) == 24
    assert "neutral" not in {u.emotion for u in chosen}
    assert "neutral" in {w.emotion for u in chosen for w in u.labels.words}
    again = evaluate.choose_for_classifier(corpus, neutral, 5, "neutral")
    assert again == evaluate.choose_for_classifier(
        corpus, neutral, 5, "neutral"
    )


# --- The data -------------------------------------------------------------


def data_hparams(folder, corpus):
    manifest = {
        u.id: {
            "wav": "{data_root}/" + u.wav,
            "speaker": u.speaker,
            "text": u.text,
            "emotion": u.emotion,
        }
        for u in corpus.values()
    }
    write_json(folder / "test.json", manifest)
    write_json(folder / "asked.json", {u.id: u.asked for u in corpus.values()})
    labels = {u.id: u.labels for u in corpus.values()}
    write_word_labels(folder / "labels.json", labels, EMOTIONS)
    return {
        "data_folder": str(folder),
        "truth_file": folder / "labels.json",
        "asked_file": folder / "asked.json",
        "emotions": EMOTIONS,
    }


def test_utterances_come_with_the_truth_of_their_words(tmp_path, corpus):
    hparams = data_hparams(tmp_path, corpus)
    loaded = evaluate.load_utterances([tmp_path / "test.json"], hparams)
    assert list(loaded) == list(corpus)
    for name, expected in corpus.items():
        assert loaded[name].labels.words == expected.labels.words
        assert loaded[name].asked == expected.asked
        assert loaded[name].wav == f"{tmp_path}/{expected.wav}"


@pytest.mark.parametrize("file", ["labels.json", "asked.json"])
def test_an_utterance_without_truth_is_named(tmp_path, corpus, file):
    hparams = data_hparams(tmp_path, corpus)
    content = read_json(tmp_path / file)
    del content["0011_003"]
    write_json(tmp_path / file, content)
    with pytest.raises(ValueError, match=f"{file}.*0011_003"):
        evaluate.load_utterances([tmp_path / "test.json"], hparams)


# --- The request ----------------------------------------------------------


@pytest.mark.parametrize(
    "text, emotions",
    [
        ("“We won,” he said & left.", ["happy", "happy", "sad", "sad", None]),
        ("a < b!", ["neutral", "angry"]),
        ("well-kept", [None, None]),
    ],
)
def test_marks_ask_for_the_labels(text, emotions):
    words = [word.text for word in split_words(text)]
    labels = UtteranceLabels(
        [
            WordLabel(word, i, i + 1, e, intensity=0.25 if e == "sad" else None)
            for i, (word, e) in enumerate(zip(words, emotions))
        ]
    )
    marked = parse_markup(write_markup(text, labels.words), EMOTIONS)
    assert marked.text == text
    assert len(marked.words) == len(emotions)
    for word, emotion in zip(marked.words, emotions):
        expected = [float(e == emotion) for e in EMOTIONS]
        assert list(word.probs) == expected
        assert word.intensity == (0.25 if emotion == "sad" else None)


# --- The speech -----------------------------------------------------------


class Voice:
    """Remembers what it was asked to speak."""

    def __init__(self, folder, version="1"):
        self.spoken = []
        self.system = systems.System(folder, version, self.speak)

    def speak(self, utterances, texts, voices):
        self.spoken += [u.id for u in utterances]
        return [torch.zeros(2400) for _ in utterances]


WORK = (4, 24000)  # batch size, Hz


def test_nothing_is_spoken_twice(tmp_path, corpus):
    voice = Voice(tmp_path)
    some = list(corpus.values())[:6]
    systems.synthesise("efilm", voice.system, some, *WORK)
    assert sorted(voice.spoken) == sorted(u.id for u in some)
    more = list(corpus.values())[:7]
    wavs = systems.synthesise("efilm", voice.system, more, *WORK)
    assert voice.spoken[6:] == [more[6].id]
    assert all(Path(wav).is_file() for wav in wavs.values())


def test_a_lost_wav_is_spoken_again(tmp_path, corpus):
    voice = Voice(tmp_path)
    some = list(corpus.values())[:2]
    wavs = systems.synthesise("efilm", voice.system, some, *WORK)
    Path(wavs[some[1].id]).unlink()
    systems.synthesise("efilm", voice.system, some, *WORK)
    assert voice.spoken[2:] == [some[1].id]


def test_another_model_or_request_speaks_again(tmp_path, corpus):
    some = list(corpus.values())[:2]
    systems.synthesise("efilm", Voice(tmp_path).system, some, *WORK)
    other = Voice(tmp_path, version="2")
    systems.synthesise("efilm", other.system, some, *WORK)
    assert len(other.spoken) == 2
    asked = utterance(some[0].id, "0011", some[0].text, "sad")
    systems.synthesise("efilm", other.system, [asked], *WORK)
    assert len(other.spoken) == 3


@pytest.mark.parametrize(
    "voices, expected",
    [
        (["0011", "0012"], ["0011"] * 4),
        (
            ["0011/happy", "0011/neutral", "0012/happy"],
            ["0011/neutral", "0011/happy", "0011/neutral", "0011/neutral"],
        ),
        (["1", "2", "3", "4"], ["1", "2", "3", "4"]),
        (["0011", "2"], ["0011", "2", "0011", "0011"]),
    ],
)
def test_each_utterance_has_the_voice_nearest_to_it(voices, expected):
    emotions = ["neutral", "happy", "sad", None]  # no voice is sad
    utterances = [
        utterance(str(i), "0011", TEXTS[0], emotion, ["sad"] * 3)
        for i, emotion in enumerate(emotions, 1)
    ]
    chosen = [systems.choose_voice(u, voices, "neutral") for u in utterances]
    assert chosen == expected


def test_an_utterance_without_a_voice_is_named(corpus):
    with pytest.raises(ValueError, match="0011_000 of 0011 has no voice.*0012"):
        systems.choose_voice(corpus["0011_000"], ["0012/sad"], "neutral")


def test_another_voice_speaks_again(tmp_path, corpus):
    some = list(corpus.values())[:2]
    voice = Voice(tmp_path)
    systems.synthesise("efilm", voice.system, some, *WORK)
    other = replace(voice.system, voice=lambda u: f"{u.speaker}/{u.emotion}")
    systems.synthesise("efilm", other, some, *WORK)
    assert len(voice.spoken) == 4


def test_a_fingerprint_names_the_recordings_of_voices(tmp_path):
    token_to_wav = systems.PromptedTokenToWav(
        torch.nn.Linear(2, 2), torch.nn.Identity(), tmp_path / "voices"
    )
    versions = []
    for content in (b"one", b"other"):
        token_to_wav.voices_file.write_bytes(content)
        versions.append(systems.fingerprint(token_to_wav))
    assert versions[0] != versions[1]


def test_a_fingerprint_names_weights_and_options():
    torch.manual_seed(0)
    layer = torch.nn.Linear(2, 2)
    first = systems.fingerprint(layer, 1.0)
    assert systems.fingerprint(layer, 1.0) == first
    assert systems.fingerprint(layer, 1.5) != first
    layer.bias.data[0] += 1
    assert systems.fingerprint(layer, 1.0) != first


class Synthesizer:
    """Stands for one with sampling options."""

    def __init__(self, temperature):
        torch.manual_seed(0)
        self.mods = torch.nn.ModuleDict({"token_to_wav": torch.nn.Identity()})
        self.mods.token_to_wav.n_timesteps = 10
        self.hparams = SimpleNamespace(generation={"temperature": temperature})
        self.spoken = 0

    def synthesize(self, texts, **options):
        self.spoken += len(texts)
        self.asked = options
        return [SimpleNamespace(wav=torch.zeros(2400)) for _ in texts]


@pytest.mark.parametrize(
    "temperature, seed, guidance", [(0.8, 0, 1.3), (1.0, 1, 1.3), (1.0, 0, 2.0)]
)
def test_changed_sampling_seed_or_guidance_speaks_again(
    tmp_path, corpus, temperature, seed, guidance
):
    some = list(corpus.values())[:2]
    for options, expected in (
        ((1.0, 0, 1.3), 2),
        ((1.0, 0, 1.3), 0),
        ((temperature, seed, guidance), 2),
    ):
        model = Synthesizer(options[0])
        system = systems.spoken_system(tmp_path, model, *options[1:])
        systems.synthesise("efilm", system, some, *WORK)
        assert model.spoken == expected


def test_a_reference_is_spoken_with_and_speaks_again(tmp_path, corpus):
    some = list(corpus.values())[:2]
    keys = set()
    for reference, aligner in (
        (None, None),
        ("per_span", None),
        ("per_span", Hearing()),
    ):
        model = Synthesizer(1.0)
        model.aligner = aligner
        system = systems.spoken_system(tmp_path, model, 0, reference=reference)
        systems.synthesise("per_span", system, some, *WORK)
        assert (model.spoken, model.asked["reference"]) == (2, reference)
        keys.add(system.key(some[0]))
    assert len(keys) == 3


# --- The scores -----------------------------------------------------------


class HigherIsHappy:
    """Stands for the classifier."""

    def predict(self, change):
        return ["happy" if f0 > 0.1 else "neutral" for f0 in change[:, 0]]


def measurement(u, understood=True):
    """As asked, or nothing of it."""
    if not understood:
        return Measurement(None, "Quite other words here.", 1.0)
    change = np.zeros((3, 6))
    change[:, 0] = [asked["f0"] for asked in u.asked]
    return Measurement(change.tolist(), u.text, 4.0)


@pytest.fixture
def spoken(corpus, neutral):
    chosen = evaluate.choose_mixed(corpus, neutral, 3)
    return chosen + [u for u in corpus.values() if u.emotion == "happy"][:1]


def test_perfect_speech_has_perfect_scores(spoken):
    measured = {u.id: measurement(u) for u in spoken}
    scores = evaluate.summarise(spoken, measured, HigherIsHappy(), EMOTIONS)
    assert scores["wer"]["wer"] == 0
    assert scores["word_emotion_accuracy"]["accuracy"] == 1
    assert scores["word_emotion_accuracy"]["words"] == 12
    f0 = scores["within_utterance_correlation"]["f0"]
    assert f0["correlation"] == pytest.approx(1)
    assert scores["transitions_as_asked"]["share"] == 1
    assert scores["transitions_as_asked"]["tested"] == 3  # mixed ones only
    assert scores["mos"]["mos"] == 4
    assert scores["not_aligned"] == []


def test_what_cannot_be_aligned_counts_as_a_failure(spoken):
    measured = {u.id: measurement(u, u is not spoken[0]) for u in spoken}
    scores = evaluate.summarise(spoken, measured, HigherIsHappy(), EMOTIONS)
    assert scores["not_aligned"] == [spoken[0].id]
    assert scores["word_emotion_accuracy"]["accuracy"] == 9 / 12
    assert scores["transitions_as_asked"]["share"] == pytest.approx(2 / 3)
    assert scores["within_utterance_correlation"]["f0"]["correlation"] < 0.9
    assert scores["wer"]["wer"] > 0.25


def test_tables_have_a_row_for_each_utterance_and_word(tmp_path, spoken):
    measured = {
        "original": {u.id: measurement(u) for u in spoken},
        "efilm": {u.id: measurement(u, u is not spoken[0]) for u in spoken},
    }
    evaluate.write_tables(tmp_path, spoken, measured, HigherIsHappy())
    with open(tmp_path / "utterances.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert [row["aligned"] for row in rows] == ["1"] * 4 + ["0"] + ["1"] * 3
    assert rows[0]["asked"].startswith(
        "<neutral intensity=0>We</> <happy intensity=0.5>"
    )
    with open(tmp_path / "words.csv", newline="") as file:
        words = list(csv.DictReader(file))
    assert len(words) == 24
    assert words[1]["asked_f0"] == words[1]["f0"] == "0.3"
    assert words[1]["recognised_emotion"] == "happy"
    assert words[12]["f0"] == words[12]["recognised_emotion"] == ""


# --- Further scores --------------------------------------------------------

PITCH = {"neutral": 150, "angry": 250, "happy": 350, "sad": 450}


class Spectrum:
    """Log magnitudes below 2 kHz, 50 frames a second."""

    sample_rate, frame_rate, frame_offset = 16000, 50.0, 0.01
    speaker_normalization = True

    def __call__(self, wavs, lens):
        frames = wavs.unfold(1, 320, 320)
        return torch.fft.rfft(frames).abs()[..., 1:40].add(1e-3).log(), lens


class ThreeWords:
    """An aligner that finds three words of 0.1 s."""

    def align(self, wav, sample_rate, text):
        return [Word("word", 0.1 * i, 0.1 * i + 0.1) for i in range(3)]


def speak(path, emotions):
    time = np.arange(2400) / 24000
    tones = [
        sum(np.sin(2 * np.pi * PITCH[e] * k * time) for k in range(1, 9))
        for e in emotions
    ]
    soundfile.write(path, 0.05 * np.concatenate(tones), 24000)
    return str(path)


@pytest.fixture
def toned(tmp_path, corpus):
    """The corpus with a pitch for each emotion; hparams that add scores."""
    hparams = data_hparams(tmp_path, corpus) | {
        "train_manifests": [tmp_path / "test.json"],
        "reference_folder": tmp_path / "references",
        "n_classifier": 16,
        "window": 0.1,
        "predict_mos": False,
        "aligner": ThreeWords,
        "asr": None,
        "mos": None,
        "emotion_features": Spectrum,
        "speaker_encoder": None,
        "scores": [
            "emo_sim", "dtw", "transitions", "leakage",
            "utterance_discrimination", "word_discrimination",
        ],
    }  # fmt: skip
    for u in corpus.values():
        speak(tmp_path / u.wav, u.emotions)
    utterances = evaluate.load_utterances([tmp_path / "test.json"], hparams)
    return hparams, utterances


def score(hparams, utterances, chosen, folder):
    """The corpus's own speech, and a voice that is always neutral."""
    wavs = {
        "original": {u.id: u.wav for u in chosen},
        "monotone": {
            u.id: speak(folder / f"{u.id}_monotone.wav", ["neutral"] * 3)
            for u in chosen
        },
    }
    with MeasuringPool(evaluate.measuring_tools(hparams)) as pool:
        measured = {
            system: pool.measure(
                {u.id: Reading(files[u.id], u.text) for u in chosen}, folder
            )
            for system, files in wavs.items()
        }
        scored = evaluate.further_scores(
            pool, measured, chosen, utterances, hparams
        )
    return {name: own.summarize() for name, own in scored.items()}


def test_emotion_features_are_scored_against_the_speakers_own_readings(
    toned, tmp_path
):
    hparams, utterances = toned
    neutral = evaluate.neutral_readings(utterances, "neutral")
    chosen = evaluate.choose_mixed(utterances, neutral, 3)
    chosen += evaluate.choose_single(utterances, neutral, 3, "neutral")
    found = score(hparams, utterances, chosen, tmp_path)
    original, monotone = found["original"], found["monotone"]
    assert list(original) == [
        name for name in SCORES if name in hparams["scores"]
    ]
    assert original["emo_sim"]["emo_sim"] == pytest.approx(100)
    assert monotone["emo_sim"]["emo_sim"] < 90
    assert original["dtw"]["cosine"]["dtw"] == pytest.approx(0, abs=1e-6)
    assert monotone["dtw"]["cosine"]["dtw"] > 1
    assert original["transitions"]["accuracy"] == 1
    assert original["transitions"]["switches"] == 3  # of the mixed ones
    assert monotone["transitions"]["accuracy"] == 0
    for name in ("utterance_discrimination", "word_discrimination"):
        assert original[name]["accuracy"] == 1
        assert monotone[name]["accuracy"] < 0.5
    rows = evaluation_report.score_rows(found)
    assert "Emo SIM" in [row.name for row in rows]


def test_only_the_tools_that_a_score_needs_are_made(toned):
    hparams, _ = toned
    tools = dict(hparams, scores=[])
    assert set(evaluate.measuring_tools(tools)) == {"aligner", "asr"}
    tools["scores"] = ["mos", "speaker_similarity", "dtw"]
    assert set(evaluate.measuring_tools(tools)) == {
        "aligner", "asr", "mos", "speaker_encoder", "emotion_features",
    }  # fmt: skip


# --- The report's parts ---------------------------------------------------


@pytest.fixture
def scores(spoken):
    return {
        system: evaluate.summarise(
            spoken,
            {u.id: measurement(u, system != "backbone") for u in spoken},
            HigherIsHappy(),
            EMOTIONS,
        )
        for system in evaluation_report.SYSTEMS
    }


def test_the_table_has_every_score_of_every_system(scores):
    rows = evaluation_report.table(scores)
    assert [row.name for row in rows][:3] == [
        "Word error rate",
        "Word emotion accuracy",
        "Transitions as asked",
    ]
    assert len(rows) == 7
    for row in rows:
        assert set(row.values) == set(evaluation_report.SYSTEMS)
    assert rows[1].values["efilm"].value == 1
    assert rows[1].values["backbone"].value == 0


def test_f0_is_in_the_table_where_it_was_found(scores):
    for system, value in (("efilm", 1.5), ("backbone", None)):
        for name in ("f0_spread", "f0_distance"):
            scores[system][name] = {name: value, "low": 1.0, "high": 2.0}
    rows = {row.name: row for row in evaluation_report.table(scores)}
    for name in ("Spread of F0", "Distance of F0 from the original"):
        values = rows[name].values
        assert {s: e.value for s, e in values.items()} == {"efilm": 1.5}


def test_shown_sentences_are_chosen_by_place(spoken, corpus):
    shown = evaluation_report.choose_shown(spoken, 4)
    assert [u.part for u in shown] == ["mixed"] * 3 + ["single"]
    many = [u for u in corpus.values() if u.part == "mixed"]
    assert evaluation_report.choose_shown(many, 2) == [many[0], many[3]]


def test_pictures_can_be_drawn_where_nothing_was_aligned(
    tmp_path, spoken, scores
):
    measured = {
        system: {u.id: measurement(u, system != "backbone") for u in spoken}
        for system in evaluation_report.SYSTEMS
    }
    rows = evaluate.write_tables(tmp_path, spoken, measured, HigherIsHappy())
    for png in (
        evaluation_report.scatter_png(rows, EMOTIONS),
        evaluation_report.confusion_png(scores),
    ):
        assert Image.open(io.BytesIO(png)).width > 800


def test_a_classifier_needs_words_that_were_found(tmp_path, corpus):
    hparams = data_hparams(tmp_path, corpus) | {
        "train_manifests": [tmp_path / "test.json"],
        "baseline_emotion": "neutral",
        "n_classifier": 4,
        "reference_folder": tmp_path,
    }
    for u in corpus.values():
        noise = np.random.default_rng(0).normal(0, 0.1, 9600)
        soundfile.write(tmp_path / u.wav, noise, 24000)
    with pytest.raises(ValueError, match="test.json.*classifier"):
        evaluate.train_classifier(MeasuringPool({"aligner": Deaf}), hparams)
    pool = MeasuringPool({"aligner": Hearing})
    classifier = evaluate.train_classifier(pool, hparams)
    assert set(classifier.emotions) <= set(EMOTIONS)
    file = tmp_path / "classifier" / "word_emotion_classifier.safetensors"
    assert WordEmotionClassifier.load(file).emotions == classifier.emotions


class Deaf:
    """An aligner that never finds a word."""

    def align(self, wav, sample_rate, text):
        raise ValueError("The sound does not fit.")


class Hearing:
    """An aligner that always finds them."""

    def align(self, wav, sample_rate, text):
        return []


# --- More systems ---------------------------------------------------------


@pytest.mark.parametrize("name", ["backbone", "neutral_copy", "../other", ""])
def test_a_compared_model_needs_a_name_of_its_own(tmp_path, name):
    with pytest.raises(ValueError, match="compared_models.*letters"):
        systems.load_compared({name: tmp_path}, "cpu")


def test_a_compared_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no_model, other of compared"):
        systems.load_compared({"other": tmp_path / "no_model"}, "cpu")
    with pytest.raises(FileNotFoundError, match="has no synthesizer.yaml"):
        systems.load_compared({"other": tmp_path}, "cpu")


def test_systems_are_called_by_their_captions():
    names = ["original", "efilm", "labels", "other"]
    captions = {"efilm": "Truth", "labels": "Labels", "absent": "Absent"}
    assert evaluation_report.name_systems(names, captions) == {
        "original": "Original",
        "efilm": "Truth",
        "labels": "Labels",
        "other": "other",
    }


def test_pictures_have_a_column_for_each_system(tmp_path, spoken, scores):
    systems = evaluation_report.name_systems([*scores, "labels"], {})
    scores["labels"] = scores["efilm"]
    measured = {s: {u.id: measurement(u) for u in spoken} for s in systems}
    rows = evaluate.write_tables(tmp_path, spoken, measured, HigherIsHappy())
    for draw in (
        lambda s: evaluation_report.scatter_png(rows, EMOTIONS, s),
        lambda s: evaluation_report.confusion_png({n: scores[n] for n in s}, s),
    ):
        fewer = dict(list(systems.items())[:4])
        narrow, wide = (
            Image.open(io.BytesIO(draw(s))).width for s in (fewer, systems)
        )
        assert wide > 1.1 * narrow


# --- What is wrong --------------------------------------------------------


def scores_of(wer, accuracy, share, spread=3.0, distance=1.0, control=0.7):
    return {
        "within_utterance_correlation": {"f0": {"correlation": control}},
        "wer": {"wer": wer},
        "word_emotion_accuracy": {"accuracy": accuracy},
        "transitions_as_asked": {"share": share},
        "f0_spread": {"f0_spread": spread},
        "f0_distance": {"f0_distance": distance},
    }


def verdicts(efilm):
    scores = {
        "original": scores_of(0.0, 0.9, 0.99),
        "copy_synthesis": scores_of(0.1, 0.8, 0.95),
        "backbone": scores_of(0.1, 0.2, 0.5, distance=1.3, control=0.0),
        "efilm": efilm,
    }
    evaluation_diagnosis.name_failures(scores)
    assert "diagnosis" not in scores["backbone"]
    return {judged["name"]: judged for judged in scores["efilm"]["diagnosis"]}


def test_every_failure_of_a_trained_model_gets_a_verdict(capsys):
    judged = verdicts(scores_of(0.4, 0.7, 0.4))
    assert {name: entry["verdict"] for name, entry in judged.items()} == {
        "flat prosody": "not found",
        "catastrophic forgetting": "found",
        "noisy transitions": "found",
        "missing dynamics": "not found",
    }
    assert judged["noisy transitions"]["figures"] == [
        "transition_accuracy 0.4 below 0.57"
    ]
    assert "efilm, catastrophic forgetting: wer 0.4" in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes, name",
    [
        ({"spread": 1.0}, "flat prosody"),
        ({"control": 0.1}, "flat prosody"),
        ({"distance": 1.25}, "missing dynamics"),
    ],
)
def test_f0_tells_flat_and_undynamic_speech(changes, name):
    judged = verdicts(scores_of(0.1, 0.7, 0.9, **changes))
    found = [n for n, entry in judged.items() if entry["verdict"] == "found"]
    assert found == [name]


def test_missing_scores_leave_a_failure_untested():
    judged = verdicts(scores_of(0.1, 0.7, 0.9, spread=None, distance=None))
    assert judged["missing dynamics"]["verdict"] == "untested"
    assert judged["flat prosody"]["figures"] == [
        "f0_control 0.7 not below 0.21"
    ]


def test_f0_is_that_of_the_words_in_semitones(spoken):
    def all_of(*changes):
        rows = [[change] + [0.0] * 5 for change in changes]
        return {u.id: Measurement(rows) for u in spoken}

    level, octave = all_of(0.0, 0.0), all_of(0.0, np.log(2))
    found = evaluation_diagnosis.f0_scores(spoken, octave, level)
    assert found["f0_spread"]["f0_spread"] == pytest.approx(6.0)
    assert found["f0_distance"]["f0_distance"] == pytest.approx(6.0)
    same = evaluation_diagnosis.f0_scores(spoken, octave, octave)
    assert same["f0_distance"]["f0_distance"] == 0.0


def test_words_that_were_not_found_have_no_f0(spoken):
    lost = {u.id: Measurement(None) for u in spoken}
    found = evaluation_diagnosis.f0_scores(spoken, lost, lost)
    assert found["f0_spread"]["f0_spread"] is None
    assert found["f0_distance"]["f0_distance"] is None

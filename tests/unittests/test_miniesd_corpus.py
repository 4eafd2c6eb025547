"""MiniESD: what is planned, what is made, and what is known about it."""

import doctest
import hashlib
import random
import shutil
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

from speechbrain_emofilm.dataio.labels import (
    check_words,
    read_label_textgrid,
    read_word_labels,
)
from speechbrain_emofilm.dataio.text import split_words
from speechbrain_emofilm.integrations.hibari import (
    UNITS,
    HibariTextFrontend,
    read_cues,
    written_tokens,
)
from speechbrain_emofilm.processing.mel import log_mel
from speechbrain_emofilm.utils.files import read_json

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

# The recipes' scripts find their neighbours in their own folder.
sys.path.append(str(Path(__file__).parents[2] / "recipes" / "ESD"))
sys.path.append(str(Path(__file__).parents[2] / "recipes" / "MiniESD"))

import make_corpus
import make_pretraining_corpus
import pack_backbone
import pretraining_brain
import pretraining_data
import sentences
import styles
from esd_prepare import prepare_esd
from voice import WordProsody

pytest.importorskip("hibari")
pytest.importorskip("faker")

EMOTIONS = styles.EMOTIONS
OPTIONS = {
    "n_train": 2,
    "n_evaluation": 1,
    "n_test": 1,
    "n_transitions": 2,
    "speakers": ["0011", "0013"],
    "seed": 5,
}
#: Utterances of each split per speaker and emotion.
SIZES = {"train": 2, "evaluation": 1, "test": 1}


@pytest.mark.parametrize(
    "module", [pretraining_brain, sentences, styles], ids=lambda m: m.__name__
)
def test_examples_in_the_documentation_are_right(module):
    assert doctest.testmod(module).failed == 0


# --- Sentences -------------------------------------------------------------


def test_sentences_depend_on_the_seed_alone():
    def draw(seed):
        make = sentences.SentenceMaker(seed)
        return [make() for _ in range(50)]

    assert draw(1) == draw(1) != draw(2)


def test_sentences_can_be_spoken():
    make = sentences.SentenceMaker(seed=3)
    drawn = [make() for _ in range(500)]
    for text in drawn:
        words = sentences.plain_words(text)
        assert 4 <= len(words) <= 12
        assert [w.text.lower() for w in split_words(text)] == words
        assert text.isascii() and text.endswith(".") and text[0].isupper()
    assert len(set(drawn)) > 480
    assert len({w for text in drawn for w in sentences.plain_words(text)}) > 800


def test_no_sentence_for_training_is_held_out():
    texts = sentences.EVALUATION + sentences.TEST
    held_out = {tuple(sentences.plain_words(text)) for text in texts}
    assert len(held_out) == len(texts)
    make = sentences.SentenceMaker(seed=4)
    drawn = {tuple(sentences.plain_words(make())) for _ in range(500)}
    assert not drawn & held_out


def test_a_held_out_sentence_is_drawn_again(monkeypatch):
    held_out = sentences.TEST[0][:-1].lower()
    draws = iter([held_out, "we won the game again"])
    make = sentences.SentenceMaker(seed=0)
    monkeypatch.setattr(make, "_draw", lambda: next(draws))
    assert make() == "We won the game again."


# --- Styles ----------------------------------------------------------------


def test_intensity_scales_the_style():
    full = styles.emotion_prosody("angry", 1.0)
    assert full == styles.EMOTION_PROSODY["angry"]
    assert styles.emotion_prosody("angry", 0.5).gain == full.gain / 2
    assert styles.emotion_prosody("angry", 0.0) == WordProsody()
    assert styles.emotion_prosody("neutral", 1.0) == WordProsody()


def test_free_prosody_covers_every_style():
    every = [s for rules in styles.ACTORS.values() for s in rules.values()]
    for style in every:
        for axis, (low, high) in styles.FREE_RANGE.items():
            assert low <= getattr(style, axis) <= high
    rng = random.Random(0)
    drawn = [styles.draw_free_prosody(rng) for _ in range(2000)]
    for axis, (low, high) in styles.FREE_RANGE.items():
        values = [getattr(prosody, axis) for prosody in drawn]
        assert low <= min(values) < 0.9 * low
        assert 0.9 * high < max(values) <= high
        assert 0.3 < np.mean(np.array(values) == 0) < 0.4


def test_cues_and_instruction_say_what_the_voice_does():
    prosody = WordProsody(pitch=0.3, duration=-0.3, gain=-6.0, slope=0.1)
    cues = styles.cues_of(prosody)
    assert (cues.loudness, cues.pitch, cues.tempo, cues.contour) == (
        -1, 1, -1, 0,
    )  # fmt: skip
    said = styles.instruction_of(prosody)
    assert said.endswith("<|endofprompt|>")
    assert set(said.split("<|")[0].split()) == {"high", "fast", "soft"}
    assert styles.instruction_of(WordProsody()) == "plain<|endofprompt|>"


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_words_carry_the_emotion_to_different_degrees(emotion):
    rng = random.Random(0)
    drawn = [styles.draw_sentence_words(rng, emotion, 6) for _ in range(200)]
    words = [word for sentence in drawn for word in sentence]
    assert {word[0] for word in words} == {emotion, "neutral"}
    if emotion == "neutral":
        assert set(words) == {("neutral", 0.0)}
        return
    assert all(any(w[0] == emotion for w in sentence) for sentence in drawn)
    neutral = [word for word in words if word[0] == "neutral"]
    assert 0.1 < len(neutral) / len(words) < 0.25
    assert {intensity for _, intensity in neutral} == {0.0}
    degrees = {level for name, level in words if name == emotion}
    assert 0.5 <= min(degrees) and max(degrees) <= 1.0 and len(degrees) > 20


@pytest.mark.parametrize("n_words", [2, 3, 4, 6, 7, 12])
def test_emotion_switches_inside_a_transition(n_words):
    rng = random.Random(0)
    n_parts = Counter()
    for _ in range(200):
        words = styles.draw_transition_words(rng, n_words)
        assert len(words) == n_words
        names = [name for name, _ in words]
        runs = [a for a, b in zip(names, names[1:] + [None]) if a != b]
        assert len(set(runs)) == len(runs)  # no emotion comes back
        n_parts[len(runs)] += 1
        if n_words >= 4:
            assert min(Counter(names).values()) >= 2
        for name, level in words:
            assert level == 0 if name == "neutral" else 0.5 <= level <= 1
    assert set(n_parts) == ({2, 3} if n_words >= 7 else {2})


# --- The plan --------------------------------------------------------------


@pytest.fixture(scope="module")
def plan():
    return make_corpus.plan_corpus(OPTIONS)


def test_plan_depends_on_the_options_alone(plan):
    assert make_corpus.plan_corpus(OPTIONS) == plan
    assert make_corpus.plan_corpus({**OPTIONS, "seed": 6}) != plan


def test_ids_and_paths_are_unique(plan):
    assert len({entry["id"] for entry in plan}) == len(plan)
    assert len({entry["path"] for entry in plan}) == len(plan)


def test_sentences_are_parallel(plan):
    """Every speaker says the same sentences in every emotion."""
    texts = {}
    for entry in plan:
        key = entry["speaker"], entry["emotion"]
        texts.setdefault(key, []).append((entry["split"], entry["text"]))
    parallel = [texts[s, e] for s in OPTIONS["speakers"] for e in EMOTIONS]
    assert parallel == [parallel[0]] * len(parallel)


def test_held_out_sentences_are_not_in_training(plan):
    texts = {}
    for entry in plan:
        words = " ".join(sentences.plain_words(entry["text"]))
        texts.setdefault(entry["split"], set()).add(words)
    assert len(texts) == 3
    assert not texts["train"] & texts["test"]
    assert not texts["train"] & texts["evaluation"]
    assert not texts["evaluation"] & texts["test"]


def test_every_word_is_planned(plan):
    for entry in plan:
        assert len(entry["words"]) == len(split_words(entry["text"]))
        names = {name for name, _ in entry["words"]}
        if entry["emotion"] is None:
            assert len(names) in (2, 3)
        else:
            assert names <= {entry["emotion"], "neutral"}


# --- The corpus ------------------------------------------------------------


def digests(root):
    """Every file of a folder and its content's hash."""
    return {
        str(path.relative_to(root)): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("MiniESD")
    return make_corpus.make_corpus(root, workers=2, **OPTIONS)


@pytest.fixture(scope="module")
def labels(corpus):
    return read_word_labels(corpus / "word_labels.json", EMOTIONS)


def transcripts(corpus):
    """Text of every utterance, the transitions' included."""
    files = [*corpus.glob("0*/0*.txt"), *corpus.glob("transitions/*.txt")]
    lines = [line for f in files for line in f.read_text().splitlines()]
    return {line.split("\t")[0]: line.split("\t")[1] for line in lines}


def test_same_options_give_same_bytes(corpus, tmp_path):
    """Whatever the number of processes."""
    again = make_corpus.make_corpus(tmp_path / "again", workers=1, **OPTIONS)
    assert digests(again) == digests(corpus)


def test_finished_corpus_is_left_alone(corpus, monkeypatch):
    monkeypatch.setattr(make_corpus, "plan_corpus", None)  # cannot be called
    before = digests(corpus)
    assert make_corpus.make_corpus(corpus, **OPTIONS) == corpus
    assert digests(corpus) == before


@pytest.mark.parametrize("changed", [{"n_train": 3}, {"seed": 1}])
def test_folder_with_other_options_is_refused(corpus, changed):
    before = digests(corpus)
    with pytest.raises(ValueError, match="other options.*another folder"):
        make_corpus.make_corpus(corpus, **{**OPTIONS, **changed})
    assert digests(corpus) == before


def test_unfinished_corpus_is_finished_with_the_same_options(
    corpus, tmp_path, monkeypatch
):
    root = tmp_path / "MiniESD"
    with monkeypatch.context() as patch:
        patch.setattr(make_corpus.multiprocessing, "Pool", None)
        with pytest.raises(TypeError):  # dies before the first wave
            make_corpus.make_corpus(root, **OPTIONS)
    with pytest.raises(ValueError, match="other options"):
        make_corpus.make_corpus(root, **{**OPTIONS, "seed": 6})
    make_corpus.make_corpus(root, **OPTIONS)
    assert digests(root) == digests(corpus)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"n_sentences": 3}, "no options n_sentences"),
        ({"actor": "third"}, "no actor third: choose from first, second"),
        ({"speakers": ["0001"]}, "no speakers 0001: choose from 0011"),
    ],
)
def test_unknown_options_are_refused(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        make_corpus.make_corpus(tmp_path / "new", **wrong)
    assert not (tmp_path / "new").exists()


def test_esd_preparation_takes_the_corpus(corpus, tmp_path):
    before = digests(corpus)
    prepare_esd(corpus, tmp_path, n_workers=1, max_bad_share=0.0)
    assert digests(corpus) == before
    for split, folder in zip(
        ("train", "valid", "test"), ("train", "evaluation", "test")
    ):
        manifest = read_json(tmp_path / f"{split}.json")
        counts = Counter(
            (item["speaker"], item["emotion"]) for item in manifest.values()
        )
        assert counts == {
            (speaker, emotion): SIZES[folder]
            for speaker in OPTIONS["speakers"]
            for emotion in EMOTIONS
        }
        for item in manifest.values():
            assert f"/{item['emotion'].capitalize()}/{folder}/" in item["wav"]
            assert item["language"] == "en"


def test_waves_are_24_khz_and_not_clipped(corpus):
    for path in corpus.rglob("*.wav"):
        info = soundfile.info(path)
        assert (info.samplerate, info.channels) == (24000, 1)
        assert info.subtype == "PCM_16" and 0.5 < info.duration < 15
        wav, _ = soundfile.read(path)
        assert 0.02 < np.abs(wav).max() < 1.0


def test_label_words_are_those_of_the_transcript(corpus, labels):
    texts = transcripts(corpus)
    assert set(labels) == set(texts) == {p.stem for p in corpus.rglob("*.wav")}
    for uid, text in texts.items():
        words = [word.text for word in split_words(text)]
        check_words(labels[uid], words, uid)


def test_labels_are_the_plan_and_lie_inside_the_wave(corpus, labels, plan):
    for entry in plan:
        words = labels[entry["id"]].words
        truth = [(word.emotion, word.intensity) for word in words]
        assert truth == entry["words"]
        duration = soundfile.info(corpus / entry["path"]).duration
        assert 0 < words[0].start and words[-1].end < duration


def test_textgrids_are_the_labels(corpus, labels):
    for uid, entry in labels.items():
        path = corpus / "textgrids" / uid[:4] / f"{uid}.TextGrid"
        grid = read_label_textgrid(path, EMOTIONS).words
        assert [(w.word, w.emotion, w.intensity) for w in grid] == [
            (w.word, w.emotion, w.intensity) for w in entry.words
        ]
        times = [[(w.start, w.end) for w in ws] for ws in (grid, entry.words)]
        np.testing.assert_allclose(*times, atol=1e-3)


def test_asked_changes_belong_to_the_words(corpus, labels):
    asked = read_json(corpus / "asked.json")
    assert set(asked) == set(labels)
    for uid, changes in asked.items():
        assert len(changes) == len(labels[uid].words)
        for change, word in zip(changes, labels[uid].words):
            style = styles.EMOTION_PROSODY[word.emotion]
            assert change == {
                "f0": pytest.approx(style.pitch * word.intensity, abs=1e-3),
                "energy": pytest.approx(style.gain * word.intensity, abs=1e-2),
                "duration": pytest.approx(
                    style.duration * word.intensity, abs=1e-3
                ),
            }


def test_actors_differ_in_prosody_alone(corpus, labels, tmp_path):
    options = {**OPTIONS, "actor": "second"}
    other = make_corpus.make_corpus(tmp_path / "second", **options)
    assert transcripts(other) == transcripts(corpus)
    other_labels = read_word_labels(other / "word_labels.json", EMOTIONS)
    for uid, entry in labels.items():
        ours, others = (
            [(w.word, w.emotion, w.intensity) for w in e.words]
            for e in (entry, other_labels[uid])
        )
        assert ours == others
    assert read_json(other / "asked.json") != read_json(corpus / "asked.json")


def test_transitions_switch_at_known_words(corpus, labels):
    splits = read_json(corpus / "transitions" / "splits.json")
    assert Counter(splits.values()) == {"train": 4, "evaluation": 2, "test": 2}
    held_out = {"evaluation": sentences.EVALUATION, "test": sentences.TEST}
    texts = transcripts(corpus)
    for uid, split in splits.items():
        assert (corpus / "transitions" / uid[:4] / f"{uid}.wav").is_file()
        assert len({word.emotion for word in labels[uid].words}) >= 2
        assert (texts[uid] in held_out.get(split, [])) == (split != "train")


def test_angry_words_are_louder_than_sad_ones(corpus, labels):
    levels = {"angry": [], "sad": []}
    for path in corpus.glob("0*/*/*/*.wav"):
        wav, _ = soundfile.read(path)
        for word in labels[path.stem].words:
            if word.emotion in levels:
                part = wav[int(24000 * word.start) : int(24000 * word.end)]
                power = 10 * np.log10(np.square(part).mean())
                levels[word.emotion].append(power)
    assert np.mean(levels["angry"]) > np.mean(levels["sad"]) + 6


def test_readme_of_the_corpus_says_what_it_is(corpus):
    text = " ".join((corpus / "README.md").read_text().split())
    assert "Apache-2.0" in text and "hibari-tts" in text
    assert "nothing measured on it says anything about human emotion" in text


# --- The pretraining corpus ------------------------------------------------


@pytest.fixture(scope="module")
def pretraining(tmp_path_factory):
    root = tmp_path_factory.mktemp("pretraining")
    (root / "wavs").mkdir()
    rows = make_pretraining_corpus.make_chunk((0, 10, root, 1986))
    return root, rows


def test_chunk_depends_on_its_number_and_the_seed_alone(pretraining, tmp_path):
    root, rows = pretraining
    (tmp_path / "wavs").mkdir()
    assert (
        make_pretraining_corpus.make_chunk((0, 3, tmp_path, 1986)) == rows[:3]
    )
    for row in rows[:3]:
        wavs = [(r / row["wav"]).read_bytes() for r in (root, tmp_path)]
        assert wavs[0] == wavs[1]
    other = make_pretraining_corpus.make_chunk((1, 3, tmp_path, 1986))
    assert [row["text"] for row in other] != [row["text"] for row in rows[:3]]


def test_every_kind_of_text_is_drawn_with_calm_plain_ones():
    rng = random.Random(0)
    make_sentence = sentences.SentenceMaker(0)
    strength = {"cues": [], "instruction": [], "plain": [], "brackets": []}
    for _ in range(300):
        words, text, prosody = make_pretraining_corpus.draw_utterance(
            rng, make_sentence
        )
        assert len(prosody) == len(words)
        spoken = text.rpartition("<|endofprompt|>")[2]
        cues = [read_cues(token)[1] for token in written_tokens(spoken)]
        assert len(cues) == len(words)
        kind = "instruction" if spoken != text else "plain"
        if any(cue.code for cue in cues):
            kind = "cues"
        for cue, change in zip(cues, prosody):
            kind_here = "brackets" if cue.plain else kind
            strength[kind_here].append(abs(change.gain))
    mean = {kind: np.mean(values) for kind, values in strength.items()}
    assert mean["plain"] < 0.8 * mean["cues"]
    assert mean["brackets"] < 0.4 * mean["cues"]
    assert mean["instruction"] > 2


def test_no_emotion_label_is_written(pretraining):
    _, rows = pretraining
    assert all(
        set(row)
        == {"id", "wav", "duration", "speaker", "text", "words", "units", "f0"}
        for row in rows
    )


def test_most_texts_are_read_as_they_were_spoken(pretraining):
    _, rows = pretraining
    frontend = HibariTextFrontend()
    same = 0
    for row in rows:
        ids = frontend.encode(row["text"]).ids
        symbols = [UNITS[i % len(UNITS)] for i in ids]
        spoken = [unit[0] for unit in row["units"]]
        same += symbols[-len(spoken) :] == spoken
    assert same >= 0.9 * len(rows)


@pytest.fixture(scope="module")
def features(pretraining):
    root, rows = pretraining
    lines = [pretraining_data.json.dumps(row) for row in rows]
    (root / "pretraining.jsonl").write_text("\n".join(lines) + "\n")
    pretraining_data.extract_features(root, workers=1)
    return pretraining_data.PretrainingCorpus(root)


def test_features_are_those_of_the_waves(features):
    for index in (0, 9):
        wav = torch.from_numpy(features.wav(index))[None]
        mel = torch.from_numpy(features.mel(index))
        n_frames = features.n_frames(index)
        assert mel.shape == (n_frames, 80) and n_frames % 2 == 0
        expected = log_mel(wav[:, : 480 * n_frames])[0]
        torch.testing.assert_close(mel, expected, atol=0.02, rtol=1e-3)
        assert len(features.f0(index)) == n_frames
        assert len(features.token_units(index)) == n_frames // 2


def test_a_quarter_of_a_small_corpus_is_held_out(features):
    assert list(features.train) == list(range(8))
    assert list(features.valid) == [8, 9]


def test_part_of_a_wave_begins_at_its_frame(features):
    whole, part = features.wav(0), features.wav(0, 10, 5)
    np.testing.assert_array_equal(part, whole[4800:7200])


def test_tokens_know_their_unit_and_phoneme(features):
    for index, row in enumerate(features.rows):
        units = features.token_units(index)
        known = units[units >= 0]
        assert (np.diff(known) >= 0).all() and known[-1] < len(row["units"])
        for step, unit in enumerate(units):
            if 0 <= unit < len(row["units"]) - 1:
                _, start, end = row["units"][unit]
                assert start <= (step + 0.5) / 25 <= end + 1e-3
        phonemes = {UNITS[p] for p in features.token_phonemes(index)}
        assert not phonemes & set("ˈˌ")


def test_frames_know_their_phoneme(features):
    for index, row in enumerate(features.rows):
        frames = features.frame_phonemes(index)
        assert len(frames) == features.n_frames(index)
        for symbol, start, end in row["units"]:
            if symbol not in "ˈˌ" and end - start >= 0.02:
                centre = (start + end) / 2
                assert UNITS[frames[int(50 * centre)]] == symbol


def test_relative_f0_has_no_speaker_in_it(features):
    by_speaker = {}
    for index in range(len(features.rows)):
        f0 = features.relative_log_f0(index)
        by_speaker.setdefault(features.speaker(index), []).append(f0)
    for parts in by_speaker.values():
        assert abs(np.nanmedian(np.concatenate(parts))) < 0.02


def test_x_vectors_are_relative_to_the_mean_speaker(features):
    vectors = features.x_vectors()
    assert list(vectors) == features.speakers
    stacked = torch.stack(list(vectors.values()))
    assert stacked.shape == (len(vectors), 160)
    torch.testing.assert_close(
        stacked.mean(0), torch.zeros(160), atol=1e-4, rtol=0
    )


def test_segments_longer_than_every_utterance_are_refused(features):
    with pytest.raises(ValueError, match="no utterance has the 9999 frames"):
        features.with_length(features.train, 9999)
    assert features.with_length(features.train, 2) == list(range(8))


def test_features_of_another_corpus_are_refused(features, tmp_path):
    shutil.copy(features.folder / "mel.npy", tmp_path)
    lines = (features.folder / "pretraining.jsonl").read_text().splitlines()
    (tmp_path / "pretraining.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(ValueError, match="pretraining_data.py.*again"):
        pretraining_data.PretrainingCorpus(tmp_path)


def test_a_new_corpus_removes_what_was_derived_from_the_old(
    tmp_path, monkeypatch
):
    for name in make_pretraining_corpus.DERIVED:
        (tmp_path / name).touch()
    argv = ["make_pretraining_corpus.py", str(tmp_path), "--n_utterances=0"]
    monkeypatch.setattr(sys, "argv", argv)
    make_pretraining_corpus.main()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"wavs", "pretraining.jsonl"}


def test_missing_features_name_the_command(pretraining, tmp_path):
    root, _ = pretraining
    text = (root / "pretraining.jsonl").read_text()
    (tmp_path / "pretraining.jsonl").write_text(text)
    with pytest.raises(FileNotFoundError, match="python pretraining_data.py"):
        pretraining_data.PretrainingCorpus(tmp_path)


# --- Learning rate and weights ---------------------------------------------


def pretraining_rates(n_steps):
    """Learning rates of a pretraining, from first to after the last step."""
    brain = object.__new__(pretraining_brain.PretrainingBrain)
    brain.hparams = SimpleNamespace(n_steps=n_steps, lr=0.01)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    brain.optimizers_dict = {"first": optimizer, "second": None}
    (schedule,) = brain.lr_schedules.values()
    return [schedule(optimizer, step) for step in range(n_steps + 1)]


def test_a_training_shorter_than_the_warm_up_is_warmed_up():
    rates = pretraining_rates(4)
    assert rates[:3] == pytest.approx([0.01 / 3, 0.02 / 3, 0.01])
    assert rates[-1] == pytest.approx(0.0003)


def test_learning_rate_rises_then_falls():
    rates = pretraining_rates(1000)
    assert np.argmax(rates) in (99, 100) and max(rates) == pytest.approx(0.01)
    assert (np.diff(rates[:100]) > 0).all() and (np.diff(rates[100:]) < 0).all()
    assert rates[0] > 0 and rates[-1] == pytest.approx(0.0003)


def test_weights_are_written_as_float16(tmp_path):
    state = {
        "weight": torch.randn(3, 4).T.requires_grad_(),
        "count": torch.tensor([70000]),
    }
    path = tmp_path / "weights.safetensors"
    pretraining_brain.save_weights(state, path)
    loaded = load_file(path)
    assert loaded["weight"].dtype == torch.float16
    assert torch.equal(loaded["weight"], state["weight"].detach().half())
    assert torch.equal(loaded["count"], state["count"])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


# --- Packing ---------------------------------------------------------------


@pytest.fixture
def results(tmp_path):
    for name in pack_backbone.FILES:
        path = tmp_path / "results" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "results"


def test_every_part_is_packed(results, tmp_path):
    size = pack_backbone.pack(results, tmp_path / "mini")
    packed = {p.name: p.read_text() for p in (tmp_path / "mini").iterdir()}
    assert packed == {Path(name).name: name for name in pack_backbone.FILES}
    assert size == sum(map(len, pack_backbone.FILES))


def test_missing_part_names_its_recipe(results, tmp_path):
    (results / "token_decoder" / "speakers.safetensors").unlink()
    with pytest.raises(
        FileNotFoundError, match="MiniESD/token_decoder/train.py"
    ):
        pack_backbone.pack(results, tmp_path / "mini")
    assert not (tmp_path / "mini").exists()


def test_too_large_a_backbone_is_not_packed(results, tmp_path, monkeypatch):
    monkeypatch.setattr(pack_backbone, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match="make a part smaller"):
        pack_backbone.pack(results, tmp_path / "mini")
    assert not (tmp_path / "mini").exists()

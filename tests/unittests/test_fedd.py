"""EmoSplice: what is in it, and what its evaluation finds."""

import csv
import hashlib
import sys
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from speechbrain_emofilm.dataio.alignments import (
    Word,
    read_alignment,
    write_alignment,
)
from speechbrain_emofilm.dataio.audio import load_audio
from speechbrain_emofilm.dataio.labels import (
    UtteranceLabels,
    WordLabel,
    read_label_textgrid,
    read_word_labels,
    write_word_labels,
)
from speechbrain_emofilm.dataio.markup import parse_markup
from speechbrain_emofilm.evaluation.judge import WordEmotionJudge
from speechbrain_emofilm.evaluation.measuring import MeasuringPool, Reading
from speechbrain_emofilm.evaluation.scores import (
    SCORES,
    intensity_monotonicity,
)
from speechbrain_emofilm.utils.files import read_json

import numpy as np
import pytest
import soundfile
import torch

RECIPE = Path(__file__).parents[2] / "recipes" / "FEDD"
RATE = 24000
WORD = 0.2  # s
EMOTIONS = ["neutral", "angry", "happy", "sad", "surprise"]
PITCH = dict(zip(EMOTIONS, (100, 200, 300, 150, 400)))
SENTENCES = {
    "train": ["We won the old game.", "He left us here now."],
    "evaluation": ["Come and see it today."],
    "test": ["The dog ran far away.", "She sang one more song."],
}


def load(name):
    """A script of the recipe under a name of its own."""
    sys.path.insert(0, str(RECIPE))
    try:
        spec = spec_from_file_location(f"fedd_{name}", RECIPE / f"{name}.py")
        module = sys.modules[spec.name] = module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(RECIPE))
    return module


joining = load("joining")
splicing = load("splicing")
bridging = load("bridging")
fedd_prepare = load("fedd_prepare")
own_set_prepare = load("own_set_prepare")
evaluate = load("evaluate")
synthesise = load("synthesise")


def read(text, emotion, seconds=WORD):
    """A reading: each word a tone whose pitch is the emotion."""
    words = text.strip(".").split()
    wav = [np.zeros(int(0.1 * RATE))]
    time = np.arange(int(seconds * RATE)) / RATE
    for word in words:
        timbre = np.random.default_rng(len(word)).uniform(0.3, 1, (8, 1))
        harmonics = np.arange(1, 9)[:, None]
        tone = timbre * np.sin(2 * np.pi * PITCH[emotion] * harmonics * time)
        wav.append(0.05 * tone.sum(0))
    wav = np.concatenate([*wav, np.zeros(int(0.1 * RATE))])
    # Without noise, all that a cross-fade adds would be unheard of.
    wav += 0.003 * np.random.default_rng(0).normal(size=len(wav))
    return wav, [
        Word(
            word,
            round(0.1 + seconds * i, 3),
            round(0.1 + seconds * (i + 1), 3),
        )
        for i, word in enumerate(words)
    ]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Two speakers, five emotions, in ESD's layout with TextGrids."""
    root = tmp_path_factory.mktemp("corpus")
    for speaker in ("0011", "0012"):
        lines, number = [], 0
        for emotion in EMOTIONS:
            for split, sentences in SENTENCES.items():
                for text in sentences:
                    number += 1
                    name = f"{speaker}_{number:06d}"
                    wav, words = read(text, emotion)
                    folder = root / speaker / emotion.capitalize() / split
                    folder.mkdir(parents=True, exist_ok=True)
                    soundfile.write(folder / f"{name}.wav", wav, RATE)
                    write_alignment(
                        root / "textgrids" / speaker / f"{name}.TextGrid",
                        words,
                        len(wav) / RATE,
                    )
                    lines.append(f"{name}\t{text}\t{emotion.capitalize()}\n")
        (root / speaker / f"{speaker}.txt").write_text("".join(lines))
    return root


def make(corpus, folder, **options):
    options = {"n_strong": 20, "n_mild": 6, **options}
    fedd_prepare.prepare_emosplice(
        corpus, folder, corpus / "textgrids", **options
    )
    return folder


@pytest.fixture(scope="module")
def splices(corpus, tmp_path_factory):
    return make(corpus, tmp_path_factory.mktemp("set"))


def labels_of(folder):
    return read_word_labels(folder / "word_labels.json", EMOTIONS)


def pitch_of(wav, word):
    middle = int((word.start + word.end) / 2 * RATE)
    return RATE / joining.pitch_period(wav[middle - 480 : middle + 480], RATE)


def digest(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in files
        if "corpus" not in p.parts
    }


# --- The set --------------------------------------------------------------


def test_the_set_has_as_many_items_as_asked(splices):
    assert len(read_json(splices / "strong.json")) == 20
    assert len(read_json(splices / "mild.json")) == 6


def test_speakers_and_ordered_pairs_take_turns(splices):
    pairs = {}
    for name, utterance in labels_of(splices).items():
        speaker, part, _ = name.split("_")
        emotions = [word.emotion for word in utterance.words]
        pairs.setdefault(part, []).append((emotions[0], emotions[-1], speaker))
    assert len({pair[:2] for pair in pairs["strong"]}) == 20
    assert {pair[:2] for pair in pairs["mild"]} == {
        ("happy", "surprise"), ("surprise", "happy"),
        ("surprise", "angry"), ("angry", "surprise"),
        ("angry", "sad"), ("sad", "angry"),
    }  # fmt: skip
    for part in pairs.values():
        counts = [pair[2] for pair in part].count("0011")
        assert abs(2 * counts - len(part)) <= 1


def test_the_truth_is_in_the_sound(splices):
    """Each word has the pitch of the emotion its label says."""
    checked = 0
    for name, utterance in labels_of(splices).items():
        wav = load_audio(splices / "wavs" / f"{name}.wav", RATE).numpy()
        for word in utterance.words:
            expected = PITCH[word.emotion]
            assert pitch_of(wav, word) == pytest.approx(expected, rel=0.03)
            checked += 1
    assert checked > 100


@pytest.fixture(scope="module")
def word_labels(corpus, tmp_path_factory):
    """The second word of each emotional reading carries nothing."""
    labels = {}
    for path in (corpus / "textgrids").rglob("*.TextGrid"):
        speaker = path.parent.name
        table = (corpus / speaker / f"{speaker}.txt").read_text()
        line = next(x for x in table.splitlines() if x.startswith(path.stem))
        emotion = line.split("\t")[2].lower()
        words = [
            WordLabel(w.text, w.start, w.end, emotion, intensity=0.8)
            for w in read_alignment(path)
        ]
        words[1] = replace(words[1], emotion="neutral", intensity=0.0)
        words[3] = replace(words[3], emotion=None)
        labels[path.stem] = UtteranceLabels(words)
    path = tmp_path_factory.mktemp("labels") / "word_labels.json"
    write_word_labels(path, labels, EMOTIONS)
    return path


def test_words_have_their_own_truth(corpus, word_labels, tmp_path):
    folder = make(corpus, tmp_path, word_labels=word_labels)
    with open(folder / "items.csv", newline="") as file:
        asked = {row["id"]: row["asked"] for row in csv.DictReader(file)}
    for name, utterance in labels_of(folder).items():
        words = utterance.words
        assert (words[1].emotion, words[1].intensity) == ("neutral", 0.0)
        assert {words[0].emotion, words[4].emotion} - {"neutral"}
        assert words[3].emotion in {w.emotion for w in words[2::2]}
        marked = parse_markup(asked[name], EMOTIONS).words[1]
        assert marked.probs[EMOTIONS.index("neutral")] == 1


def test_each_part_has_a_word_that_carries_its_emotion(corpus):
    def reading(emotion, carried):
        words = [WordLabel(str(i), 0, 1, e) for i, e in enumerate(carried)]
        return splicing.Recording("", "", "", "en", "", emotion, tuple(words))

    readings = [
        reading("happy", ["neutral", "neutral", "happy", "happy"]),
        reading("sad", ["sad", "sad", "sad", "neutral"]),
    ]
    # No sound is read: there is no cut between the words that carry.
    assert splicing.best_splice(readings, [(1,), (2,)], {}) is None
    assert splicing.best_splice(readings, [(3,)], {}) is None


def test_neutral_words_take_intensity_from_a_bridge():
    happy = WordLabel("a", 0, 1, "happy", intensity=0.9)
    sad = WordLabel("a", 0, 1, "sad", intensity=0.6)
    nothing = WordLabel("a", 0, 1, "neutral", intensity=0.0)
    both = bridging._mixed_label(happy, sad, 1 / 3)
    assert both.probs == {"happy": 0.6667, "sad": 0.3333}
    assert both.intensity == pytest.approx(0.8)
    alone = bridging._mixed_label(nothing, sad, 1 / 3)
    assert (alone.emotion, alone.probs) == ("sad", {"sad": 1.0})
    assert alone.intensity == pytest.approx(0.2)
    none = bridging._mixed_label(nothing, nothing, 1 / 3)
    assert (none.probs, none.intensity) == ({"neutral": 1.0}, 0.0)


def test_a_mild_item_has_a_neutral_bridge(splices):
    for name, utterance in labels_of(splices).items():
        emotions = [word.emotion for word in utterance.words]
        runs = list(dict.fromkeys(emotions))
        if "_mild_" in name:
            assert len(runs) == 3 and runs[1] == "neutral"
            assert 1 <= emotions.count("neutral") <= 3
        else:
            assert len(runs) == 2


@pytest.fixture(scope="module")
def bridged(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bridged")
    return make(corpus, folder, n_strong=0, interpolate_bridge=True)


def test_an_interpolated_bridge_leads_from_pitch_to_pitch(bridged):
    """By thirds of the way, on a logarithmic scale."""
    for name, utterance in labels_of(bridged).items():
        wav = load_audio(bridged / "wavs" / f"{name}.wav", RATE).numpy()
        first, last = utterance.words[0].emotion, utterance.words[-1].emotion
        bridge = [word for word in utterance.words if word.probs]
        assert len(bridge) == 2
        for share, word in zip((1 / 3, 2 / 3), bridge):
            pitch = PITCH[first] ** (1 - share) * PITCH[last] ** share
            assert pitch_of(wav, word) == pytest.approx(pitch, rel=0.05)


def test_words_of_an_interpolated_bridge_are_mixtures(bridged):
    labels = labels_of(bridged)
    with open(bridged / "items.csv", newline="") as file:
        asked = {row["id"]: row["asked"] for row in csv.DictReader(file)}
    assert len(labels) == 6
    for name, utterance in labels.items():
        words = utterance.words
        first, last = words[0].emotion, words[-1].emotion
        start = next(i for i, word in enumerate(words) if word.probs)
        assert words[start].probs == {first: 0.6667, last: 0.3333}
        assert words[start + 1].probs == {first: 0.3333, last: 0.6667}
        assert [word.emotion for word in words] == (
            [first] * (start + 1) + [last] * (4 - start)
        )
        marked = parse_markup(asked[name], EMOTIONS).words
        assert max(marked[start].probs) == pytest.approx(2 / 3, abs=0.01)
        assert marked[4].probs[EMOTIONS.index(last)] == 1


def test_level_and_duration_of_a_bridge_lie_in_between(tmp_path):
    text = "I do not know these"  # each word has a timbre of its own
    readings = []
    for emotion, gain, seconds in (
        ("happy", 4.0, 0.3), ("neutral", 1.0, 0.2), ("sad", 1.0, 0.2),
    ):  # fmt: skip
        path = tmp_path / f"{emotion}.wav"
        wav, words = read(text, "angry", seconds)  # one pitch for all
        soundfile.write(path, 0.5 * gain * wav, RATE)
        words = [WordLabel(w.text, w.start, w.end, emotion) for w in words]
        readings.append(
            splicing.Recording(
                emotion, str(path), "s", "en", text, emotion, tuple(words)
            )
        )
    _, bridge, _ = bridging.with_bridge(readings, (2, 4))
    # Of the first emotion: all, two thirds, one third and nothing.
    for word, share in zip(bridge.words[1:], (1, 2 / 3, 1 / 3, 0)):
        seconds = word.end - word.start
        assert seconds == pytest.approx(0.2 * 1.5**share, abs=0.02)
        middle = int((word.start + word.end) / 2 * RATE)
        sound = bridge.sound()[middle - 480 : middle + 480]
        neutral = readings[1].words[bridge.words.index(word)]
        middle = int((neutral.start + neutral.end) / 2 * RATE)
        plain = readings[1].sound()[middle - 480 : middle + 480]
        gain = np.sqrt((sound**2).mean() / (plain**2).mean())
        assert gain == pytest.approx(4**share, rel=0.15)


def test_manifest_labels_textgrid_and_marked_text_agree(splices):
    labels = labels_of(splices)
    with open(splices / "items.csv", newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    for part in ("strong", "mild"):
        for name, item in read_json(splices / f"{part}.json").items():
            path = item["wav"].replace("{data_root}", str(splices))
            assert len(load_audio(path, RATE)) / RATE == pytest.approx(
                item["duration"], abs=1e-3
            )
            grid = splices / "textgrids" / item["speaker"] / f"{name}.TextGrid"
            words = read_label_textgrid(grid, EMOTIONS).words
            asked = [word.emotion for word in labels[name].words]
            assert [word.emotion for word in words] == asked
            marked = parse_markup(rows[name]["asked"], EMOTIONS)
            assert marked.text == item["text"]
            assert [
                EMOTIONS[word.probs.index(1.0)] for word in marked.words
            ] == asked


def test_the_same_seed_gives_the_same_bytes(corpus, splices, tmp_path):
    assert digest(make(corpus, tmp_path)) == digest(splices)


def test_another_seed_chooses_other_sentences(corpus, tmp_path, monkeypatch):
    # Of more, the one with the best joins is taken, whatever the seed.
    monkeypatch.setattr(fedd_prepare, "MOST_TRIALS", 1)
    one = make(corpus, tmp_path / "one", n_mild=0, seed=1)
    other = make(corpus, tmp_path / "other", n_mild=0, seed=2)
    assert labels_of(one) != labels_of(other)


def test_nothing_is_done_twice(corpus, tmp_path):
    folder = make(corpus, tmp_path, n_strong=2, n_mild=0)
    (folder / "joins.csv").unlink()
    make(corpus, tmp_path, n_strong=2, n_mild=0)
    assert not (folder / "joins.csv").exists()
    make(corpus, tmp_path, n_strong=3, n_mild=0)
    assert len(read_json(folder / "strong.json")) == 3


def test_join_quality_stands_beside_natural_boundaries(splices):
    quality = read_json(splices / "join_quality.json")
    assert set(quality) == {"spectral_jump", "f0_jump", "level_jump"}
    assert quality["level_jump"]["joins"] == 20 + 2 * 6
    assert quality["level_jump"]["natural_boundaries"] > 1
    with open(splices / "joins.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 32
    assert {"id", "word", "time", "before", "after"} <= rows[0].keys()


def test_too_many_items_are_refused(corpus, tmp_path):
    with pytest.raises(ValueError, match="no further sentence.*ask for fewer"):
        make(corpus, tmp_path, n_strong=100, n_mild=0)


def test_a_corpus_without_alignments_is_refused(corpus, tmp_path):
    with pytest.raises(ValueError, match="none of its utterances.*Align"):
        fedd_prepare.prepare_emosplice(
            corpus, tmp_path / "set", tmp_path / "nowhere", 2, 0
        )


def test_a_wrong_alignment_leaves_that_reading_out(corpus, tmp_path):
    grids = tmp_path / "textgrids"
    for path in (corpus / "textgrids").rglob("*.TextGrid"):
        target = grids / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    wrong = sorted((grids / "0011").iterdir())[3]  # of the test split
    write_alignment(wrong, [Word("other", 0.1, 0.5)], 1.0)
    fedd_prepare.prepare_emosplice(corpus, tmp_path / "set", grids, 4, 0)
    skipped = read_json(tmp_path / "set" / "skipped.json")
    assert skipped.keys() == {wrong.stem} and "other" in skipped[wrong.stem]
    with pytest.raises(ValueError, match="more than max_bad_share = 0.01"):
        fedd_prepare.prepare_emosplice(
            corpus, tmp_path / "strict", grids, 4, 0, max_bad_share=0.01
        )


def test_emotions_without_neighbours_make_no_mild_items(corpus, tmp_path):
    with pytest.raises(ValueError, match="need neighbours"):
        make(
            corpus,
            tmp_path,
            valence_arousal={"happy": (1, 0), "sad": (-1, 0)},
        )
    with pytest.raises(ValueError, match="which the taxonomy lacks"):
        make(corpus, tmp_path, valence_arousal={"bored": (0, -1)})


# --- One's own set --------------------------------------------------------


def write_list(folder, *rows):
    with open(folder / "list.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "wav", "speaker", "text"])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "list.csv"


@pytest.fixture
def own(tmp_path):
    wav, words = read("We won again", "happy")
    soundfile.write(tmp_path / "a.wav", wav, RATE)
    write_alignment(tmp_path / "grids" / "s1" / "a.TextGrid", words, 1.0)
    return {
        "id": "a",
        "wav": "a.wav",
        "speaker": "s1",
        "text": "<happy intensity=0.5>We won</> <sad>again!</>",
    }


def test_an_own_set_is_read(tmp_path, own):
    own_set_prepare.prepare_own_set(
        write_list(tmp_path, own),
        tmp_path / "set",
        EMOTIONS,
        tmp_path / "grids",
    )
    words = labels_of(tmp_path / "set")["a"].words
    assert [word.emotion for word in words] == ["happy", "happy", "sad"]
    assert [word.intensity for word in words] == [0.5, 0.5, None]
    assert words[1].start == pytest.approx(0.3)
    item = read_json(tmp_path / "set" / "own.json")["a"]
    assert item["text"] == "We won again!" and item["emotion"] is None
    assert (
        "<happy intensity=0.5>We won</>"
        in (tmp_path / "set" / "items.csv").read_text()
    )


def test_mixtures_of_an_own_set_are_kept(tmp_path, own):
    own["text"] = "<happy=0.7 sad=0.3>We won</> <sad>again!</>"
    own_set_prepare.prepare_own_set(
        write_list(tmp_path, own),
        tmp_path / "set",
        EMOTIONS,
        tmp_path / "grids",
    )
    assert own["text"] in (tmp_path / "set" / "items.csv").read_text()


def test_an_own_set_can_be_aligned(tmp_path, own):
    own_set_prepare.prepare_own_set(
        write_list(tmp_path, own),
        tmp_path / "set",
        EMOTIONS,
        make_aligner=EvenAligner,
    )
    assert len(labels_of(tmp_path / "set")["a"].words) == 3


@pytest.mark.parametrize(
    "change, message",
    [
        ({"text": "<furious>We won again</>"}, "line 2, text: .*furious"),
        ({"text": "<sad>We lost</>"}, "a: word 1|line 2: word"),
        ({"wav": "b.wav"}, "b.wav: no such audio file"),
        ({"speaker": ""}, "line 2: speaker is missing"),
        ({"id": "c"}, "Utterance c has no alignment"),
    ],
)
def test_a_bad_entry_is_named(tmp_path, own, change, message):
    listing = write_list(tmp_path, {**own, **change})
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        own_set_prepare.prepare_own_set(
            listing, tmp_path / "set", EMOTIONS, tmp_path / "grids"
        )
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    "header, row",
    [
        ("id,wav,speaker,text", "a,a.wav,s1,We won, again!"),
        ("id,wav,speaker,text,language", "a,a.wav,s1,We won, again!"),
        ("id,wav,speaker,text,language", "a,a.wav,s1,We won, again!,en"),
    ],
)
def test_a_text_cut_by_its_comma_is_refused(tmp_path, own, header, row):
    listing = tmp_path / "list.csv"
    listing.write_text(f"{header}\n{row}\n")
    options = (tmp_path / "set", EMOTIONS, None, EvenAligner)
    with pytest.raises(ValueError, match="line 2: .*quote a text with commas"):
        own_set_prepare.prepare_own_set(listing, *options)
    language = ",en" if "language" in header else ""
    listing.write_text(f'{header}\na,a.wav,s1,"We won, again!"{language}\n')
    own_set_prepare.prepare_own_set(listing, *options)
    item = read_json(tmp_path / "set" / "own.json")["a"]
    assert item["text"] == "We won, again!"


def test_empty_lists_doubles_and_unaligned_items_are_refused(tmp_path, own):
    with pytest.raises(ValueError, match="the list is empty"):
        own_set_prepare.prepare_own_set(write_list(tmp_path), tmp_path / "set")
    with pytest.raises(ValueError, match="line 3: a occurs twice"):
        own_set_prepare.prepare_own_set(
            write_list(tmp_path, own, own), tmp_path / "set", EMOTIONS,
            tmp_path / "grids",
        )  # fmt: skip
    with pytest.raises(ValueError, match="words have no times"):
        own_set_prepare.prepare_own_set(
            write_list(tmp_path, own), tmp_path / "set", EMOTIONS
        )
    with pytest.raises(FileNotFoundError, match="no such file"):
        own_set_prepare.prepare_own_set(tmp_path / "no.csv", tmp_path / "set")


# --- The evaluation -------------------------------------------------------


class EvenAligner:
    """Knows that all words last equally long."""

    def align(self, wav, sample_rate, text):
        words = text.strip(".!").split()
        seconds = len(wav) / sample_rate - 0.2
        if abs(seconds - WORD * len(words)) > 0.1:
            raise ValueError("other words")
        return [
            Word(word, 0.1 + WORD * i, 0.1 + WORD * (i + 1))
            for i, word in enumerate(words)
        ]


class Spectrum(torch.nn.Module):
    """Log magnitudes below 2 kHz, 50 frames a second."""

    sample_rate, frame_rate, frame_offset = 16000, 50.0, 0.01
    speaker_normalization = True

    def forward(self, wavs, lens):
        frames = wavs.unfold(1, 320, 320)
        return torch.fft.rfft(frames).abs()[..., 1:40].add(1e-3).log(), lens


class Recogniser:
    """Understands everything as the same words."""

    def transcribe(self, wavs, sample_rate):
        return ["the dog ran far away"] * len(wavs)


def hparams_of(corpus, splices, output, systems, **measuring_tools):
    return {
        "data_folder": str(corpus),
        "alignment_folder": corpus / "textgrids",
        "set_folder": splices,
        "manifests": [splices / "strong.json", splices / "mild.json"],
        "word_labels": splices / "word_labels.json",
        "emotions": EMOTIONS,
        "classifier_manifest": splices / "corpus" / "train.json",
        "reading_manifest": splices / "corpus" / "test.json",
        "n_classifier": 20,
        "window": 0.1,
        "corpus_word_labels": None,
        "output_folder": output,
        "systems": systems,
        "topline": "copy",
        "floor": "monotone",
        "intensity_folders": {},
        "scores": list(SCORES),
        "workers": 1,
        "measuring_tools": {
            "emotion_features": Spectrum,
            "aligner": EvenAligner,
            "asr": Recogniser,
            **measuring_tools,
        },
    }


def write_monotone(splices, folder):
    """A system that speaks everything in the neutral voice."""
    folder.mkdir()
    for part in ("strong", "mild"):
        for name, item in read_json(splices / f"{part}.json").items():
            wav, _ = read(item["text"], "neutral")
            soundfile.write(folder / f"{name}.wav", wav, RATE)
    return folder


@pytest.fixture(scope="module")
def evaluated(corpus, splices, tmp_path_factory):
    output = tmp_path_factory.mktemp("evaluation")
    systems = {
        "copy": splices / "wavs",
        "monotone": write_monotone(splices, output / "monotone"),
        "again": splices / "wavs",
    }
    return output, evaluate.evaluate(
        hparams_of(corpus, splices, output, systems)
    )


def test_the_reference_itself_is_perfect(evaluated):
    scores = evaluated[1]["systems"]["copy"]
    assert scores["emo_sim"]["emo_sim"] == pytest.approx(100)
    assert scores["dtw"]["cosine"]["dtw"] == pytest.approx(0, abs=1e-6)
    assert scores["f0_dtw"]["euclidean"]["dtw"] == pytest.approx(0, abs=1e-6)
    assert scores["utterance_discrimination"]["accuracy"] == 1.0
    assert scores["word_discrimination"]["accuracy"] > 0.9
    assert scores["word_emotion_accuracy"]["accuracy"] > 0.9
    assert scores["transitions"]["accuracy"] > 0.9
    assert scores["transitions"]["boundary_error_ms"]["mean"] < 30
    assert abs(scores["leakage"]["leakage"]) < 0.1
    prosody = scores["prosody"]["duration_ratio"]
    assert prosody["duration_ratio"] == pytest.approx(1)


def test_the_classifier_is_tried_on_natural_words(evaluated):
    natural = evaluated[1]["natural_words"]
    assert natural["words"] == 2 * 2 * 5 * 5  # speakers, sentences, emotions
    assert natural["accuracy"] > 0.9


@pytest.mark.slow
def test_natural_words_count_as_what_they_carry(
    corpus, splices, word_labels, tmp_path
):
    hparams = hparams_of(corpus, splices, tmp_path, {})
    hparams["corpus_word_labels"] = word_labels
    natural = evaluate.evaluate(hparams)["natural_words"]
    words = np.array(natural["confusion"]).sum(1)
    assert words.tolist() == [20 + 4 * 4, 16, 16, 16, 16]


def test_a_monotone_voice_is_seen_through(evaluated):
    systems = evaluated[1]["systems"]
    scores = systems["monotone"]
    assert scores["word_emotion_accuracy"]["accuracy"] < 0.4
    assert scores["transitions"]["accuracy"] < 0.1
    assert scores["utterance_discrimination"]["accuracy"] < 0.2
    assert scores["emo_sim"]["emo_sim"] < systems["copy"]["emo_sim"]["emo_sim"]
    assert scores["f0_dtw"]["euclidean"]["normalized"] > 1


def test_what_was_not_measured_is_said(evaluated):
    scores = evaluated[1]["systems"]["copy"]
    assert scores["mos"] is None
    assert scores["speaker_similarity"] is None
    assert 0 < scores["wer"]["wer"] < 1


def test_only_systems_in_between_are_diagnosed(evaluated):
    diagnosis = evaluated[1]["diagnosis"]
    assert set(diagnosis) == {"again"}
    assert diagnosis["again"]["failures"] == []


def test_the_table_has_a_row_for_each_score(evaluated):
    folder, result = evaluated
    text = evaluate.write_table(result, folder)
    assert "| | reference | copy | monotone | again |" in text
    assert "| Emo SIM | 100.0 [100.0, 100.0] | 100.0 " in text
    assert "Predicted MOS" not in text
    assert (folder / "scores.md").read_text() == text + "\n"
    with open(folder / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    copy = [r for r in rows if (r["score"], r["system"]) == ("Emo SIM", "copy")]
    assert float(copy[0]["value"]) == pytest.approx(100)


def test_only_chosen_scores_are_computed(corpus, splices, tmp_path):
    hparams = hparams_of(corpus, splices, tmp_path, {"copy": splices / "wavs"})
    hparams["scores"] = ["wer", "emo_sim"]
    result = evaluate.evaluate(hparams)
    assert list(result["systems"]["copy"]) == ["emo_sim", "wer"]
    hparams["scores"] = ["emosim"]
    with pytest.raises(ValueError, match="'emosim' is unknown; choose from"):
        evaluate.evaluate(hparams)


def test_there_is_a_row_for_each_utterance_word_and_transition(evaluated):
    folder, _ = evaluated
    rows = {}
    for name in ("utterances", "words", "transitions"):
        with open(folder / f"{name}.csv", newline="") as file:
            rows[name] = list(csv.DictReader(file))
    assert len(rows["utterances"]) == 4 * 26
    assert len(rows["words"]) == 4 * 26 * 5
    assert len(rows["transitions"]) == 4 * 32
    assert float(rows["utterances"][0]["emo_sim.emo_sim"]) > 99
    assert rows["words"][0]["heard"] in EMOTIONS
    assert rows["words"][0]["nearest"] == rows["words"][0]["asked"]
    assert read_json(folder / "summary.json")["systems"]["copy"]


@pytest.mark.slow
def test_silent_nan_and_unaligned_speech_is_counted(corpus, splices, tmp_path):
    folder = tmp_path / "broken"
    folder.mkdir()
    files = sorted((splices / "wavs").iterdir())
    for index, path in enumerate(files):
        wav, _ = soundfile.read(path)
        if index == 0:
            wav = 0 * wav
        if index == 1:
            wav[100] = np.nan
        if index == 2:
            wav = np.concatenate([wav, wav])
        soundfile.write(folder / path.name, wav, RATE, "FLOAT")
    result = evaluate.evaluate(
        hparams_of(corpus, splices, tmp_path, {"broken": folder})
    )
    scores = result["systems"]["broken"]
    silent, nan, unaligned = (path.stem for path in files[:3])
    assert scores["emo_sim"]["failures"].keys() == {silent, nan}
    assert scores["emo_sim"]["failures"][silent] == "silent"
    assert "NaN" in scores["emo_sim"]["failures"][nan]
    assert scores["emo_sim"]["measured"] == len(files) - 2
    lost = {silent, nan, unaligned}
    assert set(scores["word_emotion_accuracy"]["failures"]) == lost
    assert set(scores["transitions"]["failures"]) == lost
    assert scores["wer"]["utterances"] == len(files)
    assert result["systems"]["reference"]["emo_sim"]["measured"] == len(files)


def test_what_is_missing_stops_before_work(corpus, splices, tmp_path):
    folder = tmp_path / "some"
    folder.mkdir()
    hparams = hparams_of(corpus, splices, tmp_path, {"some": folder})
    del hparams["measuring_tools"]  # any measuring would fail
    with pytest.raises(FileNotFoundError, match="some: 26 of 26 .* missing"):
        evaluate.evaluate(hparams)
    hparams["systems"] = {}
    hparams["intensity_folders"] = {0.2: folder, 1: tmp_path}
    with pytest.raises(ValueError, match="some has no wav of an item"):
        evaluate.evaluate(hparams)
    wav = next((splices / "wavs").iterdir())
    (folder / wav.name).write_bytes(wav.read_bytes())
    with pytest.raises(FileNotFoundError, match="Intensity 1: 1 of 1 .* miss"):
        evaluate.evaluate(hparams)
    hparams["systems"] = {"reference": folder}
    with pytest.raises(ValueError, match="'reference' is the set itself"):
        evaluate.evaluate(hparams)


def test_of_natural_speech_only_features_are_measured(tmp_path):
    wav, _ = read("We won again", "sad")
    soundfile.write(tmp_path / "a.wav", wav, RATE)

    class Failing:
        def align(self, wav, sample_rate, text):
            raise AssertionError("nobody asked")

    tools = {"emotion_features": Spectrum, "aligner": Failing}
    pool = MeasuringPool(tools, skip_unusable=True)
    reading = Reading(str(tmp_path / "a.wav"), "We won", only=("features",))
    measured = pool.measure({"a": reading}, tmp_path)
    assert len(measured["a"].features) and measured["a"].words is None
    with pytest.raises(AssertionError, match="nobody asked"):
        pool.measure({"a": replace(reading, only=())}, tmp_path)


def test_rising_intensities_are_heard(corpus, splices, tmp_path):
    """From a neutral to an emotional pitch, in three steps."""
    items = evaluate.load_items(hparams_of(corpus, splices, tmp_path, {}))
    name = next(n for n, i in items.items() if i.emotions[-1] == "surprise")
    folders = {}
    for intensity, emotion in (
        (0.2, "neutral"),
        (0.5, "happy"),
        (1, "surprise"),
    ):
        folder = folders[intensity] = tmp_path / f"i{intensity}"
        folder.mkdir()
        wav, _ = read(items[name].text, emotion)
        soundfile.write(folder / f"{name}.wav", wav, RATE)

    class PitchJudge(WordEmotionJudge):
        def posteriors(self, vectors):
            loud = vectors > vectors.max(1, keepdim=True).values - 3
            pitch = loud.float().argmax(1).numpy() / vectors.shape[1]
            return np.repeat(pitch[:, None], len(EMOTIONS), 1)

    judge = PitchJudge(Spectrum(), EMOTIONS, 0.1)
    tools = {"emotion_features": Spectrum, "aligner": EvenAligner}
    pool = MeasuringPool(tools, skip_unusable=True)

    def share(folders):
        recordings = evaluate.find_intensities(folders, items)
        return intensity_monotonicity(
            recordings,
            items,
            evaluate.spoken_emotion,
            judge,
            pool,
            tmp_path / "m",
        ).summarize()["share"]

    assert share(folders) == 1.0
    assert share({0.2: folders[1], 0.5: folders[0.5], 1: folders[0.2]}) == 0.0


# --- Speaking -------------------------------------------------------------


def test_marked_text_is_read_for_speaking():
    asked = "<happy>We won</> <sad=0.75 happy=0.25 intensity=0>again.</>"
    row = {"asked": asked, "speaker": "s1"}
    utterance = synthesise.as_utterance("a", row, EMOTIONS)
    assert utterance.text == "We won again."
    read = parse_markup(utterance.marked_text, EMOTIONS)
    assert read == parse_markup(asked, EMOTIONS)
    assert synthesise.last_emotion(utterance) == "sad"
    whole = synthesise.whole_in(utterance, "sad", 0.2).marked_text
    assert whole == "<sad intensity=0.2>We won again.</>"


def test_a_set_or_model_that_is_not_there_is_named(splices, tmp_path):
    hparams = {"set_folder": tmp_path, "emotions": EMOTIONS}
    with pytest.raises(FileNotFoundError, match="fedd_prepare.py first"):
        synthesise.synthesise_set(hparams, "cpu")
    hparams = {**hparams, "set_folder": splices, "model_folder": "nowhere"}
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        synthesise.synthesise_set(hparams, "cpu")


def test_held_out_speakers_get_a_scale_of_their_own():
    judge = WordEmotionJudge(Spectrum(), EMOTIONS, 0.1)
    frames = torch.randn(50, 39) * 3 + 5
    assert judge.scaled(frames, "0013") is frames
    judge.learn_scales([("0013", frames)])
    scaled = judge.scaled(frames, "0013")
    assert scaled.mean().abs() < 1e-5 and abs(float(scaled.std()) - 1) < 0.1
    judge.learn_scales([("0013", 0 * frames)])  # the first one stays
    assert torch.equal(judge.scaled(frames, "0013"), scaled)


def test_training_speech_must_have_all_emotions(corpus, splices, tmp_path):
    hparams = hparams_of(corpus, splices, tmp_path, {}) | {"n_classifier": 4}
    with pytest.raises(ValueError, match="training speech has no .*surprise"):
        evaluate.evaluate(hparams)


def test_a_corpus_without_word_times_is_named(corpus, splices, tmp_path):
    hparams = hparams_of(corpus, splices, tmp_path, {})
    hparams["alignment_folder"] = tmp_path
    with pytest.raises(ValueError, match="train.json: no utterance.*Align"):
        evaluate.evaluate(hparams)

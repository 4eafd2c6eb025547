"""ESD becomes manifests: either layout, any encoding, bad items named."""

import importlib.util
import json
import os
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from speechbrain.dataio.dataset import DynamicItemDataset

ROOT = Path(__file__).parents[2]


def load_script(path):
    """Imports a script that is part of no package."""
    name = "_".join(path.relative_to(ROOT).with_suffix("").parts)
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RECIPE = ROOT / "recipes" / "ESD"
esd_prepare = load_script(RECIPE / "esd_prepare.py")
transitions_prepare = load_script(RECIPE / "transitions_prepare.py")
sys.path.insert(0, str(RECIPE))
esd_corpus = load_script(RECIPE / "esd_corpus.py")
sys.path.remove(str(RECIPE))
prepare_esd = esd_prepare.prepare_esd

EMOTIONS = {
    "Neutral": "中立",
    "Angry": "生气",
    "Happy": "快乐",
    "Sad": "伤心",
    "Surprise": "惊喜",
}
N_SENTENCES = 7
#: Split folder of each sentence in the layout that has them; not the order of
#: the numbers, so that a test sees which of both is used.
FOLDERS = ["test", "train", "train", "train", "train", "evaluation", "train"]


def write_corpus(root, speakers=("0011",), folders=None, encoding="utf-8"):
    """A corpus of silence: N_SENTENCES parallel sentences, 5 emotions."""
    wav = np.zeros(800)
    for speaker in speakers:
        mandarin = int(speaker) <= 10
        lines = []
        for block, (emotion, chinese) in enumerate(EMOTIONS.items()):
            for i in range(N_SENTENCES):
                name = f"{speaker}_{block * 350 + i + 1:06d}"
                text = f"今天是第{i}天。" if mandarin else f"It’s day {i}."
                spelled = chinese if mandarin else emotion
                lines.append(f"{name}\t{text}\t{spelled}")
                folder = root / speaker / emotion
                folder = folder / folders[i] if folders else folder
                folder.mkdir(parents=True, exist_ok=True)
                soundfile.write(folder / f"{name}.wav", wav, 16000)
        transcript = root / speaker / f"{speaker}.txt"
        transcript.write_bytes("\r\n".join(lines).encode(encoding))
    return root


def edit_line(root, number, edit, speaker="0011"):
    """Applies ``edit`` to one line of a transcript, counted from 0."""
    path = root / speaker / f"{speaker}.txt"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[number] = edit(lines[number])
    path.write_text("\n".join(lines), encoding="utf-8")


def read_manifests(save_folder):
    return {
        split: json.loads((save_folder / f"{split}.json").read_text("utf-8"))
        for split in ("train", "valid", "test")
    }


def prepare(root, **options):
    """Prepares beside the corpus; returns the manifests by split."""
    save_folder = root.parent / "save"
    prepare_esd(root, save_folder, **options)
    return read_manifests(save_folder)


def prepare_all(root, **options):
    """Like prepare; returns one manifest of all splits."""
    manifests = prepare(root, **options)
    return {name: item for m in manifests.values() for name, item in m.items()}


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "ESD")


# What the manifests hold


def test_a_manifest_entry_follows_the_contract(corpus):
    assert prepare_all(corpus)["0011_000353"] == {
        "wav": "{data_root}/0011/Angry/0011_000353.wav",
        "duration": 0.05,
        "speaker": "0011",
        "language": "en",
        "text": "It’s day 2.",
        "emotion": "angry",
    }


def test_speechbrain_reads_the_manifest_with_braces_in_a_text(corpus):
    edit_line(corpus, 3, lambda line: line.replace("day", "{data_root} {"))
    prepare(corpus)
    dataset = DynamicItemDataset.from_json(
        corpus.parent / "save" / "train.json",
        replacements={"data_root": str(corpus)},
        output_keys=["wav", "text"],
    )
    items = {item["wav"]: item["text"] for item in dataset}
    wav = str(corpus / "0011/Neutral/0011_000004.wav")
    assert items[wav] == "It’s {data_root} { 3."


def test_split_folders_decide_where_they_exist(tmp_path):
    manifests = prepare(write_corpus(tmp_path / "ESD", folders=FOLDERS))
    sentences = {
        split: {item["text"] for item in manifest.values()}
        for split, manifest in manifests.items()
    }
    assert sentences["valid"] == {"It’s day 5."}
    assert sentences["test"] == {"It’s day 0."}
    wav = manifests["valid"]["0011_000356"]["wav"]
    assert wav == "{data_root}/0011/Angry/evaluation/0011_000356.wav"


def test_a_large_flat_corpus_gets_the_official_split(tmp_path):
    benchmark = load_script(ROOT / "benchmarks" / "esd_prepare.py")
    root = tmp_path / "ESD"
    assert benchmark.write_corpus(root, n_speakers=2) == 3500
    manifests = prepare(root)
    sizes = {split: len(manifest) for split, manifest in manifests.items()}
    assert sizes == {"valid": 200, "test": 300, "train": 3000}
    angry = {
        split: [int(i[5:]) for i in manifest if 350 < int(i[5:]) <= 700]
        for split, manifest in manifests.items()
    }
    assert (min(angry["valid"]), max(angry["valid"])) == (351, 370)
    assert (min(angry["test"]), max(angry["test"])) == (371, 400)
    assert (min(angry["train"]), max(angry["train"])) == (401, 700)
    assert manifests["train"]["0019_000401"]["duration"] == 2.5


def test_the_official_split_of_a_small_corpus_keeps_the_proportions(corpus):
    manifests = prepare(corpus)
    sizes = {split: len(manifest) for split, manifest in manifests.items()}
    assert sizes == {"valid": 5, "test": 5, "train": 25}


def test_held_out_speakers_stay_out_of_training(tmp_path):
    speakers = ("0011", "0012", "0013")
    root = write_corpus(tmp_path / "ESD", speakers)
    manifests = prepare(
        root,
        split="speakers",
        valid_speakers=["0012"],
        test_speakers=["0011"],
    )
    found = {
        split: {item["speaker"] for item in manifest.values()}
        for split, manifest in manifests.items()
    }
    assert found == {"train": {"0013"}, "valid": {"0012"}, "test": {"0011"}}


def test_held_out_sentences_occur_in_one_split_only(tmp_path):
    root = write_corpus(tmp_path / "ESD", ("0010", "0011", "0012"))
    # The same sentence, written differently.
    edit_line(root, 4, lambda line: line.replace("It’s day", "it's DAY "))
    manifests = prepare(
        root,
        language="both",
        split="sentences",
        valid_sentences=2,
        test_sentences=1,
    )
    splits = {}
    for split, manifest in manifests.items():
        for item in manifest.values():
            key = esd_prepare.sentence_key(item["text"])
            splits.setdefault((item["language"], key), set()).add(split)
    assert all(len(found) == 1 for found in splits.values())
    counts = Counter((lang, *found) for (lang, _), found in splits.items())
    for language in ("en", "zh"):
        assert counts[language, "valid"] == 2
        assert counts[language, "test"] == 1
        assert counts[language, "train"] == N_SENTENCES - 3


def test_the_seed_chooses_the_held_out_sentences(corpus):
    def held_out(seed):
        options = dict(split="sentences", valid_sentences=1, test_sentences=3)
        manifest = prepare(corpus, seed=seed, **options)["test"]
        return {item["text"] for item in manifest.values()}

    assert held_out(0) == held_out(0)
    assert len({frozenset(held_out(seed)) for seed in range(5)}) > 1


# Languages, speakers, emotions


@pytest.mark.parametrize(
    "language, speakers",
    [
        ("en", {"0011"}),
        ("zh", {"0010"}),
        ("both", {"0010", "0011"}),
    ],
)
def test_the_language_chooses_the_speakers(tmp_path, language, speakers):
    root = write_corpus(tmp_path / "ESD", ("0010", "0011"))
    items = prepare_all(root, language=language).values()
    assert {item["speaker"] for item in items} == speakers


def test_speakers_left_out_by_language_are_counted(tmp_path, caplog):
    speakers = ("0001", "0009", "0011")
    root = write_corpus(tmp_path / "ESD", speakers)
    prepare(root)
    (line,) = [r.getMessage() for r in caplog.records if "left" in r.msg]
    assert "2 Mandarin speakers (0001 to 0009) are left out" in line
    assert line.endswith("language: en; set language to both to include them.")
    caplog.clear()
    prepare(root, language="zh")
    assert "1 English speakers (0011 to 0011) are left out" in caplog.text
    caplog.clear()
    prepare(root, language="both")
    prepare(root, language="both", speakers=["0011"])
    assert "left out" not in caplog.text


def test_both_languages_of_an_english_corpus_are_english(corpus, caplog):
    prepare(corpus)
    path = corpus.parent / "save" / "train.json"
    before = path.stat().st_mtime_ns
    prepare(corpus, language="both")
    assert path.stat().st_mtime_ns == before
    assert "left out" not in caplog.text


def test_mandarin_utterances_have_text_emotion_and_language(tmp_path):
    root = write_corpus(tmp_path / "ESD", ("0001",))
    item = prepare_all(root, language="zh")["0001_000352"]
    assert (item["language"], item["emotion"]) == ("zh", "angry")
    assert item["text"] == "今天是第1天。"


def test_speakers_and_emotions_can_be_chosen(tmp_path):
    root = write_corpus(tmp_path / "ESD", ("0011", "0012"))
    items = prepare_all(root, speakers=["0012"], emotions=["sad", "happy"])
    assert {item["speaker"] for item in items.values()} == {"0012"}
    assert {item["emotion"] for item in items.values()} == {"sad", "happy"}


def test_a_new_emotion_can_be_named(corpus):
    (corpus / "0011" / "Sad").rename(corpus / "0011" / "Gloomy")
    for number in range(3 * N_SENTENCES, 4 * N_SENTENCES):
        edit_line(corpus, number, lambda line: line.replace("Sad", "Gloomy"))
    items = prepare_all(corpus, emotion_words={"Gloomy": "gloom"})
    assert items["0011_001051"]["emotion"] == "gloom"


# Transcripts


@pytest.mark.parametrize("speaker", ["0001", "0011"])
@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "gb18030"],
)
def test_transcripts_may_have_any_usual_encoding(tmp_path, speaker, encoding):
    root = write_corpus(tmp_path / "ESD", (speaker,), encoding=encoding)
    items = prepare_all(root, language="both")
    expected = "今天是第3天。" if speaker == "0001" else "It’s day 3."
    assert items[f"{speaker}_000004"]["text"] == expected


def test_english_transcripts_may_be_windows_1252(tmp_path):
    root = write_corpus(tmp_path / "ESD", encoding="cp1252")
    assert prepare_all(root)["0011_000004"]["text"] == "It’s day 3."


@pytest.mark.parametrize("separator", ["\t", " "])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "gb18030"])
def test_english_transcripts_may_name_emotions_in_chinese(
    tmp_path, encoding, separator
):
    root = write_corpus(tmp_path / "ESD")
    transcript = root / "0011" / "0011.txt"
    text = transcript.read_text(encoding="utf-8")
    for emotion, chinese in EMOTIONS.items():
        text = text.replace(f"\t{emotion}", f"{separator}{chinese}")
    transcript.write_bytes(text.encode(encoding))
    item = prepare_all(root, max_bad_share=0)["0011_000004"]
    assert (item["text"], item["emotion"]) == ("It’s day 3.", "neutral")


@pytest.mark.parametrize(
    "edit",
    [
        lambda line: line.rsplit("\t", 1)[0],
        lambda line: line.replace(".\t", "."),
        lambda line: line.replace("\t", " "),
        lambda line: line.replace("\t", "\t\t"),
        lambda line: line.replace("day", "\u3000 day"),
        lambda line: line + "\n",
    ],
    ids=[
        "no emotion",
        "no second tab",
        "no tabs",
        "double tabs",
        "odd spaces",
        "empty line behind",
    ],
)
def test_irregular_lines_of_the_corpus_are_understood(corpus, edit):
    edit_line(corpus, 9, edit)
    item = prepare_all(corpus, max_bad_share=0)["0011_000353"]
    assert (item["text"], item["emotion"]) == ("It’s day 2.", "angry")


@pytest.mark.parametrize(
    "edit",
    [
        lambda line: line.replace("\t", ".wav\t", 1),
        lambda line: line.replace("\t", ".WAV ", 1),
        lambda line: line.replace("\t", "|"),
        lambda line: line.replace("\t", " | "),
        lambda line: line.replace("\t", ","),
        lambda line: line.replace("\t", ";"),
        lambda line: line.replace("\t", ".wav,", 1),
    ],
)
def test_endings_of_ids_and_other_separators_are_not_spoken(corpus, edit):
    edit_line(corpus, 9, edit)
    item = prepare_all(corpus, max_bad_share=0)["0011_000353"]
    assert (item["text"], item["emotion"]) == ("It’s day 2.", "angry")


@pytest.mark.parametrize(
    "text, kept", [("Well, day 2.", "Well, day 2."), ('"So, 2."', "So, 2.")]
)
def test_a_text_keeps_its_commas_between_commas(corpus, text, kept):
    edit_line(corpus, 9, lambda line: f"0011_000353,{text},Angry")
    assert prepare_all(corpus, max_bad_share=0)["0011_000353"]["text"] == kept


@pytest.mark.parametrize(
    "line",
    [
        "0011_000353,Well, day 2.",
        "0011_000353,It’s day 2.,Angri",
        "0011_000353|It’s day 2.|Angri",
        "0011_000353\tIt’s day 2.|Angry",
        "0011_000353.flac\tIt’s day 2.\tAngry",
    ],
)
def test_unclear_columns_are_refused_by_line(corpus, line):
    edit_line(corpus, 9, lambda _: line)
    with pytest.raises(ValueError, match="line 10: the columns are unclear"):
        prepare(corpus)


# What is done again, and what is left alone


def modification_times(save_folder):
    return {p.name: p.stat().st_mtime_ns for p in save_folder.iterdir()}


def test_an_unchanged_corpus_is_not_prepared_again(corpus):
    save_folder = corpus.parent / "save"
    prepare_esd(corpus, save_folder)
    before = modification_times(save_folder)
    prepare_esd(corpus, save_folder)
    assert modification_times(save_folder) == before


def test_other_options_prepare_again(corpus):
    assert len(prepare_all(corpus)) == 35
    assert len(prepare_all(corpus, emotions=["sad"])) == 7
    assert len(prepare_all(corpus)) == 35


def test_a_changed_transcript_prepares_again(corpus):
    prepare(corpus)
    edit_line(corpus, 0, lambda line: line.replace("day 0", "the day"))
    assert prepare_all(corpus)["0011_000001"]["text"] == "It’s the day."


def test_a_replaced_wav_prepares_again(corpus):
    prepare(corpus)
    wav = corpus / "0011" / "Neutral" / "0011_000001.wav"
    soundfile.write(wav, np.zeros(1600), 16000)
    assert prepare_all(corpus)["0011_000001"]["duration"] == 0.1


def test_a_deleted_manifest_is_made_again(corpus):
    prepare(corpus)
    (corpus.parent / "save" / "valid.json").unlink()
    assert prepare(corpus)["valid"]


def test_an_interrupted_preparation_is_not_taken_for_done(corpus, monkeypatch):
    prepare(corpus)

    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(esd_prepare, "_write_manifests", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(corpus, emotions=["sad"])
    before = modification_times(corpus.parent / "save")
    prepare(corpus)
    after = modification_times(corpus.parent / "save")
    assert before["train.json"] != after["train.json"]


def test_skip_prep_does_nothing(tmp_path):
    prepare_esd(tmp_path / "absent", tmp_path / "save", skip_prep=True)
    assert not (tmp_path / "save").exists()


def test_the_corpus_folder_is_only_read(corpus):
    def listing():
        return {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}

    before = listing()
    prepare(corpus)
    assert listing() == before
    with pytest.raises(ValueError, match="is inside the corpus"):
        prepare_esd(corpus, corpus / "0011" / "save")
    assert listing() == before


def test_hidden_files_are_ignored(corpus):
    (corpus / "0011" / "Angry" / "._0011_000351.wav").write_bytes(b"\0")
    (corpus / ".DS_Store").touch()
    assert len(prepare_all(corpus)) == 35


# Folders that cannot be used


def test_a_missing_corpus_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="data_folder .*absent: no su"):
        prepare(tmp_path / "absent")


def test_an_empty_corpus_is_named(tmp_path):
    (tmp_path / "ESD").mkdir()
    with pytest.raises(ValueError, match="ESD: empty; give the folder"):
        prepare(tmp_path / "ESD")


def test_a_folder_above_the_corpus_is_corrected(tmp_path):
    write_corpus(tmp_path / "download" / "ESD")
    with pytest.raises(ValueError, match="but in .*ESD; give that folder"):
        prepare(tmp_path / "download")


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "ESD" / "wavs").mkdir(parents=True)
    with pytest.raises(ValueError, match="no speaker folders; give"):
        prepare(tmp_path / "ESD")


@pytest.mark.parametrize(
    "place", ["0011", "0011/Bored", "0011/Angry/dev", "0011/Angry/train/more"]
)
def test_wavs_outside_of_the_layout_are_refused(corpus, place):
    wav = corpus / place / "0011_000999.wav"
    wav.parent.mkdir(parents=True, exist_ok=True)
    wav.touch()
    with pytest.raises(ValueError, match="0011_000999.wav: not in ESD's layou"):
        prepare(corpus)


def test_a_speaker_without_wavs_is_refused(tmp_path):
    (tmp_path / "ESD" / "0011" / "Angry").mkdir(parents=True)
    with pytest.raises(ValueError, match="0011: no wav files; expected"):
        prepare(tmp_path / "ESD")


def test_an_utterance_in_two_places_is_refused(corpus):
    wav = corpus / "0011" / "Angry" / "train" / "0011_000351.wav"
    wav.parent.mkdir()
    wav.touch()
    with pytest.raises(ValueError, match="0011_000351 is also at .*keep one"):
        prepare(corpus)


# Transcripts that cannot be used


def test_a_missing_transcript_is_named(corpus):
    (corpus / "0011" / "0011.txt").unlink()
    with pytest.raises(FileNotFoundError, match="0011.txt: the transcript of"):
        prepare(corpus)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"])
def test_an_unreadable_transcript_is_named(corpus, content):
    (corpus / "0011" / "0011.txt").write_bytes(content)
    with pytest.raises(ValueError, match="0011.txt: unreadable, .*UTF-8"):
        prepare(corpus)


def test_the_transcript_of_another_speaker_is_named(tmp_path):
    root = write_corpus(tmp_path / "ESD", ("0011", "0012"))
    text = (root / "0012" / "0012.txt").read_bytes()
    (root / "0011" / "0011.txt").write_bytes(text)
    with pytest.raises(ValueError, match="speaker 0012, not 0011; copy"):
        prepare(root)


# Single items that cannot be used: skipped, listed, refused if too many


def replace_text(text):
    return lambda line: line.replace("It’s day 2.", text)


@pytest.mark.parametrize(
    "edit, reason",
    [
        (
            lambda line: line.replace("Angry", "Bored"),
            "unknown emotion 'Bored'",
        ),
        (lambda line: line.replace("Angry", "Sad"), "sad here and angry by"),
        (lambda line: line.replace("0011_", "0012_"), "no utterance id of sp"),
        (lambda line: "it got lost", "no utterance id of speaker 0011"),
        (lambda line: "", "no line of 0011_000353, whose wav exists"),
        (replace_text("..."), "no text"),
        (replace_text("It\ufffds day 2."), "unreadable characters"),
        (
            lambda line: f"{line}\n{line.replace('day', 'night')}",
            "a second text of 0011_000353",
        ),
    ],
)
def test_a_bad_line_is_named_with_file_item_and_fix(corpus, edit, reason):
    edit_line(corpus, 9, edit)
    with pytest.raises(ValueError) as error:
        prepare(corpus)
    assert reason in str(error.value)
    assert "0011.txt" in str(error.value)
    assert "0011_000353" in str(error.value) or "line 10" in str(error.value)


def truncate(wav):
    os.truncate(wav, wav.stat().st_size // 2)


def write_long(wav):
    soundfile.write(wav, np.zeros(60 * 8000), 8000)


def write_nan(wav):
    soundfile.write(wav, np.full(800, np.nan), 16000, subtype="FLOAT")


@pytest.mark.parametrize(
    "damage, reason",
    [
        (Path.unlink, "no wav file of 0011_000353"),
        (lambda wav: os.truncate(wav, 0), "the file is empty"),
        (truncate, "the file is truncated"),
        (write_long, "60.0 s is longer than max_duration = 30 s"),
        (lambda wav: wav.write_text("RIFF or not"), "not an audio file"),
        (write_nan, "NaN or infinite samples"),
    ],
    ids=["missing", "empty", "truncated", "60 s", "no audio", "NaN"],
)
def test_a_bad_wav_is_skipped_listed_and_refused(corpus, damage, reason):
    damage(corpus / "0011" / "Angry" / "0011_000353.wav")
    options = dict(check_audio=True)
    with pytest.raises(ValueError, match="1 of 35 .*max_bad_sh") as error:
        prepare(corpus, **options)
    assert reason in str(error.value)

    items = prepare_all(corpus, max_bad_share=0.05, **options)
    assert len(items) == 34 and "0011_000353" not in items
    skipped = corpus.parent / "save" / "skipped.json"
    skipped = json.loads(skipped.read_text("utf-8"))
    assert list(skipped) == ["0011_000353"]
    assert reason in skipped["0011_000353"]


def dangle(path):
    path.unlink()
    path.symlink_to("gone.wav")


def loop(path):
    path.unlink()
    path.symlink_to(path.name)


@pytest.mark.parametrize("damage", [dangle, loop])
def test_a_wav_whose_link_leads_nowhere_is_listed(corpus, damage):
    damage(corpus / "0011" / "Angry" / "0011_000353.wav")
    with pytest.raises(ValueError, match="1 of 35 .*0011_000353.wav: a link"):
        prepare(corpus)
    assert len(prepare_all(corpus, max_bad_share=0.05)) == 34


@pytest.mark.parametrize("target", ["..", "../..", "train", "gone"])
def test_a_folder_whose_link_leads_nowhere_or_back_is_listed(corpus, target):
    link = corpus / "0011" / "Angry" / "train"
    link.symlink_to(target)
    assert len(prepare_all(corpus, max_bad_share=0.05)) == 35
    skipped = corpus.parent / "save" / "skipped.json"
    skipped = json.loads(skipped.read_text("utf-8"))
    assert list(skipped) == [str(link)]
    assert "a link to" in skipped[str(link)]


def test_links_to_folders_elsewhere_are_followed(corpus):
    folder = corpus / "0011" / "Angry"
    folder.rename(corpus.parent / "elsewhere")
    folder.symlink_to(corpus.parent / "elsewhere")
    assert len(prepare_all(corpus, max_bad_share=0)) == 35


def test_a_speaker_whose_link_leads_nowhere_is_named_if_used(corpus):
    (corpus / "0012").symlink_to("gone")
    with pytest.raises(ValueError, match="0012: a link to gone"):
        prepare(corpus)
    assert len(prepare_all(corpus, speakers=["0011"])) == 35


def test_a_missing_wav_does_not_move_the_official_split(tmp_path):
    root = write_corpus(tmp_path / "ESD")
    whole = prepare(root)
    (root / "0011" / "Angry" / "0011_000351.wav").unlink()
    # Nothing of Angry is left for validation, but nothing moves there either.
    assert prepare(root, max_bad_share=0.1)["test"] == whole["test"]


def test_stereo_and_other_rates_are_accepted(corpus):
    wav = corpus / "0011" / "Angry" / "0011_000353.wav"
    soundfile.write(wav, np.zeros((4410, 2)), 44100)
    assert prepare_all(corpus)["0011_000353"]["duration"] == 0.1


# Options that cannot be used


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(language="fr"), "language: 'fr' is unknown; choose from both"),
        (dict(language="zh"), "no speaker of language 'zh', only 0011"),
        (dict(split="random"), "split: 'random' is unknown"),
        (dict(speakers=["0012"]), "speakers: '0012' is unknown"),
        (dict(speakers=[9]), "speakers: 9 is unknown.*quoted string"),
        (dict(emotions=["bored"]), "emotions: 'bored' is unknown"),
        (dict(emotions=[]), "emotions: the list is empty"),
        (dict(split="speakers"), "needs valid_speakers and test_speakers"),
        (
            dict(
                split="speakers",
                valid_speakers=["0011"],
                test_speakers=["0011"],
            ),
            "needs valid_speakers and test_speakers, different",
        ),
        (
            dict(
                split="speakers",
                valid_speakers=["0011"],
                test_speakers=["0012"],
            ),
            "test_speakers: '0012' is unknown; choose from 0011",
        ),
        (dict(split="sentences"), "leave none of the 7 sentences"),
        (dict(split="sentences", test_sentences=0), "test_sentences: 0"),
        (dict(max_bad_share=5), "max_bad_share: 5 is not a share"),
    ],
)
def test_impossible_options_are_named(corpus, options, message):
    with pytest.raises(ValueError, match=message):
        prepare(corpus, **options)


def test_an_empty_split_is_named(tmp_path):
    root = write_corpus(tmp_path / "ESD", folders=["train"] * N_SENTENCES)
    with pytest.raises(ValueError, match="split 'valid' is empty"):
        prepare(root)
    assert not (tmp_path / "save" / "train.json").exists()


# The transitions part of MiniESD


SPLITS = {
    "0011_t00001": "evaluation",
    "0011_t00002": "test",
    "0012_t00001": "train",
}


@pytest.fixture
def transitions(tmp_path):
    """The folder of a transitions part of silence."""
    folder = tmp_path / "MiniESD" / "transitions"
    for utterance in SPLITS:
        wav = folder / utterance[:4] / f"{utterance}.wav"
        wav.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(wav, np.zeros(800), 16000)
        with open(f"{wav.parent}.txt", "a", encoding="utf-8") as transcript:
            transcript.write(f"{utterance}\tIt’s {{late}}.\n")
    (folder / "splits.json").write_text(json.dumps(SPLITS))
    return folder


def prepare_transitions(folder):
    """Prepares beside the corpus; returns the folder of the manifests."""
    save_folder = folder.parents[1] / "save"
    transitions_prepare.prepare_transitions(folder.parent, save_folder)
    return save_folder


def test_transitions_become_manifests(transitions):
    save_folder = prepare_transitions(transitions)
    manifests = {
        split: json.loads(
            (save_folder / f"transitions_{split}.json").read_text()
        )
        for split in ("train", "valid", "test")
    }
    assert [list(manifest) for manifest in manifests.values()] == [
        ["0012_t00001"],
        ["0011_t00001"],
        ["0011_t00002"],
    ]
    assert manifests["train"]["0012_t00001"] == {
        "wav": "{data_root}/transitions/0012/0012_t00001.wav",
        "duration": 0.05,
        "speaker": "0012",
        "language": "en",
        "text": "It’s {{late}}.",
        "emotion": None,
    }


def write_splits(folder, splits):
    (folder / "splits.json").write_text(json.dumps(splits))


def encode_transcript(folder, encoding):
    transcript = folder / "0011.txt"
    text = transcript.read_text(encoding="utf-8")
    transcript.write_bytes(text.encode(encoding))


BAD_TRANSITIONS = {
    "no transcript": (
        lambda folder: (folder / "0011.txt").unlink(),
        ["0011.txt does not exist", "0011_t00001", "splits.json"],
    ),
    "no transcripts": (
        lambda folder: [path.unlink() for path in folder.glob("*.txt")],
        ["0011.txt does not exist", "0011_t00001", "splits.json"],
    ),
    "empty transcript": (
        lambda folder: (folder / "0011.txt").write_text(""),
        ["0011.txt has no line of 0011_t00001", "splits.json"],
    ),
    "no line": (
        lambda folder: (folder / "0011.txt").write_text(
            "0011_t00001\tIt is late.\n"
        ),
        ["0011.txt has no line of 0011_t00002", "splits.json"],
    ),
    "line without text": (
        lambda folder: (folder / "0011.txt").write_text("0011_t00001\t\n"),
        ["0011.txt, line 1: '0011_t00001"],
    ),
    "no wav": (
        lambda folder: (folder / "0012" / "0012_t00001.wav").unlink(),
        ["0012_t00001.wav: no such audio file", "check the path"],
    ),
    "no splits": (
        lambda folder: (folder / "splits.json").unlink(),
        ["splits.json: no such file"],
    ),
    "empty splits": (
        lambda folder: write_splits(folder, {}),
        ["splits.json is not a list of utterances"],
    ),
    "no split": (
        lambda folder: write_splits(
            folder, {"0011_t00001": "test", "0012_t00001": "train"}
        ),
        ["splits.json has no split of 0011_t00002", "0011.txt"],
    ),
    "unknown split": (
        lambda folder: write_splits(folder, {**SPLITS, "0011_t00002": "dev"}),
        ["splits.json", "0011_t00002 is 'dev'", "train, evaluation, test"],
    ),
    "split of another type": (
        lambda folder: write_splits(folder, {**SPLITS, "0011_t00002": []}),
        ["splits.json", r"0011_t00002 is \[\]"],
    ),
    "GB18030": (
        lambda folder: encode_transcript(folder, "gb18030"),
        ["0011.txt, line 1: b'0011_t00001", "UTF-8"],
    ),
    "UTF-16": (
        lambda folder: encode_transcript(folder, "utf-16"),
        ["0011.txt, line 1", "UTF-8"],
    ),
    "no text file": (
        lambda folder: (folder / "0011.txt").write_bytes(b"\x89PNG\r\n\0"),
        ["0011.txt, line 1", "UTF-8"],
    ),
}


@pytest.mark.parametrize(
    "damage, words", BAD_TRANSITIONS.values(), ids=BAD_TRANSITIONS
)
def test_bad_transitions_are_named_and_nothing_is_written(
    transitions, damage, words
):
    damage(transitions)
    with pytest.raises((FileNotFoundError, ValueError)) as error:
        prepare_transitions(transitions)
    assert not isinstance(error.value, UnicodeError)
    for word in (*words, "again|check the path|make the file"):
        assert re.search(word, str(error.value)), str(error.value)
    assert not (transitions.parents[1] / "save").exists()


def test_a_byte_order_mark_of_a_transcript_is_no_part_of_an_id(transitions):
    encode_transcript(transitions, "utf-8-sig")
    prepare_transitions(transitions)


def test_a_corpus_without_transitions_part_has_no_such_manifests(transitions):
    save_folder = prepare_transitions(transitions)
    hparams = {
        "manifests": {"train": "train.json"},
        "transitions_manifests": {
            split: str(save_folder / f"transitions_{split}.json")
            for split in ("train", "valid", "test")
        },
    }
    assert esd_corpus.corpus_manifests(hparams) == [
        "train.json",
        *hparams["transitions_manifests"].values(),
    ]
    assert esd_corpus.corpus_manifests(hparams, ["train"]) == [
        "train.json",
        hparams["transitions_manifests"]["train"],
    ]
    transitions.rename(transitions.with_name("elsewhere"))
    prepare_transitions(transitions)
    assert esd_corpus.corpus_manifests(hparams) == ["train.json"]

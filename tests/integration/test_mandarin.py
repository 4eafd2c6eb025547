"""Both halves of ESD: from the corpus to labels, a model and its speech."""

import json
from collections import Counter

from speechbrain_emofilm.dataio.alignments import read_alignment
from speechbrain_emofilm.dataio.labels import read_word_labels
from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer
from speechbrain_emofilm.utils.files import read_json

import pytest
from test_word_emotion_labeling_recipe import EXTRACTOR, flags
from test_word_emotion_labeling_recipe import run as run_labeling
from tiny_cosyvoice2 import BACKBONE
from tiny_world import (
    EMOTIONS,
    MANDARIN,
    RECIPE,
    add_mandarin_speaker,
    make_corpus,
    run_script,
)

CHARACTERS = "".join(sorted({c for text in MANDARIN for c in text}))
ALIGNERS = "speechbrain_emofilm.integrations.aligner"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """An English and a Mandarin speaker."""
    root = tmp_path_factory.mktemp("both") / "esd"
    make_corpus(root)
    add_mandarin_speaker(root)
    return root


def languages(folder):
    """Number of utterances of each language in the manifests."""
    return Counter(
        item["language"]
        for split in ("train", "valid", "test")
        for item in read_json(folder / f"{split}.json").values()
    )


def test_words_of_both_languages_are_aligned_and_labelled(corpus, tmp_path):
    data = {"data_folder": corpus, "prepared_folder": tmp_path / "prepared"}
    viterbi = f"!name:{ALIGNERS}.ctc.viterbi_search"
    recogniser = f"!name:tiny_ctc.tiny_ctc [{CHARACTERS}]"
    alignments = tmp_path / "alignments"
    run_labeling(
        "align",
        "align",
        **data,
        # MFA's output, and a CTC model, which wants the words of English
        aligner=f"!name:{ALIGNERS}.mfa.MFAAligner "
        f"[english, english, {corpus}/textgrids]",
        mandarin_aligner=f"!name:{ALIGNERS}.ctc.CTCAligner "
        f"[{recogniser}, zh, 0.1, {viterbi} ]",
        alignment_folder=alignments,
        n_workers=1,
        max_bad_share=0,
    )
    assert languages(tmp_path / "prepared") == {"en": 19, "zh": 19}
    report = read_json(alignments / "alignment.json")
    assert report["aligners"]["en"]["name"].endswith("MFAAligner")
    assert report["aligners"]["zh"]["name"].endswith("CTCAligner")
    words = read_alignment(alignments / "0001" / "0001_000001.TextGrid")
    assert [word.text for word in words] == list("我们赢了")

    shared = {
        **data,
        "alignment_folder": alignments,
        "feature_cache": tmp_path / "features.hdf5",
    }
    run_labeling(
        "extract_features",
        "extract_features",
        **data,
        emotion_features=EXTRACTOR,
        feature_cache=shared["feature_cache"],
        skipped_file=tmp_path / "skipped.json",
    )
    run_labeling(
        "train",
        "train_mini",
        **shared,
        language="both",
        split="official",
        output_folder=tmp_path / "labeler",
        emotion_features=EXTRACTOR,
        feature_dim=2,
        input_dim=4,
        group_dims="[2, 2]",
        number_of_epochs=1,
    )
    for language, names in (("both", {"0001", "0011"}), ("zh", {"0001"})):
        output = tmp_path / f"labels_{language}"
        run_labeling(
            "label",
            "label",
            **shared,
            language=language,
            labeler_folder=tmp_path / "labeler",
            output_folder=output,
        )
        labels = read_word_labels(output / "word_labels.json", EMOTIONS)
        assert {name[:4] for name in labels} == names
        assert not read_json(output / "skipped.json")
        words = labels["0001_000002"].words
        assert [word.word for word in words] == list("但是他走了")


@pytest.mark.parametrize("source", ["truth", "sentence"])
def test_a_model_of_both_languages_speaks_mandarin(
    corpus, pristine_snapshot, tmp_path, source
):
    for package in ("s3tokenizer", "onnx", "onnxruntime"):
        pytest.importorskip(package)
    options = {
        "data_folder": corpus,
        "prepared_folder": tmp_path / "prepared",
        "output_folder": tmp_path / "output",
        "backbone_source": pristine_snapshot,
        "backbone": json.dumps(BACKBONE),
        "label_source": source,
        "use_tensorboard": False,
        "number_of_steps": 2,
        "emotion_dim": 8,
        # a sentence of several emotions has none to give to its words
        "max_bad_share": 0.1 if source == "sentence" else 0.0,
    }
    arguments = [*flags(options), "--device=cpu", "--noprogressbar"]
    for script in ("extract_speech_tokens", "extract_speaker_embeddings"):
        run(script, arguments)
    assert languages(tmp_path / "prepared") == {"en": 19, "zh": 19}
    brain = run("train", arguments)["brain"]
    assert brain.optimizer_step == 2
    skipped = read_json(tmp_path / "output" / "skipped.json")
    assert not [name for name in skipped if name.startswith("0001")]
    synthesizer = EmoFiLMSynthesizer.from_hparams(
        tmp_path / "output", savedir=str(tmp_path / "saved")
    )
    assert set(synthesizer.speakers) == {"0001", "0011"}
    spoken = synthesizer.synthesize("我<happy>们赢</happy>了。", speaker="0001")
    assert [word.text for word in spoken.words] == list("我们赢了")
    happy = EMOTIONS.index("happy")
    assert spoken.word_emotions[:, happy].tolist() == [0, 1, 1, 0]
    assert len(spoken.wav) == 960 * len(spoken.speech_tokens) > 0


def run(script, arguments):
    """Runs one of the scripts of emotional_tts."""
    path = RECIPE / "hparams" / "cosyvoice2.yaml"
    return run_script(f"{script}.py", arguments, path)

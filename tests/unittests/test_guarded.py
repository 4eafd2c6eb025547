"""Objects that threads, copies and processes share."""

import copy
import pickle
import threading

from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer
from speechbrain_emofilm.integrations.aligner.pocketsphinx import (
    PocketsphinxAligner,
    hibari_pronunciation,
)
from speechbrain_emofilm.utils.assets import find_file
from speechbrain_emofilm.utils.guarded import Guarded

import pytest

N_THREADS = 8
N_ROUNDS = 20
N_SYNTHESES = 3  # they take long
MARKED = [
    "<happy>We won!</happy>",
    "<sad>He left.</sad>",
    "<angry>Stop now.</angry>",
]


def in_threads(use, expected, n_rounds=N_ROUNDS):
    """Run ``use(index)`` in threads; return the results that differ."""
    wrong = []

    def run(thread):
        for turn in range(n_rounds):
            index = (thread + turn) % len(expected)
            try:
                result = use(index)
            except Exception as error:
                result = error
            if result != expected[index]:
                wrong.append(result)

    threads = [
        threading.Thread(target=run, args=(thread,))
        for thread in range(N_THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


@pytest.fixture(scope="module")
def synthesizer():
    shipped = find_file("speechbrain_emofilm/assets/mini/synthesizer.yaml")
    return EmoFiLMSynthesizer.from_hparams(shipped.parent)


def speak(synthesizer, index):
    result = synthesizer.synthesize(MARKED[index], seed=index)
    return result.words, result.wav.tolist()


def test_only_one_thread_is_inside():
    inside, most = [], []

    def use(index):
        with holder as numbers:
            inside.append(index)
            most.append(len(inside))
            numbers[index] += 1
            inside.remove(index)
        return index

    holder = Guarded(lambda: [0, 0])
    assert not in_threads(use, [0, 1])
    assert max(most) == 1
    with holder as numbers:
        assert sum(numbers) == N_THREADS * N_ROUNDS


def test_a_failed_construction_leaves_the_lock_free():
    attempts = []

    def make():
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError("broken")
        return "made"

    holder = Guarded(make)
    with pytest.raises(ValueError), holder:
        pass
    with holder as made:
        assert made == "made"


@pytest.mark.slow
def test_threads_share_an_aligner(synthesizer):
    wav = synthesizer.synthesize("The dog ran home.").wav
    aligner = PocketsphinxAligner(hibari_pronunciation, strict=False)
    # Zaphod is not in the dictionary, which the threads share.
    texts = ["the dog ran home", "the zaphod ran home", "the dog"]

    def align(index):
        return aligner.align(wav, 24000, texts[index])

    expected = [align(index) for index in range(3)]
    assert not in_threads(align, expected)
    for copied in (copy.deepcopy(aligner), pickle.loads(pickle.dumps(aligner))):
        assert copied.align(wav, 24000, texts[0]) == expected[0]


@pytest.mark.slow
def test_threads_share_a_synthesizer(synthesizer):
    expected = [speak(synthesizer, index) for index in range(len(MARKED))]
    assert not in_threads(
        lambda index: speak(synthesizer, index), expected, N_SYNTHESES
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))],
    ids=["deepcopy", "pickle"],
)
def test_a_copied_synthesizer_speaks_the_same(synthesizer, duplicate):
    expected = speak(synthesizer, 0)
    assert speak(duplicate(synthesizer), 0) == expected

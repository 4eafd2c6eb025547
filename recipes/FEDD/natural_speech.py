"""The corpus's natural speech as the evaluation uses it."""

from speechbrain_emofilm.dataio.labels import UtteranceLabels
from speechbrain_emofilm.evaluation.systems import Utterance

from fedd_prepare import read_recordings
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)


def read_sentences(
    data_folder, manifest, alignment_folder, emotions, word_labels=None
):
    """Read a manifest: (speaker, sentence) to emotion to Utterance, sorted."""
    sentences, skipped = read_recordings(
        data_folder, [manifest], alignment_folder, emotions, word_labels
    )
    reason = next(iter(skipped.values()), "it is empty.")
    if not sentences:
        raise ValueError(f"{manifest}: no utterance can be used: {reason}")
    if skipped:
        logger.warning(
            "%s: %d utterances cannot be used, the first: %s",
            manifest,
            len(skipped),
            reason,
        )
    return {
        key: {
            emotion: Utterance(
                r.id,
                r.wav,
                r.speaker,
                r.text,
                r.emotion,
                UtteranceLabels(list(r.words)),
            )
            for emotion, r in sorted(readings.items())
        }
        for key, readings in sorted(sentences.items())
    }

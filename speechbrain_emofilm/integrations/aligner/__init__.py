"""Forced aligners, which find the time of each word of a transcript.

An aligner implements ``align(wav, sample_rate, text, language) -> [Word]``
with wav (T,), where ``Word(text, start, end, confidence)`` is
:class:`~speechbrain_emofilm.dataio.alignments.Word`: one for each word of
:func:`~speechbrain_emofilm.dataio.text.split_words` of the text, in order of
time (seconds), with a confidence from 0 to 1. It raises
:class:`~speechbrain_emofilm.integrations.aligner.base.AlignmentError` where it
finds no alignment.

An aligner of whole corpora also implements ``align_corpus(utterances,
folder)``, which yields (id, words or error) for each
:class:`~speechbrain_emofilm.integrations.aligner.base.AlignmentInput`.
"""

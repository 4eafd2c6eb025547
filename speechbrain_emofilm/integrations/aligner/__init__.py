"""Forced aligners, which find the time of each word of a transcript.

:class:`~speechbrain_emofilm.integrations.aligner.base.Aligner` is the base
class. An aligner of whole corpora also implements ``align_corpus(utterances,
folder)``, which yields (id, words or error) for each
:class:`~speechbrain_emofilm.integrations.aligner.base.AlignmentInput`.
"""

"""Frame-level emotion features.

An extractor implements ``forward(wavs (B, T), lens) -> (features (B, F, D),
lens)`` with relative lengths, and has the attributes ``frame_rate`` (frames
per second), ``frame_offset`` and ``dim`` (D): frame i is centred at
``frame_offset + i / frame_rate`` seconds, as
:func:`~speechbrain_emofilm.processing.pooling.word_average_pooling` expects.
Frames of an utterance do not depend on the rest of the batch.

:class:`~speechbrain_emofilm.integrations.emotion_features.base.FrameFeatureExtractor`
is the base class; it also has the attributes that the feature cache needs.
"""

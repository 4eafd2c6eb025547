"""Training components that SpeechBrain lacks.

Authors
 * speechbrain-emofilm contributors, 2026
"""

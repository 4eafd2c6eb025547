"""What the language model reads before the text and the speech it makes."""

from dataclasses import dataclass, field

from speechbrain_emofilm.dataio.text import END_OF_INSTRUCTION
from speechbrain_emofilm.dataio.voices import Voice

import torch

#: CosyVoice2's ways to prompt the language model:
#: ``zero_shot`` with the text and the speech of the voice's recording, which
#: is continued; ``cross_lingual`` with nothing; ``instruct`` with an
#: instruction.
PROMPTING = ("zero_shot", "cross_lingual", "instruct")


@dataclass(frozen=True)
class LMPrompt:
    """Prompt of the language model.

    Arguments
    ---------
    text_ids : list of int
        Text tokens before those of the text to speak.
    speech_tokens : torch.Tensor
        Speech tokens that are continued, long, shape (P,).
    """

    text_ids: list[int] = field(default_factory=list)
    speech_tokens: torch.Tensor = field(
        default_factory=lambda: torch.zeros(0, dtype=torch.long)
    )


def make_prompt(
    text_frontend,
    prompting: str,
    speaker: str,
    voice: Voice | None = None,
    instruction: str | None = None,
) -> LMPrompt:
    """Make the prompt of one utterance.

    Arguments
    ---------
    text_frontend : object
        ``encode(text) -> TextUnits``.
    prompting : str
        One of ``PROMPTING``.
    speaker : str
        Name of the voice.
    voice : Voice, optional
        The voice; None if the model's speakers have no recordings.
    instruction : str, optional
        How to speak, for ``instruct``.

    Raises
    ------
    ValueError
        If the way to prompt is unknown, or does not fit the voice or the
        instruction.

    Example
    -------
    >>> make_prompt(None, "cross_lingual", "0011")
    LMPrompt(text_ids=[], speech_tokens=tensor([], dtype=torch.int64))
    """
    if prompting not in PROMPTING:
        raise ValueError(
            f"prompting is {prompting!r}: choose {', '.join(PROMPTING)}."
        )
    if (prompting == "instruct") != bool(instruction):
        raise ValueError(
            "An instruction and prompting='instruct' belong together: give "
            "both or neither."
        )
    if prompting == "cross_lingual":
        return LMPrompt()
    if instruction:
        # A word is needed to encode; the instruction is what comes before it.
        whole = text_frontend.encode(f"{instruction}{END_OF_INSTRUCTION}a")
        n_instruction = whole.word_of_unit.index(0)
        return LMPrompt(whole.ids[:n_instruction])
    if voice is None:
        raise ValueError(
            "The speakers of this model have no recording to continue: use "
            "prompting='cross_lingual'."
        )
    if not voice.transcript:
        raise ValueError(
            f"The voice {speaker!r} has no transcript, which zero-shot "
            "synthesis needs: make the voice again, or use "
            "prompting='cross_lingual'."
        )
    return LMPrompt(
        list(text_frontend.encode(voice.transcript).ids), voice.prompt_tokens
    )

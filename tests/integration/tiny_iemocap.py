"""A few turns in the folders and the formats of IEMOCAP's release."""

from pathlib import Path

import numpy as np
import soundfile

#: Text, category and ratings of the turns of each dialogue.
TURNS = {
    "F000": ("Excuse me.", "neu", "2.5000, 2.5000, 2.5000"),
    "M000": ("Oh, don't! [LAUGHTER] Please.", "exc", "4.0000, 5.0000, 1.0000"),
    "F001": ("Go away!", "ang", "1.5000, 4.0000, 4.0000"),
    "M001": ("I can't bear it.", "fru", "2.0000, 3.5000, 3.0000"),
    "F002": ("Who knows?", "xxx", "3.0000, 3.0000, 3.0000"),
}
WDSEG = """\t SFrm  EFrm    SegAScr Word
\t    0    51    -114089 <s>
\t   52    66     -95839 EXCUSE
\t   67    98    -115839 ME(2)
\t   99   110     -95 <sil>
\t  111   112    -1539 </s>
 Total score:     -327301
"""
SAMPLE_RATE = 16000
SECONDS = 1.216


def make_iemocap(root, turns=TURNS):
    """Writes all five sessions.

    Arguments
    ---------
    root : str or Path
        Folder to make.
    turns : dict
        Turn to its text, category and ratings.
    """
    for session in (1, 2, 3, 4, 5):
        write_dialogue(root, session, turns)


def write_dialogue(root, session, turns=TURNS):
    """Writes a dialogue with the quirks of the release.

    Arguments
    ---------
    root : str or Path
        Folder of the sessions.
    session : int
        Its number.
    turns : dict
        Turn to its text, category and ratings.
    """
    name = f"Ses{session:02d}F_impro01"
    folder = Path(root) / f"Session{session}"
    evaluation = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
    transcript = []
    for number, (turn, (text, category, rated)) in enumerate(turns.items()):
        start, end = 6.2901 + 3 * number, 8.2357 + 3 * number
        evaluation += [
            f"[{start:.4f} - {end:.4f}]\t{name}_{turn}\t{category}\t[{rated}]",
            "C-E2:\tNeutral;\t()",
            "C-F1:\tNeutral; Anger;\t(a comment)",
            "A-E3:\tval 3; act 2; dom  2;\t()",
            "",
        ]
        times = f"[{start:08.4f}-{end:08.4f}]"
        transcript.append(f"{name}_{turn} {times}: {text}")
        _write_wav(folder / "sentences" / "wav" / name / f"{name}_{turn}.wav")
    # Lines without times and of overlapping speech occur in the release.
    transcript += ["M: [BREATHING]", f"{name}_MXX0 [001.0000-002.0000]: Hm."]
    for part, lines in [
        ("EmoEvaluation", evaluation),
        ("transcriptions", transcript),
    ]:
        path = folder / "dialog" / part / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    # What a Mac leaves behind, and the folder of the single raters' files.
    evaluations = folder / "dialog" / "EmoEvaluation"
    (evaluations / f"._{name}.txt").write_bytes(b"\x00\x05")
    (evaluations / "Categorical").mkdir()
    aligned = folder / "sentences" / "ForcedAlignment" / name
    aligned.mkdir(parents=True)
    (aligned / f"{name}_F000.wdseg").write_text(WDSEG)
    (aligned / f"{name}_F001.wdseg").write_text(WDSEG)  # of other words


def _write_wav(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).normal(0, 0.1, int(SECONDS * SAMPLE_RATE))
    soundfile.write(path, noise, SAMPLE_RATE, subtype="PCM_16")

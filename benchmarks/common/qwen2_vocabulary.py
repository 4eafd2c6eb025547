"""Qwen2's vocabulary in the files of CosyVoice2's tokenizer.

The package ``dashscope`` carries the vocabulary as ranks of byte strings; the
tokenizer of a CosyVoice2 snapshot has ``vocab.json`` and ``merges.txt``.
"""

import base64
import json
from pathlib import Path

#: File of the ranks in the package ``dashscope``.
RANKS = Path("dashscope", "resources", "qwen.tiktoken")


def read_ranks(path: Path) -> dict[bytes, int]:
    """Read the tokens and their ids, one a line: base64 and rank."""
    lines = Path(path).read_bytes().splitlines()
    pairs = (line.split() for line in lines if line)
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


def find_merge(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """Find the two tokens that a token is merged from.

    They are what is left when all merges of lower rank have been made.
    """
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pairs = [a + b for a, b in zip(parts, parts[1:])]
        place = min(
            range(len(pairs)), key=lambda i: ranks.get(pairs[i], len(ranks))
        )
        parts[place : place + 2] = [pairs[place]]
    return parts[0], parts[1]


def byte_letters() -> list[str]:
    """Return the letter that stands for each byte in the tokenizer's files.

    Bytes that are visible characters stand for themselves, the others, in their
    order, for the characters from 256 on.
    """
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return [
        chr(byte if byte in visible else 256 + hidden.index(byte))
        for byte in range(256)
    ]


def write_vocabulary(folder: Path, ranks: dict[bytes, int]) -> None:
    """Write ``vocab.json`` and ``merges.txt``."""
    letters = byte_letters()

    def spell(token):
        return "".join(letters[byte] for byte in token)

    ordered = sorted(ranks, key=ranks.get)
    vocabulary = {spell(token): ranks[token] for token in ordered}
    merges = [
        " ".join(map(spell, find_merge(token, ranks)))
        for token in ordered
        if len(token) > 1
    ]
    (folder / "vocab.json").write_text(
        json.dumps(vocabulary, ensure_ascii=False, separators=(",", ":")),
        encoding="utf-8",
    )
    (folder / "merges.txt").write_text(
        "\n".join([*merges, ""]), encoding="utf-8"
    )


def check_vocabulary(
    folder: Path, ranks: dict[bytes, int], sentences: list[str]
) -> None:
    """Compare the tokenizer that the files make with ``tiktoken``."""
    import tiktoken
    from transformers import AutoTokenizer
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    reference = tiktoken.Encoding(
        "qwen2",
        pat_str=PRETOKENIZE_REGEX,
        mergeable_ranks=ranks,
        special_tokens={},
    )
    tokenizer = AutoTokenizer.from_pretrained(
        str(folder), local_files_only=True
    )
    for sentence in sentences:
        ids = tokenizer(sentence, add_special_tokens=False)["input_ids"]
        if ids != reference.encode(sentence):
            raise ValueError(f"{folder}: other tokens for {sentence!r}.")
        if tokenizer.decode(ids) != sentence:
            raise ValueError(f"{folder}: {sentence!r} cannot be read back.")

"""Sentences in English and Mandarin, for corpora and tokenizers."""

import random

#: Sentences of a corpus, by language.
SENTENCES = {
    "en": (
        "The train to the coast leaves at noon.",
        "She didn't know that we were coming.",
        "Please put the blue box on the table.",
        "Nobody told me about the new garden.",
        "It's the third time that he asked for help.",
        "They walked home along the quiet river.",
        "Give your brother half of the bread.",
        "We have seen this film before, haven't we?",
    ),
    "zh": (
        "火车中午开往海边。",
        "她不知道我们要来。",
        "请把蓝色的盒子放在桌上。",
        "没有人告诉我新花园的事。",
        "这是他第三次来帮忙了。",
        "他们沿着安静的小河走回家。",
        "把面包分一半给你弟弟。",
        "这部电影我们看过,是不是?",
    ),
}
_WORDS = {
    "en": (
        "the a we they Martha's don't I'd river quickly un-believable and but "
        "yesterday 2026 3.14 $21.50 café naïve e-mail NASA shouting it's of "
        "internationalisation through whether zoology"
    ).split(),
    "zh": (
        "我们 今天 天气 很 好 但是 他 走 了 语音 合成 情感 饕餮 二〇二六年 "
        "100 块钱 ABC 高兴 难过 惊讶 公司 怎么 可以"
    ).split(),
}
_ENDINGS = {"en": (".", "!", "?", ' "so"...', "; then"), "zh": tuple("。!?,")}


def random_sentences(n: int, seed: int = 0) -> list[str]:
    """Draw texts, in English, Mandarin and both in turns."""
    generator = random.Random(seed)
    texts = []
    for index in range(n):
        parts = []
        for language in (("en",), ("zh",), ("en", "zh"))[index % 3]:
            words = generator.choices(
                _WORDS[language], k=generator.randint(1, 14)
            )
            ending = generator.choice(_ENDINGS[language])
            parts.append((" " if language == "en" else "").join(words) + ending)
        texts.append(" ".join(parts))
    return texts

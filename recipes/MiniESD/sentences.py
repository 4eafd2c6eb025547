"""Sentences of the MiniESD corpora.

Training sentences are filled templates and lists of varied words; evaluation
and test sentences are Harvard sentences (IEEE recommended practice for speech
quality measurements, 1969), which never occur in training.
"""

import gzip
import json
import random
import re
from pathlib import Path

TEMPLATES = """
the {a} {n} {v} the {n} {d}
I think the {n} is too {a} for my {n}
my {n} and your {n} are very {a}
we {d} {v} a {a} {n} in the {n}
she wants to {v} this {n} with a {n}
did you {v} the {a} {n}
please {v} that {n} before the {n}
he said that his {n} was {a} and {a}
they will {v} their {n} and {v} the {n}
there was a {n} under the {a} {n}
it is a {a} {n} but not a {n}
what a {a} {n} on the {n}
when the {n} is {a}, you should {v}
{name} and {name} {d} {v} the {n}
our {n} has {num} {a} {n}s
you must not {v} the {n} at the {n}
how could the {n} {v} without {n}
every {n} would {v} after a {a} {n}
{name} gave me {num} {n}s from the {n}
who put the {a} {n} behind the {n}
""".strip().splitlines()
OPENINGS = (
    "well",
    "maybe",
    "honestly",
    "I know that",
    "yes",
    "look",
    "they say",
)
NUMBERS = (
    "two three four five six seven eight nine ten twelve twenty thirty fifty"
).split()

#: Emotive words that occur in the text where the voice has the mood.
MOOD_WORDS = {
    "angry": "hate furious stop enough never liar damn outrage rotten stupid",
    "happy": "wonderful great lovely happy perfect sunshine hooray delight "
    "brilliant party",
    "sad": "lonely tears sorry tired grief alone lost goodbye funeral regret",
    "surprise": "wow really amazing suddenly unbelievable what ghost magic "
    "incredible shock",
}

EVALUATION = """
Add the sum to the product of these three.
Thieves who rob friends deserve jail.
The ripe taste of cheese improves with age.
Act on these orders with great speed.
The hog crawled under the high fence.
Move the vat over the hot fire.
The bark of the pine tree was shiny and dark.
Leaves turn brown and yellow in the fall.
The pennant waved when the wind blew.
Split the log with a quick sharp blow.
Burn peat after the logs give out.
He ordered peach pie with ice cream.
Weave the carpet on the right hand side.
Hemp is a weed found in parts of the tropics.
A lame back kept his score low.
""".strip().splitlines()

TEST = """
The birch canoe slid on the smooth planks.
Glue the sheet to the dark blue background.
It is easy to tell the depth of a well.
These days a chicken leg is a rare dish.
Rice is often served in round bowls.
The juice of lemons makes fine punch.
The box was thrown beside the parked truck.
Four hours of steady work faced us.
A large size in stockings is hard to sell.
The boy was there when the sun rose.
A rod is used to catch pink salmon.
The source of the huge river is the clear spring.
Kick the ball straight and follow through.
Help the woman get back to her feet.
A pot of tea helps to pass the evening.
The soft cushion broke the man's fall.
The salt breeze came across from the sea.
The girl at the booth sold fifty bonds.
The small pup gnawed a hole in the sock.
The fish twisted and turned on the bent hook.
Press the pants and sew a button on the vest.
The swan dive was far short of perfect.
The beauty of the view stunned the young boy.
Two blue fish swam in the tank.
Her purse was full of useless trash.
The colt reared and threw the tall rider.
It snowed and rained the same morning.
Read verse out loud for pleasure.
Hoist the load to your left shoulder.
Take the winding path to reach the lake.
Note closely the size of the gas tank.
Wipe the grease off his dirty face.
Mend the coat before you go out.
The wrist was badly strained and hung limp.
The stray cat gave birth to kittens.
The young girl gave no clear response.
The meal was cooked before the bell rang.
What joy there is in living.
A king ruled the state in the early days.
The ship was torn apart on the sharp reef.
""".strip().splitlines()


def plain_words(text: str) -> list[str]:
    """Return the lower-case words of a text, without punctuation."""
    return re.findall(r"[a-z']+", text.lower())


def spoken_words(text: str) -> list[str]:
    """Return a sentence's words as the voice takes them, commas included."""
    first, *others = text.rstrip(".").split()
    return [first if first == "I" else first.lower(), *others]


class SentenceMaker:
    """Draw phonetically varied English sentences, except held-out ones.

    Half of them are filled templates, the others random words from a short
    list and from hibari's pronunciation lexicon.

    Example
    -------
    >>> make = SentenceMaker(seed=1)
    >>> text = make()
    >>> text[0].isupper() and text.endswith(".")
    True
    """

    def __init__(self, seed: int, min_words: int = 4, max_words: int = 12):
        import hibari
        from faker import Faker
        from faker.providers.lorem.en_US import Provider

        self.rng = random.Random(seed)
        self.min_words, self.max_words = min_words, max_words
        self._held_out = {
            " ".join(plain_words(text)) for text in EVALUATION + TEST
        }
        self._lists = {
            key: [word for word in words if re.fullmatch("[a-z]+", word)]
            for key, words in Provider.parts_of_speech.items()
        }
        faker = Faker("en_US")
        faker.seed_instance(0)
        self._names = sorted({faker.first_name() for _ in range(400)})
        self._common = [w for w in Provider.word_list if w.isalpha()]
        lexicon = Path(hibari.__file__).parent / (
            "assets/lexicon_us_gold.json.gz"
        )
        with gzip.open(lexicon, "rt", encoding="utf-8") as file:
            self._lexicon = sorted(
                w for w in json.load(file) if re.fullmatch("[a-z]{3,10}", w)
            )

    def __call__(self) -> str:
        """Draw a sentence that ends with a full stop."""
        while True:
            text = self._draw()
            words = plain_words(text)
            fits = self.min_words <= len(words) <= self.max_words
            if fits and " ".join(words) not in self._held_out:
                return text[0].upper() + text[1:] + "."

    def _draw(self) -> str:
        rng = self.rng
        kind = rng.random()
        if kind < 0.25:
            return " ".join(
                rng.choice(
                    self._lexicon if rng.random() < 0.6 else self._common
                )
                for _ in range(rng.randint(4, 8))
            )
        if kind < 0.5:
            n_words = rng.randint(4, 10)
            return " ".join(rng.choice(self._common) for _ in range(n_words))
        text = re.sub(r"\{(\w+)\}", self._fill, rng.choice(TEMPLATES))
        if rng.random() < 0.2:
            text = f"{rng.choice(OPENINGS)}, {text}"
        return text

    def _fill(self, match) -> str:
        slot = match.group(1)
        if slot == "name":
            return self.rng.choice(self._names)
        if slot == "num":
            return self.rng.choice(NUMBERS)
        names = {"n": "noun", "v": "verb", "a": "adjective", "d": "adverb"}
        return self.rng.choice(self._lists[names[slot]])

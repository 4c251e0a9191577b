"""Conversations for `lmx-demo`, drawn from dialogues.toml: endless, and the same for the same seed."""

import random
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from training.patterns import Pattern, parse

DATA: Final = Path(__file__).with_name("dialogues.toml")
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
_SYLLABLES: Final = (
    "ba",
    "cor",
    "del",
    "fi",
    "gru",
    "hax",
    "jo",
    "kel",
    "lum",
    "mor",
    "nax",
    "pli",
    "qua",
    "ros",
    "sti",
    "tur",
    "vex",
    "wil",
    "yon",
    "zet",
)
_TURNS: Final = ((2, 2), (3, 4), (5, 8), (9, 16))
_TURNS_SHARES: Final = (0.45, 0.3, 0.15, 0.1)
_OTHERWISE: Final = 0.3
_CONTRACTIONS: Final = (
    ("what is", "what's"),
    ("what is", "whats"),
    ("do not", "don't"),
    ("does not", "doesn't"),
    ("is not", "isn't"),
    ("i am", "i'm"),
    ("how do i", "how do u"),
    ("i have", "i've"),
    ("it is", "it's"),
    ("can not", "cannot"),
    ("you", "u"),
)
_DROPPED: Final = frozenset({"the", "a", "an", "do", "i", "is", "of", "to", "my", "me", "can", "does", "it"})


@dataclass(frozen=True)
class Topic:
    """What is asked and what is answered; `more` and `how` answer follow-ups."""

    id: str
    ask: tuple[Pattern, ...]
    names: tuple[str, ...]
    answer: str
    more: str
    how: str


@dataclass(frozen=True)
class Turn:
    """One question and its answer; `topic` is what it is about, `kind` is ask, or more or how for a follow-up."""

    question: str
    answer: str
    topic: str
    kind: str = "ask"


@dataclass(frozen=True)
class Conversation:
    """Turns in order, behind a system prompt or none."""

    turns: tuple[Turn, ...]
    system: str | None = None


UNRELATED: Final = "unrelated"


class Dialogues:
    """The data file, read and ready to draw from.

    Raises:
        ValueError, KeyError: the file is not what its head says.
    """

    def __init__(self, path: Path = DATA) -> None:
        data: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
        self.topics = [
            Topic(t["id"], _parsed(t["ask"]), tuple(t.get("names", ())), t["answer"], t["more"], t["how"])
            for t in data["topic"]
        ]
        if len({topic.id for topic in self.topics}) != len(self.topics):
            raise ValueError(f"{path}: two topics have the same id")
        away = data["unrelated"]
        self.unrelated = Topic(UNRELATED, _parsed(away["ask"]), (), away["answer"], away["more"], away["how"])
        self.words: dict[str, list[str]] = away["words"]
        self.frames = _parsed(data["concepts"]["frames"])
        follow = data["follow_ups"]
        self.more, self.how = _parsed(follow["more"]), _parsed(follow["how"])
        self.nothing_before: str = follow["nothing_before"]
        self.no_more: str = follow["no_more"]
        self.openings: list[str] = data["variation"]["openings"]
        self.endings: list[str] = data["variation"]["endings"]
        self.synonyms = [
            (re.compile(r"\b(?:" + "|".join(map(re.escape, sorted(group, key=len, reverse=True))) + r")\b"), group)
            for group in data["variation"]["synonyms"]
        ]
        self.fillers: list[str] = data["variation"]["fillers"].split()
        self.systems: list[str] = data["system"]["prompts"]

    def answers(self) -> dict[str, list[str]]:
        """Every answer that can be given, by topic id; the first of each is the one to its questions."""
        known = {topic.id: [topic.answer, topic.more, topic.how] for topic in [*self.topics, self.unrelated]}
        return known | {"nothing-before": [self.nothing_before], "no-more": [self.no_more]}

    def subjects(self) -> list[str]:
        """What a question alone can be about: each topic, anything else, or what was said before."""
        return [*(topic.id for topic in self.topics), UNRELATED, "more", "how"]

    def replies(self) -> list[tuple[str, str]]:
        """(topic, kind) of everything that can be answered."""
        every = [(topic, kind) for topic in self.subjects()[:-2] for kind in ("ask", "more", "how")]
        return [*every, *((topic, kind) for topic in ("nothing-before", "no-more") for kind in ("more", "how"))]

    def plain_questions(self, limit: int = 400) -> Iterator[tuple[str, str]]:
        """(topic id, phrasing) for all patterns as they stand in the file, up to `limit` of each pattern."""
        rng = random.Random(0)
        for topic in self.topics:
            for pattern in topic.ask:
                if pattern.count() <= limit:
                    yield from ((topic.id, text) for text in pattern.all())
                else:
                    yield from ((topic.id, pattern.draw(rng)) for _ in range(limit))
            for frame in self.frames:
                yield from ((topic.id, text.format(name=name)) for text in frame.all() for name in topic.names)


def conversations(dialogues: Dialogues, seed: int, lone: float) -> Iterator[Conversation]:
    """Conversations without end.

    `lone` is the share of those with a single turn; the others are mostly short, and one in ten has up to sixteen.
    """
    rng = random.Random(seed)
    while True:
        length = 1 if rng.random() < lone else rng.randint(*rng.choices(_TURNS, _TURNS_SHARES)[0])
        yield Conversation(tuple(_turns(dialogues, rng, length)), _system(dialogues, rng))


def _turns(dialogues: Dialogues, rng: random.Random, length: int) -> Iterator[Turn]:
    previous: Topic | None = None
    explained = False
    for _ in range(length):
        kind = rng.random()
        if kind < (0.05 if previous is None else 0.4):
            wants_more = rng.random() < 0.5
            question = rng.choice(dialogues.more if wants_more else dialogues.how).draw(rng)
            if previous is None:
                answer, topic = dialogues.nothing_before, "nothing-before"
            elif not wants_more:
                answer, topic = previous.how, previous.id
            else:
                answer, topic = (dialogues.no_more, "no-more") if explained else (previous.more, previous.id)
                explained = True
            yield Turn(_surface(rng, question), answer, topic, "more" if wants_more else "how")
        elif kind < (0.35 if previous is None else 0.55):
            previous, explained = dialogues.unrelated, False
            yield Turn(unrelated_question(dialogues, rng), previous.answer, previous.id)
        else:
            previous, explained = rng.choice(dialogues.topics), False
            yield Turn(topic_question(dialogues, previous, rng), previous.answer, previous.id)


def topic_question(dialogues: Dialogues, topic: Topic, rng: random.Random) -> str:
    """A question about a topic, varied."""
    if topic.names and rng.random() < 0.3:
        text = rng.choice(dialogues.frames).draw(rng).format(name=rng.choice(topic.names))
    else:
        # Rich patterns say more than poor ones, but not by their number of combinations.
        text = rng.choices(topic.ask, [pattern.count() ** 0.4 for pattern in topic.ask])[0].draw(rng)
    for found, group in dialogues.synonyms:
        if rng.random() < 0.25:
            text = found.sub(rng.choice(group), text, count=1)
    if rng.random() < 0.2:
        text = rng.choice(dialogues.openings) + text
    if rng.random() < 0.12:
        text += rng.choice(dialogues.endings)
    return _surface(rng, _otherwise(dialogues, rng, text))


def unrelated_question(dialogues: Dialogues, rng: random.Random) -> str:
    """A question about anything but LMX, varied; one word in six is one that nobody has heard of."""
    text = rng.choices(dialogues.unrelated.ask, [pattern.count() ** 0.25 for pattern in dialogues.unrelated.ask])[0]
    filled = re.sub(r"\{(\w+)\}", lambda slot: _word(dialogues, slot[1], rng), text.draw(rng))
    if rng.random() < 0.2:
        filled = rng.choice(dialogues.openings) + filled
    return _surface(rng, _otherwise(dialogues, rng, filled))


def _word(dialogues: Dialogues, slot: str, rng: random.Random) -> str:
    if slot == "pseudo" or rng.random() < 1 / 6:
        if rng.random() < 0.5:
            return "".join(rng.choice(_SYLLABLES) for _ in range(rng.randint(2, 4)))
        return "".join(rng.choice(_LETTERS) for _ in range(rng.randint(3, 9)))
    return rng.choice(dialogues.words[slot])


def _otherwise(dialogues: Dialogues, rng: random.Random, text: str) -> str:
    """Now and then with words left out, put in or moved: what a question is about must not hang on any one of them."""
    if rng.random() >= _OTHERWISE:
        return text
    words = text.split()
    if len(words) > 2 and rng.random() < 0.6:
        words = [word for word in words if rng.random() >= 0.2] or words
    if len(words) > 2 and rng.random() < 0.3:
        a, b = rng.sample(range(len(words)), 2)
        words[a], words[b] = words[b], words[a]
    if rng.random() < 0.5:
        for _ in range(rng.randint(1, 3)):
            words.insert(rng.randint(0, len(words)), rng.choice(dialogues.fillers))
    return " ".join(words)


def _surface(rng: random.Random, text: str) -> str:
    """How people type: contractions, dropped words, slips, capitals and punctuation or none."""
    for full, short in _CONTRACTIONS:
        if full in text and rng.random() < 0.15:
            text = text.replace(full, short, 1)
    words = text.split()
    if len(words) > 3 and rng.random() < 0.1:
        words = [word for word in words if word not in _DROPPED or rng.random() < 0.4]
    if words and rng.random() < 0.1:
        at = rng.randrange(len(words))
        words[at] = _slip(rng, words[at])
    text = " ".join(words)
    style = rng.random()
    if style < 0.5:
        text = text[:1].upper() + text[1:]
    elif style < 0.53:
        text = text.upper()
    text = re.sub(r"\bi\b", "I", text) if rng.random() < 0.5 else text
    ending = rng.random()
    return text + (
        "?" if ending < 0.5 else "." if ending < 0.58 else "??" if ending < 0.6 else "!" if ending < 0.63 else ""
    )


def _slip(rng: random.Random, word: str) -> str:
    if len(word) < 4:
        return word
    at = rng.randrange(1, len(word) - 1)
    kind = rng.randrange(4)
    if kind == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 1:
        return word[:at] + word[at + 1 :]
    if kind == 2:
        return word[:at] + word[at] + word[at:]
    return word[:at] + rng.choice(_LETTERS) + word[at + 1 :]


def _system(dialogues: Dialogues, rng: random.Random) -> str | None:
    kind = rng.random()
    if kind < 0.8:
        return None
    if kind < 0.95:
        return rng.choice(dialogues.systems)
    texts = [text for topic in rng.sample(dialogues.topics, 2) for text in (topic.more, topic.how)]
    return " ".join([rng.choice(dialogues.systems), *rng.sample(texts, rng.randint(1, 3))])


def _parsed(patterns: list[str]) -> tuple[Pattern, ...]:
    return tuple(parse(text) for text in patterns)

"""How much is measured."""

from typing import Final, NamedTuple

from lmx_ledger.bench.model import Shape

SEEDED: Final = {"temperature": 0.8, "top_p": 0.95}
SHORT: Final = 64
"""Tokens of a prompt that is not long."""


class Sizes(NamedTuple):
    """`tokens` of an answer that is timed, `answer` of one that is killed; `long` of the long prompt.

    `decoding`: of an answer that must not end by itself. `frontier`: how many settings are compared. `every_s` lies
    between two kills; `settle_s` is how long streams run before they are disturbed. `histories` are lengths of
    conversations, of which `turns` next turns are timed. `minutes` is how long agents are at work, and `room` the
    tokens whose KV is kept of what they say; `sharing` conversations begin with the same `shared` tokens.
    """

    rounds: int = 3
    widths: tuple[int, ...] = (1, 4, 8, 16)
    tokens: int = 128
    answer: int = 250
    long: int = 8_192
    decoding: int = 16_000
    frontier: int = 4
    kills: int = 5
    every_s: float = 5.0
    settle_s: float = 3.0
    layers: int = 6
    histories: tuple[int, ...] = (2_048, 4_096, 8_192, 16_384)
    turns: int = 5
    minutes: int = 480
    room: int = 32_768
    sharing: int = 50
    shared: int = 4_096


QUICK: Final = Sizes(
    rounds=1,
    widths=(1, 2),
    tokens=8,
    answer=60,
    long=300,
    decoding=2_000,
    frontier=1,
    kills=1,
    every_s=0.3,
    settle_s=0.2,
    layers=1,
    histories=(300,),
    turns=1,
    minutes=8,
    room=16_384,
    sharing=4,
    shared=512,
)


class MemorySizes(NamedTuple):
    """Of memory's figures.

    `turning` models take turns for `minutes`; each is asked `questions` with up to `prompt` tokens for up to `answer`.
    `small` and `big` are of the scene. `paged` goes and comes `rounds` times. `flooded` gets `requests` with up to
    `longest` tokens. `failing` loses its worker under `streams` of `decoding` tokens by a prompt of `long`.
    """

    minutes: float = 10.0
    turning: Shape = Shape(5, 768, 12, 1, 2048)
    questions: int = 16
    prompt: int = 16
    answer: int = 12
    small: Shape = Shape(3, 512, 8, 8, 1408)
    big: Shape = Shape(7, 768, 12, 12, 2048)
    rounds: int = 7
    paged: Shape = Shape(8, 1024, 16, 2, 2816)
    requests: int = 60
    longest: int = 16_384
    flooded: Shape = Shape(2)
    failing: Shape = Shape(2)
    streams: int = 4
    decoding: int = 300
    long: int = 3_000


QUICK_MEMORY: Final = MemorySizes(
    minutes=0.1,
    turning=Shape(4, 512, 8, 1, 1408),
    questions=2,
    prompt=6,
    answer=6,
    small=Shape(1),
    big=Shape(12),
    rounds=1,
    paged=Shape(1),
    requests=8,
    longest=600,
    flooded=Shape(1),
    failing=Shape(1),
    streams=2,
    decoding=60,
    long=1_500,
)


class GuardSizes(NamedTuple):
    """So many new `sessions` at once over so many `slots`, each for `tokens`; objectives over so many `days`."""

    sessions: int = 200
    slots: int = 4
    tokens: int = 64
    shape: Shape = Shape(6)
    days: int = 30


QUICK_GUARD: Final = GuardSizes(sessions=24, slots=2, tokens=24, shape=Shape(1), days=1)

"""How much is measured."""

from typing import Final, NamedTuple

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

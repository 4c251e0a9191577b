"""A prompt over the ceiling: the words in which it is refused, which alone say in the ledger how long it was."""

import re
from typing import Final

_TOLD: Final = re.compile(r"the prompt has (\d+) tokens ")


def too_long(tokens: int, model: str, ceiling: int, why: str) -> str:
    """What its client is told: by how much it is to be shorter."""
    return (
        f"the prompt has {tokens} tokens and {model} takes fewer than {ceiling}{why}; "
        f"shorten it by {tokens - ceiling + 1}"
    )


def tokens_told(message: str) -> int | None:
    """The tokens of the prompt that was refused in these words; None where it was for something else."""
    found = _TOLD.match(message)
    return int(found.group(1)) if found is not None else None

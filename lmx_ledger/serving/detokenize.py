"""Token ids to text, one at a time: only whole characters come out, and in the end exactly what decoding all gives."""

from collections.abc import Set as AbstractSet

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


class Detokenizer:
    """One stream's ids; `silent` ids (control tokens that are no markers) have no text."""

    def __init__(self, tokenizer: Tokenizer, silent: AbstractSet[int]) -> None:
        self._tokenizer = tokenizer
        self._silent = silent
        self._stream = DecodeStream(skip_special_tokens=False)
        self._ids: list[int] = []
        self._shown = 0

    def feed(self, token: int) -> str:
        """The text that this id completes."""
        if token in self._silent:
            return ""
        self._ids.append(token)
        text = self._stream.step(self._tokenizer, token) or ""
        self._shown += len(text)
        return text

    def finish(self) -> str:
        """What was held back because its bytes are no character; nothing if the text ended well."""
        if not self._ids:
            return ""
        return self._tokenizer.decode(self._ids, skip_special_tokens=False)[self._shown :]

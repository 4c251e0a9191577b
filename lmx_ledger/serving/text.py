"""A model's text side, which lives in the daemon: tokenizer, chat template and what its folder says of itself."""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from lmx_ledger.serving.template import ChatTemplate, TemplateError
from lmx_ledger.store.folder import ModelFolderError, check_weights, read_json

_DEFAULT_CONTEXT = 4096


class TextModel:
    """Reads everything but the weights of a model folder.

    Raises:
        ModelFolderError: a file is missing, cut short or not what it should be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.is_dir():
            raise ModelFolderError(
                f"{folder} is no folder; give a folder with config.json, safetensors, tokenizer.json"
            )
        self.config = read_json(folder / "config.json")
        self.weights_bytes = check_weights(folder)
        settings = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
        if not (folder / "tokenizer.json").exists():
            raise ModelFolderError(f"{folder / 'tokenizer.json'} is missing; convert the model with a fast tokenizer")
        try:
            self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:
            raise ModelFolderError(f"{folder / 'tokenizer.json'}: {error}; download it again") from error
        special = {k: _token_text(v) for k, v in settings.items() if k.endswith("_token") and _token_text(v)}
        self.template = self._read_template(settings, special)
        self.eos = self._read_eos(special)
        self.sampling = self._read_sampling()

    @cached_property
    def context(self) -> int:
        """The longest prompt plus answer the model was made for, in tokens."""
        for config in (self.config, self.config.get("text_config") or {}):
            for key in ("max_position_embeddings", "model_max_length", "n_positions", "max_seq_len"):
                if isinstance(config.get(key), int) and config[key] > 0:
                    return int(config[key])
        return _DEFAULT_CONTEXT

    @cached_property
    def template_hash(self) -> str:
        """Names the chat template, in 16 hex digits."""
        source = self.template.source if self.template is not None else ""
        return hashlib.sha256(source.encode()).hexdigest()[:16]

    @property
    def architecture(self) -> str:
        """`model_type` of config.json."""
        return str(self.config.get("model_type", "unknown"))

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Token ids; `special` adds the tokens that a raw prompt begins with (a template writes its own)."""
        return self.tokenizer.encode(text, add_special_tokens=special).ids

    def silent_ids(self, markers: tuple[str, ...]) -> frozenset[int]:
        """Control tokens whose text nobody should see: all special ones but the dialect's markers."""
        return frozenset(
            number
            for number, token in self.tokenizer.get_added_tokens_decoder().items()
            if token.special and not any(token.content in marker for marker in markers)
        )

    def token_bytes(self, token: int) -> bytes:
        """One token's own text; bytes that are no character alone come out as U+FFFD."""
        return self.tokenizer.decode([token], skip_special_tokens=False).encode()

    def _read_template(self, settings: dict[str, Any], special: dict[str, str]) -> ChatTemplate | None:
        file = self.folder / "chat_template.jinja"
        source = file.read_text("utf-8") if file.exists() else settings.get("chat_template")
        if isinstance(source, list):
            named = {entry["name"]: entry["template"] for entry in source}
            source = named.get("default")
        if source is None:
            return None
        try:
            return ChatTemplate(source, special)
        except TemplateError as error:
            raise ModelFolderError(f"{self.folder}: {error}") from error

    def _read_sampling(self) -> dict[str, float]:
        """What generation_config.json sets where a client does not; values that cannot be are left out."""
        generation = self.folder / "generation_config.json"
        named = read_json(generation) if generation.exists() else {}
        if named.get("do_sample") is False:
            return {"temperature": 0.0}
        return {
            name: int(named[name]) if name == "top_k" else float(named[name])
            for name, (low, high) in _BOUNDS.items()
            if type(named.get(name)) in {int, float} and low <= named[name] <= high
        }

    def _read_eos(self, special: dict[str, str]) -> list[int]:
        generation = self.folder / "generation_config.json"
        named = [self.config.get("eos_token_id"), (self.config.get("text_config") or {}).get("eos_token_id")]
        if generation.exists():
            named.append(read_json(generation).get("eos_token_id"))
        ids = {i for value in named for i in (value if isinstance(value, list) else [value]) if isinstance(i, int)}
        if (token := special.get("eos_token")) and (number := self.tokenizer.token_to_id(token)) is not None:
            ids.add(number)
        return sorted(ids)


_BOUNDS: Final = {
    "temperature": (0.0, 2.0),
    "top_p": (1e-6, 1.0),
    "top_k": (0, 1_000_000),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 10.0),
}


def _token_text(value: object) -> str:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""

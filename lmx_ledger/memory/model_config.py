"""What a model's config.json says of its sizes, by whichever name its family uses."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

_LARGEST: Final = 2**40
_MOST_LAYERS: Final = 10_000
"""A config comes from strangers: what it says must not become an allocation."""

_BYTES: Final = {"float32": 4, "float64": 8}
_OTHER_BYTES: Final = 2

_GROUP: Final = 64

_CONTEXT: Final = ("max_position_embeddings", "model_max_length", "n_positions", "max_seq_len")

# Of gemma3 published configs leave out what is transformers' default.
_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "gemma3_text": {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262_208},
}


class ShapeUnknown(Exception):
    """A model's sizes cannot be told; the message says what is missing."""


class Packing(NamedTuple):
    """How a weight's numbers are packed: `bits` each, and `group` of them with a scale (and a bias where `affine`)."""

    bits: int
    group: int
    affine: bool


class Quantization:
    """A `quantization` block: for all weights, with others (or none at all: False) for some of them by path."""

    def __init__(self, block: Mapping[str, Any]) -> None:
        """As config.json has it."""
        self._block = block

    def of(self, path: str) -> Packing | None:
        """That of one weight; None: it is not quantized.

        Raises:
            ShapeUnknown: the block says nothing that can be one.
        """
        own = self._block.get(path, self._block)
        if not isinstance(own, Mapping):
            return None
        bits, group = own.get("bits"), own.get("group_size", _GROUP)
        if not isinstance(bits, int) or not isinstance(group, int) or not 0 < bits <= 32:
            raise ShapeUnknown(f"config.json: a quantization to {str(bits)[:20]} bits by {str(group)[:20]} is none")
        return Packing(bits, group, own.get("mode", "affine") == "affine")


class ModelConfig:
    """A parsed config.json; a model that sees or hears is read as the text model in it, as mlx-lm runs it."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        """Nothing is checked before it is asked for."""
        text = values.get("text_config")
        self._values: dict[str, Any] = {**values, **text} if isinstance(text, Mapping) else dict(values)
        self.kind = str(self._values.get("model_type") or "")
        if self.kind == "gemma3":
            self.kind = "gemma3_text"
        self._values = {**_DEFAULTS.get(self.kind, {}), **self._values}

    @property
    def layers(self) -> int:
        """How many.

        Raises:
            ShapeUnknown: it does not say.
        """
        count = self.count("num_hidden_layers", "n_layer", "n_layers", "num_layers")
        if not 0 < count <= _MOST_LAYERS:
            raise ShapeUnknown(f"config.json: {count} layers are none that a model has")
        return count

    @property
    def hidden(self) -> int:
        """Width of the residual stream.

        Raises:
            ShapeUnknown: it does not say.
        """
        return self.count("hidden_size", "n_embd", "d_model", "dim")

    @property
    def heads(self) -> int:
        """Query heads.

        Raises:
            ShapeUnknown: it does not say.
        """
        return max(self.count("num_attention_heads", "n_head", "num_heads"), 1)

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values; as many as there are query heads unless it says otherwise.

        Raises:
            ShapeUnknown: it says neither.
        """
        return self.count("num_key_value_heads", "num_kv_heads", default=0) or self.heads

    @property
    def head_dim(self) -> int:
        """Width of a head.

        Raises:
            ShapeUnknown: it cannot be told.
        """
        return self.count("head_dim", default=0) or self.hidden // self.heads

    @property
    def context(self) -> int | None:
        """Tokens that the model was made for; None where it does not say."""
        found = next((self._values[name] for name in _CONTEXT if self._values.get(name)), None)
        return found if isinstance(found, int) and 0 < found < _LARGEST else None

    @property
    def element_bytes(self) -> int:
        """Bytes of an unquantized number; 2 where it does not say."""
        kind = self._values.get("torch_dtype") or self._values.get("dtype")
        return _BYTES.get(str(kind), _OTHER_BYTES)

    @property
    def quantization(self) -> Quantization | None:
        """MLX's block of that name, where there is one."""
        block = self._values.get("quantization") or self._values.get("quantization_config")
        return Quantization(block) if isinstance(block, Mapping) and "bits" in block else None

    def count(self, *names: str, default: int | None = None) -> int:
        """The first of these that it has, as a whole number.

        Raises:
            ShapeUnknown: it has none of them and there is no default, or not as a number that can be one.
        """
        for name in names:
            value = self._values.get(name)
            if value is None:
                continue
            if not isinstance(value, int) or not 0 <= value < _LARGEST:
                raise ShapeUnknown(f"config.json: {name} is {str(value)[:40]!r}, which is no size")
            return value
        if default is None:
            raise ShapeUnknown(f"config.json of a {self.kind[:40] or 'nameless'} model has no {names[0]}")
        return default

    def says(self, name: str) -> Any:
        """What stands under a name, whatever it is; None: nothing."""
        return self._values.get(name)

    def list_of(self, name: str) -> list[Any] | None:
        """A list; None where there is none of that name."""
        value = self._values.get(name)
        return value if isinstance(value, list) else None

    def names_starting(self, *beginnings: str) -> list[str]:
        """Its names that begin so, of those that have a value."""
        return [name for name, value in self._values.items() if name.startswith(beginnings) and value is not None]

"""mlx-lm without what a worker never calls: more than half of its import is transformers, of which it wants names."""

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final

_PLACES: Final = ("transformers", "transformers.tokenization_utils_base")


class _Unneeded(ModuleType):
    """A module in which there is a class of every name; only its name is ever used."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        # What makes it a package.
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"register": staticmethod(lambda *_, **__: None)})


@contextlib.contextmanager
def without_transformers() -> Iterator[None]:
    """What is imported meanwhile gets empty classes for those of transformers; behind it the package is itself again.

    A worker has token ids only: text is the daemon's, and so are tokenizers. Of torch, which transformers would load
    where it happens to be installed (a second and 180 MB), it never hears at all.
    """
    sys.modules["torch"] = None  # type: ignore[assignment]
    for place in _PLACES:
        sys.modules[place] = _Unneeded(place)
    try:
        yield
    finally:
        for place in _PLACES:
            del sys.modules[place]


def import_mlx_lm() -> None:
    """Have it imported without, or as it is where it wants more than names by now."""
    try:
        with without_transformers():
            import mlx_lm.tokenizer_utils  # noqa: PLC0415, F401
    except Exception:  # noqa: BLE001 - whatever an import of a later version may raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "mlx_lm"]:
            del sys.modules[name]

"""LMX Ledger: a local LLM server on MLX that writes down every decision it takes."""

from typing import Final

__version__: Final = "0.1.0"

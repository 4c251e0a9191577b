"""The model that ships inside the package (docs/demo-model.md): what is served when nobody names another."""

from pathlib import Path
from typing import Final

ID: Final = "lmx-demo"
FOLDER: Final = Path(__file__).with_name(ID)
ABOUT: Final = "It answers questions about operating LMX; for a real model: lmx models pull REPO"

"""A hub with one real model, and a home to pull it into."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import Files, Hub, running_hub, sharded_model

REPO = "tiny-org/Tiny-Llama"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return sharded_model(tmp_path_factory.mktemp("hub") / "tiny")


@pytest.fixture
def hub(tiny: Files, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub() as hub:
        hub.publish(REPO, tiny)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield hub


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"

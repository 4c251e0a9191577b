"""Configuration: defaults without a file, and every mistake with file, line and fix."""

from pathlib import Path

import pytest

from lmx_ledger.core.config import Config, load_config
from lmx_ledger.core.errors import StartupError


@pytest.fixture(autouse=True)
def _no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LMX_HOME", raising=False)


def refused(tmp_path: Path, text: str) -> str:
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(StartupError) as error:
        load_config(file)
    return str(error.value)


def test_without_a_file_everything_has_a_default() -> None:
    config = load_config(None)
    assert (config.server.host, config.server.port) == ("127.0.0.1", 3456)
    assert config.context.max_tokens == 131_072


def test_the_example_documents_the_defaults() -> None:
    assert load_config(Path(__file__).parents[2] / "config.example.toml") == Config()


def test_sizes_and_durations_are_read_as_people_write_them(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[server]\nmax_body = "8MiB"\nbody_timeout = "500ms"\n[memory]\nlimit = "24GiB"\n')
    config = load_config(file)
    assert (config.server.max_body, config.server.body_timeout) == (8 * 2**20, 0.5)
    assert config.memory.limit == 24 * 2**30


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("[server]\nport = 1\nprot = 2\n", 3, "unknown key server.prot; known here: host, port"),
        ("[sever]\nport = 1\n", 1, "unknown key sever; known here: server, storage"),
        ('[server]\n\nport = "x"\n', 3, "server.port"),
        ("[server]\nport = 70000\n", 2, "server.port"),
        ('[server]\nmax_body = "lots"\n', 2, "write it like 24GiB"),
        (
            '[[models]]\nid = "a"\npath = "p"\n[[models]]\nid = "b"\npath = "p"\npth = "q"\n',
            7,
            "unknown key models.1.pth",
        ),
        ('[[models]]\nid = "a"\n', 1, "models.0.path"),
        ('[server]\nhost = "0.0.0.0"\n', 1, "no api_keys are set"),
        ('[server]\napi_keys = ["short"]\n', 1, "at least 8"),
        ("[queue]\nmax_choices = 20\n", 1, "could never start"),
        (
            '[slo.ttft]\ntarget = 0.95\nthresold = "30s"\n',
            3,
            "unknown key slo.ttft.thresold; known here: enabled, target, period, min_events, threshold",
        ),
        ("[slo.itl]\n\n[slo.ttft]\n\ntarget = 0.95\nthreshold = true\n", 6, "slo.ttft.threshold"),
        ('[slo.ttft]\nthreshold = "soon"\n', 2, "write it like 500ms, 30s"),
        ("[slo.availability]\ntarget = 99.9\n", 2, "slo.availability.target: Input should be less than 1"),
        ('[slo.itl]\nperiod = "1d"\n[slo.ttft]\nperiod = "2d"\n', 4, "slo.ttft.period"),
        ("[slo.tftt]\ntarget = 0.9\n", 1, "unknown key slo.tftt; known here: ttft, itl, decode_tps"),
        ("[slo]\nttft.target = 2.0\n", 2, "slo.ttft.target"),
        ("[slo]\nitl = {}\nttft = { target = 2.0 }\n", 3, "slo.ttft.target"),
        ('[[models]]\nid = "a"\npath = "p"\naliases = ["a"]\n', 1, "given twice"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_what_to_do(tmp_path: Path, text: str, line: int, says: str) -> None:
    message = refused(tmp_path, text)
    assert message.startswith(f"{tmp_path / 'config.toml'}:{line}: ")
    assert says in message


def test_objectives_are_tables_of_their_own_with_units_by_what_they_promise(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[slo.ttft]\nthreshold = "500ms"\n[slo.decode_tps]\nthreshold = 20\nperiod = "7d"\n')
    slo = load_config(file).slo
    assert (slo.ttft.threshold, slo.ttft.target, slo.ttft.period) == (0.5, 0.95, "30d")
    assert (slo.decode_tps.threshold, slo.decode_tps.period) == (20.0, "7d")


def test_several_mistakes_are_told_at_once(tmp_path: Path) -> None:
    assert len(refused(tmp_path, "[server]\nport = 0\nprot = 2\n").splitlines()) == 2


def test_a_file_that_is_no_toml_or_not_there_is_said(tmp_path: Path) -> None:
    assert "not valid TOML" in refused(tmp_path, "[server\n")
    with pytest.raises(StartupError, match="no such file"):
        load_config(tmp_path / "none.toml")


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[storage]\nhome = "/from/file"\n')
    assert load_config(file).home == Path("/from/file")
    monkeypatch.setenv("LMX_HOME", "/from/environment")
    assert load_config(file).home == Path("/from/environment")
    assert load_config(file, {"storage": {"home": "/from/command"}}).home == Path("/from/command")


def test_keys_are_never_part_of_what_is_recorded(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[server]\napi_keys = ["very-secret-1"]\noperator_keys = ["very-secret-2"]\nport = 4000\n')
    changed = load_config(file).changed()
    assert changed == {"server": {"api_keys": 1, "operator_keys": 1, "port": 4000}}

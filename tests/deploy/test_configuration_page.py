"""docs/configuration.md against the command line."""

import pytest

from server.settings import ChatSettings, ServeSettings
from tests.deploy.project import code_names, commands, flags_of, read, setting_names, tables
from workers.settings import WorkerSettings

PAGE = "docs/configuration.md"
SECTIONS = ("## Gateway and worker", "## Terminal client")
ROWS = [row for section in SECTIONS for row in tables(read(PAGE), section)]
WITHOUT_VARIABLE = {"--image", "--video"}


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in setting_names():
        monkeypatch.delenv(f"GLIMPSED_{name.upper()}", raising=False)


@pytest.mark.parametrize("command", ["serve", "gateway", "worker", "chat"])
def test_the_page_and_the_help_name_the_same_flags(command: str) -> None:
    listed = {code_names(row[0])[0] for row in ROWS if command in row[3].split(", ")}
    if command == "chat":
        listed |= {flag for flag in WITHOUT_VARIABLE if f"`{flag}`" in read(PAGE)}
    assert listed == flags_of(command)


def test_every_command_is_listed() -> None:
    assert {code_names(row[0])[0].split()[1] for row in tables(read(PAGE), "## Commands")} == commands()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[3]}:{row[0]}")
def test_a_row_has_the_variable_and_the_default_of_its_flag(row: list[str]) -> None:
    flag, variable = code_names(row[0])[0], code_names(row[1])[0]
    name = flag.removeprefix("--").replace("-", "_")
    assert variable == f"GLIMPSED_{name.upper()}"
    for settings in (ServeSettings, WorkerSettings, ChatSettings):
        if name not in settings.model_fields or (settings is ChatSettings) != (row[3] == "chat"):
            continue
        default = settings.model_fields[name].default
        if row[2] == "none":
            assert default in (None, ())
        elif row[2] == "off":
            assert default is False
        else:
            required = {"model": "demo"} if settings is WorkerSettings else {}
            given = settings(**required, **{name: code_names(row[2])[0]})
            assert getattr(given, name) == default


def test_repeatable_flags_are_marked_as_such() -> None:
    for row in ROWS:
        name = code_names(row[0])[0].removeprefix("--").replace("-", "_")
        settings = WorkerSettings if name in WorkerSettings.model_fields else ServeSettings
        if row[3] != "chat":
            assert ("repeatable" in row[4]) == (settings.model_fields[name].default == ()), row[0]


def test_exit_codes_of_serve_are_those_of_the_page() -> None:
    from server.supervise import HOPELESS_EXIT_CODES
    from workers.__main__ import EXIT_CANNOT_LOAD

    codes = {int(row[0]) for row in tables(read(PAGE), "## Exit codes")}
    assert codes == {0, 1, 2}
    assert set(HOPELESS_EXIT_CODES.values()) <= codes
    assert f"exits with {EXIT_CANNOT_LOAD}" in read(PAGE)

"""docs/configuration.md against the command line."""

from typing import Annotated

import pytest
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from server.settings import BenchSettings, ChatSettings, GatewaySettings, ServeSettings
from tests.deploy.project import code_names, commands, flags_of, read, setting_names, tables
from workers.settings import WorkerSettings

PAGE = "docs/configuration.md"
SECTIONS = ("## Gateway and worker", "## Terminal client and load generator")
ROWS = [row for section in SECTIONS for row in tables(read(PAGE), section)]
WITHOUT_VARIABLE = {"chat": {"--image", "--video"}, "bench": {"--json"}}
SETTINGS = {
    "serve": ServeSettings,
    "gateway": GatewaySettings,
    "worker": WorkerSettings,
    "chat": ChatSettings,
    "bench": BenchSettings,
}


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in setting_names():
        monkeypatch.delenv(f"GLIMPSED_{name.upper()}", raising=False)


@pytest.mark.parametrize("command", SETTINGS)
def test_the_page_and_the_help_name_the_same_flags(command: str) -> None:
    listed = {code_names(row[0])[0] for row in ROWS if command in row[3].split(", ")}
    listed |= {flag for flag in WITHOUT_VARIABLE.get(command, ()) if f"`{flag}`" in read(PAGE)}
    assert listed == flags_of(command)


def test_every_command_is_listed() -> None:
    assert {code_names(row[0])[0].split()[1] for row in tables(read(PAGE), "## Commands")} == commands()


def fields_of(row: list[str]) -> list[FieldInfo]:
    """The row's setting in each command's class; what `serve` only hands on is the worker's."""
    name = code_names(row[0])[0].removeprefix("--").replace("-", "_")
    classes = [SETTINGS[command] for command in row[3].split(", ")]
    return [cls.model_fields[name] for cls in classes if name in cls.model_fields or cls is not ServeSettings]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[3]}:{row[0]}")
def test_a_row_has_the_variable_and_the_default_of_its_flag(row: list[str]) -> None:
    flag, variable = code_names(row[0])[0], code_names(row[1])[0]
    assert variable == f"GLIMPSED_{flag.removeprefix('--').replace('-', '_').upper()}"
    for field in fields_of(row):
        if row[2] == "none":
            assert field.default in (None, ())
        elif row[2] == "off":
            assert field.default is False
        else:
            annotated = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
            assert TypeAdapter(annotated).validate_python(code_names(row[2])[0]) == field.default


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[3]}:{row[0]}")
def test_repeatable_flags_are_marked_as_such(row: list[str]) -> None:
    assert {field.default == () for field in fields_of(row)} == {"repeatable" in row[4]}


def test_exit_codes_of_serve_are_those_of_the_page() -> None:
    from server.supervise import HOPELESS_EXIT_CODES
    from workers.__main__ import EXIT_CANNOT_LOAD

    codes = {int(row[0]) for row in tables(read(PAGE), "## Exit codes")}
    assert codes == {0, 1, 2}
    assert set(HOPELESS_EXIT_CODES.values()) <= codes
    assert f"exits with {EXIT_CANNOT_LOAD}" in read(PAGE)

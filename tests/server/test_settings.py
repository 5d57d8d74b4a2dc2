"""Settings from flags and the environment, and the one line that a bad one gets."""

import argparse
from pathlib import Path

import pytest

from schemas.flags import ConfigError, Parser, add_flags, load
from server.settings import (
    DEMO_MODEL,
    DEMO_NAME,
    REPEATABLE_WORKER_FLAGS,
    SWITCH_WORKER_FLAGS,
    WORKER_FLAGS,
    GatewaySettings,
    ModelSpec,
    ServeSettings,
    local_queue_path,
    parse_models,
    state_folder,
)
from workers.settings import DEMO_NAME as WORKERS_DEMO_NAME
from workers.settings import WorkerSettings, parse_command_line


def parse(*argv: str) -> argparse.Namespace:
    parser = Parser(prog="glimpsed")
    add_flags(parser, ServeSettings)
    return parser.parse_args(argv)


def test_defaults_are_those_of_the_interface() -> None:
    settings = load(ServeSettings, parse())
    assert (settings.host, settings.port, settings.queue) == ("127.0.0.1", 8000, "local")
    assert (settings.workers_per_model, settings.shutdown_timeout, settings.api_key) == (1, 30.0, ())


def test_a_flag_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMPSED_PORT", "9000")
    monkeypatch.setenv("GLIMPSED_MAX_QUEUE", "7")
    settings = load(GatewaySettings, parse("--port", "9001"))
    assert (settings.port, settings.max_queue) == (9001, 7)


def test_repeatable_flags_are_comma_separated_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMPSED_API_KEY", "one, two,")
    assert load(GatewaySettings, parse()).api_key == ("one", "two")
    assert load(GatewaySettings, parse("--api-key", "a,b", "--api-key", "c")).api_key == ("a,b", "c")


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMPSED_PORT", "")
    assert load(GatewaySettings, parse()).port == 8000


@pytest.mark.parametrize(
    ("flag", "value"), [("--port", "70000"), ("--max-queue", "0"), ("--log-level", "loud"), ("--max-body-size", "1XB")]
)
def test_a_bad_flag_is_named(flag: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"^{flag}: ") as refused:
        load(GatewaySettings, parse(flag, value))
    assert "\n" not in str(refused.value)


def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMPSED_REQUEST_TIMEOUT", "soon")
    with pytest.raises(ConfigError, match="^GLIMPSED_REQUEST_TIMEOUT: "):
        load(GatewaySettings, parse())


def test_flags_are_not_abbreviated_and_errors_take_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse("--max-q", "3")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "glimpsed: unrecognized arguments: --max-q 3\n"


def test_sizes_have_units() -> None:
    assert load(GatewaySettings, parse("--max-body-size", "2MiB")).max_body_size == 2 << 20


def test_models_are_named_by_folder_hub_name_or_by_hand(tmp_path: Path) -> None:
    folder = tmp_path / "InternVL2-1B"
    folder.mkdir()
    assert parse_models([f"{folder}/", "org/model", "mine=org/other"]) == [
        ModelSpec("InternVL2-1B", f"{folder}/"),
        ModelSpec("org/model", "org/model"),
        ModelSpec("mine", "org/other"),
    ]


def test_no_model_is_the_demo() -> None:
    assert parse_models([]) == [ModelSpec(DEMO_NAME, DEMO_MODEL)]


@pytest.mark.parametrize("arguments", [["a=x", "a=y"], ["=x"], ["a="], [""], ["x", "x"]])
def test_models_that_clients_could_not_tell_apart_are_refused(arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match="^MODEL: "):
        parse_models(arguments)


def test_serve_hands_on_only_what_a_worker_knows_and_in_its_form() -> None:
    fields = WorkerSettings.model_fields
    assert set(WORKER_FLAGS) <= set(fields)
    left_out = set(fields) - set(WORKER_FLAGS)
    assert left_out == {"model", "served_name", "queue", "supervisor_pid"}, "set by serve itself"
    assert set(REPEATABLE_WORKER_FLAGS) == {name for name in fields if isinstance(fields[name].default, tuple)}
    assert set(SWITCH_WORKER_FLAGS) == {name for name in fields if fields[name].annotation is bool}


def test_both_sides_agree_on_where_the_local_queue_is_and_what_the_demo_is_called() -> None:
    assert parse_command_line(["demo"]).queue_address == f"ipc://{local_queue_path()}"
    assert WORKERS_DEMO_NAME == DEMO_NAME


@pytest.mark.parametrize(
    ("variable", "folder"),
    [
        ("/var/lib/me", "/var/lib/me/glimpsed"),
        ("", "/home/me/.local/state/glimpsed"),
        ("x", "/home/me/.local/state/glimpsed"),
    ],
)
def test_files_and_batches_are_where_a_user_keeps_state(
    monkeypatch: pytest.MonkeyPatch, variable: str, folder: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_STATE_HOME", variable)
    assert state_folder() == Path(folder)

"""A worker's settings."""

from pathlib import Path

import pytest

from schemas.flags import ConfigError
from workers.settings import parse_command_line


def test_sizes_and_lists_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMPSED_ALLOW_PRIVATE_MEDIA_HOSTS", "intranet,10.0.0.1:8080")
    settings = parse_command_line(["m", "--kv-cache-memory", "2GiB", "--model-option", "hd=true", "--no-prefix-cache"])
    assert settings.kv_cache_memory == 2 << 30
    assert settings.allow_private_media_hosts == ("intranet", "10.0.0.1:8080")
    assert settings.model_options == {"hd": "true"}
    assert settings.no_prefix_cache


def test_more_jobs_are_held_than_run_so_that_media_are_ready_in_time() -> None:
    assert parse_command_line(["m", "--max-num-seqs", "64"]).max_jobs == 72
    assert parse_command_line(["m", "--max-num-seqs", "1"]).max_jobs == 3


def test_the_demo_has_a_name_of_its_own() -> None:
    assert parse_command_line(["demo"]).name == "glimpsed-demo"


def test_a_served_name_goes_before_the_models(tmp_path: Path) -> None:
    assert parse_command_line([str(tmp_path)]).name == tmp_path.name
    assert parse_command_line(["org/model"]).name == "org/model"
    assert parse_command_line(["org/model", "--served-name", "mine"]).name == "mine"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--device", "tpu"], "^--device: "),
        (["--dtype", "int3"], "^--dtype: "),
        (["--max-num-seqs", "0"], "^--max-num-seqs: "),
        (["--kv-cache-memory", "lots"], "^--kv-cache-memory: "),
        (["--model-option", "hd"], "^--model-option: 'hd' is not NAME=VALUE$"),
        (["--allowed-local-media-path", "/no/such/folder"], "^--allowed-local-media-path: .* is not a folder$"),
        (["--kv-cache-memory", "1GiB", "--num-kv-blocks", "8"], "exclude each other$"),
    ],
)
def test_bad_values_are_named(arguments: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse_command_line(["m", *arguments])

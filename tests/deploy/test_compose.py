"""docker-compose.yml and its override for GPUs."""

import re
from typing import Any

import pytest

from tests.deploy.project import ROOT, assert_are_settings, assert_is_command, read, read_yaml
from tests.deploy.test_image import parse_stages
from workers.settings import parse_command_line

COMPOSE, GPU, REDIS = "docker-compose.yml", "deploy/compose.gpu.yml", "deploy/compose.redis.yml"
OURS = ("gateway", "worker")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = read_yaml(COMPOSE)["services"]
    return found


def defaulted(text: str) -> str:
    """The text with each ${NAME:-default} as it is where NAME is not set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


@pytest.mark.parametrize("name", OURS)
def test_our_containers_are_confined(services: dict[str, Any], name: str) -> None:
    service = services[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service and "cap_add" not in service and "user" not in service
    assert "init" not in service and "entrypoint" not in service, "the image brings its first process"
    assert service["mem_limit"] and service["pids_limit"]
    assert [mount for mount in service["tmpfs"] if mount.startswith("/tmp:size=")]


@pytest.mark.parametrize("name", OURS)
def test_our_containers_build_a_target_and_run_a_real_command(services: dict[str, Any], name: str) -> None:
    assert services[name]["build"]["target"] in parse_stages()
    assert_is_command([defaulted(word) for word in services[name]["command"]])
    assert_are_settings(list(services[name]["environment"]))


def test_the_workers_defaults_are_accepted(services: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in services["worker"]["environment"].items():
        monkeypatch.setenv(name, defaulted(value))
    command, *arguments = [defaulted(word) for word in services["worker"]["command"]]
    settings = parse_command_line(arguments)
    assert command == "worker" and settings.name == "glimpsed-demo"
    assert settings.kv_cache_memory == 512 << 20


def test_gateway_and_worker_meet_at_one_socket_in_a_volume(services: dict[str, Any]) -> None:
    queues = {services[name]["environment"]["GLIMPSED_QUEUE"] for name in OURS}
    assert queues == {"ipc:///run/glimpsed/queue"}
    assert all("queue:/run/glimpsed" in services[name]["volumes"] for name in OURS)
    owned = " ".join(parse_stages()["runtime"].all("RUN"))
    assert "-o 65532 -g 65532 -m 0700 /run/glimpsed" in owned


def test_only_the_gateway_is_reachable_and_by_default_from_this_host_alone(services: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert "worker" not in published
    assert all(defaulted(port).startswith("127.0.0.1:") for ports in published.values() for port in ports)
    assert not set(services["worker"]["networks"]) & set(services["gateway"]["networks"])


def test_containers_outlive_the_drain(services: dict[str, Any]) -> None:
    assert all(services[name]["stop_grace_period"] == "45s" for name in OURS)


def test_monitoring_runs_on_request_and_mounts_what_is_there(services: dict[str, Any]) -> None:
    for name in ("prometheus", "grafana"):
        assert services[name]["profiles"] == ["monitoring"]
        mounted = [mount.split(":")[0] for mount in services[name]["volumes"] if mount.startswith("./")]
        assert mounted and all((ROOT / path).is_dir() for path in mounted)


def test_named_volumes_and_networks_are_declared(services: dict[str, Any]) -> None:
    whole = read_yaml(COMPOSE)
    used = {defaulted(mount).split(":")[0] for service in services.values() for mount in service.get("volumes", [])}
    assert {name for name in used if not name.startswith(("./", "/"))} == set(whole["volumes"])
    assert {name for service in services.values() for name in service["networks"]} == set(whole["networks"])


def test_the_gpu_override_changes_services_that_exist(services: dict[str, Any]) -> None:
    override = read_yaml(GPU)["services"]
    assert set(override) <= set(services)
    assert_are_settings(list(override["worker"]["environment"]))
    arguments = override["worker"]["build"]["args"]
    assert all(f"ARG {name}" in read("Dockerfile") for name in arguments)


def test_the_redis_override_joins_gateway_and_workers_through_redis_alone(services: dict[str, Any]) -> None:
    whole = read_yaml(REDIS)
    override = whole["services"]
    assert set(override) == {*OURS, "redis"}
    for name in OURS:
        assert override[name]["environment"] == {"GLIMPSED_QUEUE": "redis://redis:6379/0"}
        assert set(override[name]["networks"]) - set(services[name]["networks"]) == {"queue"}
    assert override["redis"]["networks"] == ["queue"] and "ports" not in override["redis"]
    assert whole["networks"]["queue"]["internal"] is True


def test_redis_is_confined_keeps_nothing_and_refuses_when_full() -> None:
    redis = read_yaml(REDIS)["services"]["redis"]
    assert redis["read_only"] is True and redis["cap_drop"] == ["ALL"] and redis["mem_limit"] and redis["pids_limit"]
    options = dict(zip(redis["command"][1::2], redis["command"][2::2], strict=True))
    assert options == {"--save": "", "--appendonly": "no", "--maxmemory": "1gb", "--maxmemory-policy": "noeviction"}

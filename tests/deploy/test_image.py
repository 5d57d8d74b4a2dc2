"""The Dockerfile, read by its instructions: nothing here can build it."""

import json
import re
import tomllib
from fnmatch import fnmatch

import pytest

from tests.deploy.project import ROOT, USER_ID, assert_are_settings, assert_is_command, read

TARGETS = ("gateway", "worker", "worker-lmdeploy")


class Stage:
    """One FROM with what follows it."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.steps: list[tuple[str, str]] = []

    def all(self, instruction: str) -> list[str]:
        return [text for name, text in self.steps if name == instruction]


def parse_stages() -> dict[str, Stage]:
    text = re.sub(r"^#.*\n", "", read("Dockerfile"), flags=re.MULTILINE)
    stages: dict[str, Stage] = {}
    current = Stage("")
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        name, _, rest = line.partition(" ")
        if name == "FROM":
            base, stage = re.fullmatch(r"(\S+) AS (\S+)", rest).groups()
            current = stages[stage] = Stage(base)
        elif line:
            current.steps.append((name, rest))
    return stages


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    return parse_stages()


@pytest.fixture(scope="module")
def pyproject() -> dict:
    return tomllib.loads(read("pyproject.toml"))


@pytest.mark.parametrize("target", TARGETS)
def test_each_image_runs_as_the_unprivileged_user(stages: dict[str, Stage], target: str) -> None:
    assert stages[target].base == "runtime"
    assert stages["runtime"].all("USER") == [f"{USER_ID}:{USER_ID}"]
    assert not stages[target].all("USER")


@pytest.mark.parametrize("target", TARGETS)
def test_each_image_starts_a_command_of_the_console_script(
    stages: dict[str, Stage], pyproject: dict, target: str
) -> None:
    (entrypoint,) = stages["runtime"].all("ENTRYPOINT")
    assert json.loads(entrypoint) == ["tini", "--", *pyproject["project"]["scripts"]]
    assert any(re.search(r"apt-get install .*\btini\b", step) for step in stages["runtime"].all("RUN"))
    (command,) = stages[target].all("CMD")
    assert_is_command(json.loads(command))


@pytest.mark.parametrize("target", TARGETS)
def test_each_image_copies_the_environment_that_its_own_stage_built(stages: dict[str, Stage], target: str) -> None:
    (copied,) = stages[target].all("COPY")
    source = re.fullmatch(r"--from=(\S+) (\S+) \2", copied)
    assert source is not None and source[1] == f"build-{target}"


def test_the_default_target_is_the_worker(stages: dict[str, Stage]) -> None:
    assert list(stages)[-1] == "worker"


def test_the_gateway_is_installed_without_the_workers_needs(stages: dict[str, Stage]) -> None:
    installs = [step for step in stages["build-gateway"].all("RUN") if "pip install" in step]
    assert installs and all(step.endswith("pip install --constraint constraints.txt '.[redis]'") for step in installs)


def test_extras_that_images_install_exist(stages: dict[str, Stage], pyproject: dict) -> None:
    asked = {
        extra
        for stage in stages.values()
        for step in stage.all("RUN")
        for group in re.findall(r"'\.\[([\w,]+)\]'", step)
        for extra in group.split(",")
    }
    assert asked == {"worker", "lmdeploy", "redis"}
    assert asked <= set(pyproject["project"]["optional-dependencies"])


def test_lmdeploy_image_leaves_out_the_pins_that_it_cannot_keep(stages: dict[str, Stage]) -> None:
    pins = read("constraints.txt")
    pattern = re.search(r"grep -vE '(\S+)' constraints.txt", stages["build-worker-lmdeploy"].all("RUN")[0])
    assert pattern is not None
    left_out = {line.partition("=")[0] for line in pins.splitlines() if re.search(pattern[1], line)}
    assert left_out == {"torch", "setuptools"}


def test_variables_of_the_image_are_settings(stages: dict[str, Stage]) -> None:
    names = [name for text in stages["runtime"].all("ENV") for name in re.findall(r"(\w+)=", text)]
    assert "GLIMPSED_HOST" in names
    assert_are_settings(names)


def test_what_the_installation_reads_is_in_the_build_context(pyproject: dict) -> None:
    lines = [line for line in read(".dockerignore").splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    packages = {pattern.rstrip("*") for pattern in pyproject["tool"]["setuptools"]["packages"]["find"]["include"]}
    needed = packages | {"pyproject.toml", "constraints.txt", pyproject["project"]["readme"]}
    needed |= set(pyproject["project"]["license-files"])
    assert needed <= kept
    assert all((ROOT / path).exists() for path in kept)
    ignored_again = [line for line in lines[1:] if not line.startswith("!")]
    assert not [path for path in needed for pattern in ignored_again if fnmatch(path, pattern)]

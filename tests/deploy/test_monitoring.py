"""Dashboards and alerts against what a gateway really exposes."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.project import code_names, read, read_yaml, tables
from tests.fakes.memory_queue import MemoryQueue, tell, worker
from tests.server.serving import CHAT, ask, client_of
from workers.media.pipeline import build_pipeline

DASHBOARD = "deploy/grafana/dashboards/glimpsed.json"
ALERTS = "deploy/prometheus/alerts.yml"
SCRAPER_LABELS = {"job", "instance"}
_NAME = re.compile(r"\bglimpsed_\w+")
_SELECTOR = re.compile(r"(glimpsed_\w+)\{([^}]*)\}")
_GROUPING = re.compile(r"\bby \(([^)]*)\)")

Exposed = dict[str, set[str]]


@pytest.fixture
async def exposed() -> Exposed:
    """Sample name -> its labels, after a request was served."""
    queue = MemoryQueue(tell("one two three"))
    queue.fleet = [worker("demo", **build_pipeline().metrics())]
    async with client_of(queue) as client:
        assert (await client.post(CHAT, json=ask())).status_code == 200
        text = (await client.get("/metrics")).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {sample.name: set(sample.labels) for sample in samples}


def expressions() -> Iterator[str]:
    for group in read_yaml(ALERTS)["groups"]:
        yield from (rule["expr"] for rule in group["rules"])
    for panel in json.loads(read(DASHBOARD))["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    for variable in json.loads(read(DASHBOARD))["templating"]["list"]:
        yield variable["query"]["query"]


def test_each_metric_that_is_asked_for_is_exposed(exposed: Exposed) -> None:
    asked = {name for expression in expressions() for name in _NAME.findall(expression)}
    assert len(asked) > 10
    assert asked <= set(exposed), asked - set(exposed)


def test_each_label_that_is_asked_for_is_on_its_metric(exposed: Exposed) -> None:
    for expression in expressions():
        for name, matchers in _SELECTOR.findall(expression):
            assert set(re.findall(r"(\w+)\s*[=!]~?\"", matchers)) <= exposed[name], expression
        labels = set.union(*(exposed[name] for name in _NAME.findall(expression)), set(SCRAPER_LABELS))
        for grouping in _GROUPING.findall(expression):
            assert {label.strip() for label in grouping.split(",")} <= labels, expression


def test_the_page_lists_each_metric_with_its_labels(exposed: Exposed) -> None:
    listed = {
        code_names(row[0])[0]: {*filter(None, row[1].split(", "))} for row in tables(read("docs/api.md"), "## Metrics")
    }
    real: Exposed = {}
    for name, labels in exposed.items():
        if name.startswith("glimpsed_") and not name.endswith("_created"):
            real[re.sub(r"_(bucket|sum|count)$", "", name)] = labels - {"le"}
    assert listed == real


def test_panels_have_places_of_their_own_and_the_provisioned_source() -> None:
    dashboard = json.loads(read(DASHBOARD))
    (source,) = read_yaml("deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        assert panel["datasource"]["uid"] == source["uid"]
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24 and not cells & taken
        taken |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_alerts_can_be_acted_on() -> None:
    rules = [rule for group in read_yaml(ALERTS)["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]


def test_prometheus_scrapes_the_composed_gateway_and_loads_the_rules() -> None:
    config = read_yaml("deploy/prometheus/prometheus.yml")
    assert config["rule_files"] == ["alerts.yml"]
    (job,) = config["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["gateway:8000"]}]
    assert "gateway" in read_yaml("docker-compose.yml")["services"]
    assert f'job="{job["job_name"]}"' in read(ALERTS)


def test_compose_mounts_dashboards_where_grafana_looks() -> None:
    (provider,) = read_yaml("deploy/grafana/provisioning/dashboards/glimpsed.yml")["providers"]
    mounts: list[Any] = read_yaml("docker-compose.yml")["services"]["grafana"]["volumes"]
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in mounts

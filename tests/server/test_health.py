"""Probes, models, workers, metrics."""

import re

from server.transport.base import WorkerInfo
from tests.fakes.memory_queue import MemoryQueue, tell, worker
from tests.server.serving import CHAT, Exchange, ask, client_of, running


async def test_ready_once_each_expected_model_has_a_worker() -> None:
    queue = MemoryQueue(tell("x"), models=("demo",))
    async with client_of(queue, expected_models=["demo", "other"]) as client:
        for path in ("/health", "/readyz"):
            answer = await client.get(path)
            assert answer.status_code == 503
            assert answer.json() == {
                "status": "starting",
                "models": {"demo": {"ready_workers": 1}, "other": {"ready_workers": 0}},
            }
        assert (await client.get("/livez")).status_code == 200
        queue.fleet.append(worker("other"))
        assert (await client.get("/health")).status_code == 200


async def test_with_no_model_expected_one_worker_is_enough() -> None:
    queue = MemoryQueue(tell("x"), models=())
    async with client_of(queue) as client:
        assert (await client.get("/health")).status_code == 503
        queue.fleet.append(worker("demo", state="draining"))
        assert (await client.get("/health")).status_code == 503
        queue.fleet.append(worker("demo"))
        assert (await client.get("/health")).status_code == 200
        queue.fleet.clear()
        assert (await client.get("/health")).status_code == 503


async def test_a_draining_gateway_is_not_ready_and_refuses_new_requests() -> None:
    async with running(MemoryQueue(tell("x"))) as app:
        app.state.fleet.is_draining = True
        assert not app.state.fleet.is_ready()
        async with Exchange(app, ask()) as exchange:
            assert await exchange.status() == 503
            assert b'"service_unavailable"' in await exchange.rest()


async def test_models_are_those_that_workers_announced() -> None:
    async with client_of(MemoryQueue(tell("x"), models=("demo", "org/name")), expected_models=["late"]) as client:
        listing = (await client.get("/v1/models")).json()
        assert [model["id"] for model in listing["data"]] == ["demo", "org/name"]
        assert (await client.get("/v1/models/org/name")).json() == listing["data"][1]
        assert listing["data"][0] == {
            "id": "demo",
            "object": "model",
            "created": 1_700_000_000,
            "max_model_len": 4096,
            "architecture": "Demo",
            "modalities": ["text", "image", "video"],
            "owned_by": "glimpsed",
        }


async def test_an_unknown_model_is_404_and_its_name_is_cut_and_escaped() -> None:
    async with client_of(MemoryQueue(tell("x"))) as client:
        for name in ("nope", "../../etc", "x" * 10_000, "a\r\nb\x1b"):
            answer = await client.post(CHAT, json=ask() | {"model": name})
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
            assert len(error["message"]) < 100
            assert error["message"].isprintable()
            assert "demo" not in error["message"]
        assert (await client.get("/v1/models/nope")).status_code == 404


async def test_a_gateway_that_knows_no_worker_yet_does_not_deny_a_model() -> None:
    async with client_of(MemoryQueue(tell("x"), models=())) as client:
        answer = await client.post(CHAT, json=ask())
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")
        assert int(answer.headers["retry-after"]) >= 1


async def test_workers_are_listed() -> None:
    async with client_of(MemoryQueue(tell("x"))) as client:
        assert (await client.get("/admin/workers")).json() == {
            "workers": [
                {
                    "id": "worker-demo",
                    "pid": 4242,
                    "model": "demo",
                    "state": "ready",
                    "running": 1,
                    "waiting": 2,
                    "kv_usage": 0.25,
                }
            ]
        }


async def test_version_is_told() -> None:
    async with client_of(MemoryQueue(tell("x"))) as client:
        assert isinstance((await client.get("/version")).json()["version"], str)


async def test_metrics_count_requests_tokens_and_latencies() -> None:
    async with client_of(MemoryQueue(tell("a cat sat"))) as client:
        await client.post(CHAT, json=ask(stream=True))
        await client.post(CHAT, json=ask())
        await client.post(CHAT, json={})
        await client.get("/a/path/that/does/not/exist")
        text = (await client.get("/metrics")).text
    for line in (
        'glimpsed_requests_total{route="/v1/chat/completions",status="200"} 2.0',
        'glimpsed_requests_total{route="/v1/chat/completions",status="400"} 1.0',
        'glimpsed_requests_total{route="unmatched",status="404"} 1.0',
        'glimpsed_ttft_seconds_count{model="demo"} 2.0',
        'glimpsed_inter_token_seconds_count{model="demo"} 4.0',
        'glimpsed_e2e_seconds_count{model="demo"} 2.0',
        'glimpsed_prompt_tokens_total{model="demo"} 14.0',
        'glimpsed_completion_tokens_total{model="demo"} 6.0',
        'glimpsed_queue_depth{model="demo"} 0.0',
        'glimpsed_workers{model="demo"} 1.0',
        "glimpsed_jobs_lost_total 0.0",
        "glimpsed_http_in_flight 1.0",
    ):
        assert line in text


async def test_the_workers_own_figures_are_shown_and_bad_ones_left_out() -> None:
    queue = MemoryQueue(tell("x"), models=())
    figures = {"steps_total": 7.0, "glimpsed_worker_batch": 3.0, "bad name\n": 1.0, "nan": float("nan")}
    queue.fleet = [worker("demo", **figures), _named(worker("demo", steps_total=9.0), "second")]
    async with client_of(queue) as client:
        text = (await client.get("/metrics")).text
    assert 'glimpsed_worker_steps_total{model="demo",worker="worker-demo"} 7.0' in text
    assert 'glimpsed_worker_steps_total{model="demo",worker="second"} 9.0' in text
    assert 'glimpsed_worker_batch{model="demo",worker="worker-demo"} 3.0' in text
    assert 'glimpsed_worker_kv_usage{model="demo",worker="second"} 0.25' in text
    assert "# TYPE glimpsed_worker_steps_total counter" in text
    assert not re.search("bad|nan", text)


async def test_two_gateways_in_one_process_do_not_share_their_counts() -> None:
    async with client_of(MemoryQueue(tell("x"))) as first, client_of(MemoryQueue(tell("x"))) as second:
        await first.get("/livez")
        assert 'route="/livez"' not in (await second.get("/metrics")).text


def _named(info: WorkerInfo, worker_id: str) -> WorkerInfo:
    return WorkerInfo(
        worker_id, info.pid, info.card, info.state, info.running, info.waiting, info.kv_usage, info.metrics
    )

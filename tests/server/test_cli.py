"""The command line: what is handed on to workers, and the terminal client against a real HTTP server."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from schemas.flags import ConfigError
from server.chat import media_part
from server.cli import main, parser, worker_arguments


def test_worker_flags_are_handed_on_as_they_were_written() -> None:
    arguments = parser().parse_args(
        ["serve", "--dtype", "float32", "--no-prefix-cache", "--model-option", "a=1", "--model-option", "b=-2", "m"]
        + ["--log-level", "debug", "--port", "1"]
    )
    assert worker_arguments(arguments) == [
        "--dtype=float32",
        "--no-prefix-cache",
        "--model-option=a=1",
        "--model-option=b=-2",
        "--log-level=debug",
    ]
    assert arguments.models == ["m"]


def test_help_lists_every_flag_of_the_interface(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    flags = """--host --port --device --dtype --backend --queue --workers-per-model --max-model-len --kv-cache-memory
        --num-kv-blocks --block-size --max-num-seqs --max-num-batched-tokens --no-prefix-cache --api-key
        --allowed-local-media-path --allow-private-media-hosts --limit-images --limit-videos --max-queue
        --request-timeout --load-format --log-level --log-format --generation-config --model-option"""
    assert [flag for flag in flags.split() if flag not in text] == []


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_models_asks_the_worker_side_for_its_list(flags: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["models", *flags]) == 0
    printed = capfd.readouterr().out
    assert "InternVL2-8B" in printed
    assert not flags or json.loads(printed)["families"]


class Api(BaseHTTPRequestHandler):
    """Answers like the daemon does; `bodies` keeps what was asked."""

    bodies: list[dict] = []
    models = json.dumps({"data": [{"id": "first"}, {"id": "second"}]})

    def do_GET(self) -> None:
        self._answer(200, self.models)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.bodies.append(body)
        if body["model"] == "nope":
            return self._answer(404, json.dumps({"error": {"message": "The model 'nope' does not exist."}}))
        if body["model"] == "odd":
            return self._answer(200, 'data: {"object": "other"}\n\n')
        chunks = [{"choices": [{"delta": {"content": piece}}]} for piece in ("Hello", " there")]
        lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
        self._answer(200, ": keep-alive\n\n" + "".join(lines) + ("" if body["model"] == "cut" else "data: [DONE]\n\n"))

    def _answer(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[str]:
    Api.bodies.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


def test_chat_streams_an_answer_of_the_first_model(api: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "--base-url", api, "--max-tokens", "5", "Hi"]) == 0
    assert capsys.readouterr().out == "Hello there\n"
    (body,) = Api.bodies
    assert (body["model"], body["max_tokens"], body["messages"][-1]["content"]) == ("first", 5, "Hi")


def test_chat_sends_local_files_as_data_urls(api: str, tmp_path: Path) -> None:
    picture = tmp_path / "a.jpg"
    picture.write_bytes(b"jpeg")
    assert main(["chat", "--base-url", api, "--image", str(picture), "--video", "https://x/y.mp4", "Hi"]) == 0
    image, video, text = Api.bodies[0]["messages"][0]["content"]
    assert image["image_url"]["url"] == "data:image/jpeg;base64," + base64.b64encode(b"jpeg").decode()
    assert video == {"type": "video_url", "video_url": {"url": "https://x/y.mp4"}}
    assert text == {"type": "text", "text": "Hi"}


@pytest.mark.parametrize(
    ("model", "reason"), [("nope", "does not exist"), ("cut", "broke off"), ("odd", "none of this API")]
)
def test_chat_tells_why_there_is_no_answer(
    api: str, model: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["chat", "--base-url", api, "--model", model, "Hi"]) == 1
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("command", ["chat", "bench"])
@pytest.mark.parametrize("models", ["<!doctype html>", "[]", '{"data": [1]}', '{"models": []}'])
def test_a_server_of_another_kind_is_told_in_one_line(
    api: str, command: str, models: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Api, "models", models)
    assert main([command, "--base-url", api, *(["Hi"] if command == "chat" else [])]) == 1
    error = capsys.readouterr().err
    assert error == f"glimpsed {command}: {api}/models is no list of models; is --base-url right, with its /v1?\n"


def test_chat_without_a_server_says_where_it_looked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "--base-url", "http://127.0.0.1:9/v1", "Hi"]) == 1
    assert "cannot reach http://127.0.0.1:9/v1" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="^--image: cannot read 'gone.png': "):
        media_part("image", "gone.png")

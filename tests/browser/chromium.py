"""A headless Chromium, driven over its DevTools protocol: one process, a clean profile for each page."""

import asyncio
import base64
import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp

START_S = 60.0
PATIENCE_S = 30.0
PROGRAM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), "")
_FLAGS = (
    "--headless=new",
    "--remote-debugging-port=0",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
)


@contextmanager
def chromium() -> Iterator[str]:
    """A running browser; the address of its DevTools socket."""
    # Chromium's own sandbox does not run for root, and pages of ours are all that it opens.
    sandbox = ("--no-sandbox",) if os.geteuid() == 0 else ()
    with tempfile.TemporaryDirectory(prefix="chromium", ignore_cleanup_errors=True) as profile:
        command = [PROGRAM, *_FLAGS, *sandbox, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            assert process.stderr is not None
            said = b""
            for line in process.stderr:
                said += line
                if found := re.match(rb"DevTools listening on (ws://\S+)", line):
                    break
            else:
                raise RuntimeError(f"{PROGRAM} ended: {said.decode(errors='replace')[-500:]}")
            yield found[1].decode()
        finally:
            process.terminate()
            process.communicate(timeout=START_S)


class Page:
    """One tab.

    problems: console errors and warnings, uncaught exceptions, failed loads, violated policies: source and text.
    urls: what it asked for.
    keys: passwords for when a server asks for one, in turn.
    headers: more of every request.
    canned: path -> event stream that the browser is given in place of the server's.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.problems: list[tuple[str, str]] = []
        self.urls: list[str] = []
        self.keys: list[str] = []
        self.headers: dict[str, str] = {}
        self.canned: dict[str, bytes] = {}
        self._socket = socket
        self._session = ""
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    async def open(self, url: str) -> None:
        """Make the tab and load a page in it."""
        context = await self.send("Target.createBrowserContext")
        target = await self.send("Target.createTarget", url="about:blank", **context)
        session = await self.send("Target.attachToTarget", flatten=True, **target)
        self._session = session["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            await self.send(f"{domain}.enable")
        await self.send("Fetch.enable", handleAuthRequests=True)
        await self.send("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.protocol !== 'about:'")

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        """A DevTools command and its answer."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json(message | ({"sessionId": self._session} if self._session else {}))
        async with asyncio.timeout(PATIENCE_S):
            return await answer

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; of a promise, what it comes to."""
        answer = await self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    async def until(self, condition: str) -> None:
        """Until a JavaScript condition holds; it may fail to be evaluated while a page loads."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    looking = f"new Promise((done) => {{ const look = () => ({condition}) ? done(true)"
                    await self.evaluate(f"{looking} : setTimeout(look, 10); look(); }})")
                    return
                except DevToolsError:
                    continue

    async def attach_file(self, selector: str, path: str) -> None:
        """Choose a file in a file input."""
        root = (await self.send("DOM.getDocument"))["root"]["nodeId"]
        node = (await self.send("DOM.querySelector", nodeId=root, selector=selector))["nodeId"]
        await self.send("DOM.setFileInputFiles", nodeId=node, files=[path])

    async def type(self, selector: str, text: str) -> None:
        """Put the cursor into a field, write, and press Enter."""
        await self.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
        await self.send("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            await self.send("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13)

    async def click(self, selector: str) -> None:
        """Press the mouse where an element is; fails for one that is not to be seen."""
        box = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        x, y, width = await self.evaluate(f"((b) => [b.x + b.width / 2, b.y + b.height / 2, b.width])({box})")
        assert width > 0, f"{selector} is not to be seen"
        for kind in ("mousePressed", "mouseReleased"):
            await self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def listen(self) -> None:
        """Take in what the browser says, until its socket closes."""
        async for message in self._socket:
            said = json.loads(message.data)
            if "id" not in said:
                self._heard(said["method"], said["params"])
            elif not (answer := self._answers.pop(said["id"])).done():
                if "error" in said:
                    answer.set_exception(DevToolsError(said["error"]["message"]))
                else:
                    answer.set_result(said["result"])

    def _heard(self, event: str, params: dict[str, Any]) -> None:
        match event:
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.problems.append(("console", json.dumps(params["args"])))
            case "Runtime.exceptionThrown":
                self.problems.append(("exception", json.dumps(params["exceptionDetails"])))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.problems.append((params["entry"]["source"], params["entry"]["text"]))
            case "Network.requestWillBeSent":
                self.urls.append(params["request"]["url"])
            case "Fetch.requestPaused":
                self._later(self._pass_on(params))
            case "Fetch.authRequired":
                self._later(self._log_in(params["requestId"]))

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, params: dict[str, Any]) -> None:
        request_id, request = params["requestId"], params["request"]
        body = self.canned.get(urlsplit(request["url"]).path)
        if body is not None:
            headers, encoded = _listed({"content-type": "text/event-stream"}), base64.b64encode(body).decode()
            await self.send(
                "Fetch.fulfillRequest", requestId=request_id, responseCode=200, responseHeaders=headers, body=encoded
            )
        else:
            headers = _listed({**request["headers"], **self.headers})
            await self.send("Fetch.continueRequest", requestId=request_id, headers=headers)

    async def _log_in(self, request_id: str) -> None:
        response = {"response": "CancelAuth"}
        if self.keys:
            response = {"response": "ProvideCredentials", "username": "key", "password": self.keys.pop(0)}
        await self.send("Fetch.continueWithAuth", requestId=request_id, authChallengeResponse=response)


def _listed(headers: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in headers.items()]


class DevToolsError(Exception):
    """The browser refused a command."""


@asynccontextmanager
async def new_page(devtools_url: str) -> AsyncIterator[Page]:
    """A tab without a page yet."""
    async with aiohttp.ClientSession() as http, http.ws_connect(devtools_url, max_msg_size=0) as socket:
        page = Page(socket)
        listening = asyncio.create_task(page.listen())
        try:
            yield page
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

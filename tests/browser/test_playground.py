"""The page at `GET /` in a real browser, served by a gateway that really listens; only the worker is a script."""

import asyncio
import base64
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from schemas.events import Event, Failed
from schemas.jobs import ChatJob, ImagePart, TextPart
from tests.browser.chromium import PROGRAM, Page, chromium, new_page
from tests.fakes.memory_queue import MemoryQueue, Script, Teller, WorkerDied, tell
from tests.server.serving import listening

pytestmark = pytest.mark.skipif(not PROGRAM, reason="there is no chromium on the PATH")

PICTURE = Path(__file__).parents[2] / "docs" / "examples" / "shapes.png"
TEXT = "a cat sat on the mat"
LAST = "document.querySelector('#chat > :last-child')"


@pytest.fixture(scope="module")
def browser() -> Iterator[str]:
    with chromium() as devtools_url:
        yield devtools_url


@pytest.fixture
async def page(browser: str) -> AsyncIterator[Page]:
    async with new_page(browser) as page:
        yield page


async def ready(page: Page, url: str) -> None:
    """Open the page and wait for its list of models."""
    await page.open(url)
    await page.until("document.querySelector('#model').value === 'demo'")


async def until_answered(page: Page, text: str) -> None:
    await page.until(f"{LAST}.textContent === {text!r} && document.querySelector('#stop').hidden")


def halting(words: int, gate: asyncio.Event) -> Script:
    """Tells so many words of TEXT, and the rest when the gate opens."""

    async def script(job: ChatJob) -> AsyncGenerator[Event, None]:
        teller = Teller(job)
        yield teller.accepted()
        for number, delta in enumerate(teller.words(TEXT)):
            if number == words:
                await gate.wait()
            yield delta
        yield teller.finished()

    return script


def hosts(page: Page) -> set[str]:
    """Where requests went over a network."""
    return {urlsplit(url).netloc for url in page.urls if urlsplit(url).scheme not in ("data", "blob", "about")}


async def test_a_question_about_a_picture_is_answered_as_the_answer_comes(page: Page) -> None:
    gate = asyncio.Event()
    queue = MemoryQueue(halting(2, gate))
    async with listening(queue) as (host, port):
        await ready(page, f"http://{host}:{port}/")
        await page.attach_file("#files", str(PICTURE))
        await page.until("document.querySelector('#attached img')?.naturalWidth > 0")
        await page.type("#text", "What is this?")
        await page.until(f"{LAST}.textContent === 'a cat '")
        assert await page.evaluate("document.querySelector('#stop').hidden") is False
        gate.set()
        await until_answered(page, TEXT)
        assert await page.evaluate("document.querySelector('.turn.user img').naturalWidth") > 0
        assert "7 tokens in, 6 out" in await page.evaluate("document.querySelector('#status').textContent")
    [job] = queue.submitted
    picture, text = job.messages[0].parts
    assert isinstance(picture, ImagePart) and isinstance(text, TextPart)
    assert base64.b64decode(picture.url.removeprefix("data:image/png;base64,")) == PICTURE.read_bytes()
    assert text.text == "What is this?"
    assert hosts(page) == {f"{host}:{port}"}
    assert page.problems == []


async def test_the_next_question_carries_the_conversation_and_a_new_chat_does_not(page: Page) -> None:
    queue = MemoryQueue(tell(TEXT))
    async with listening(queue) as (host, port):
        await ready(page, f"http://{host}:{port}/")
        for question in ("One?", "Two?"):
            await page.type("#text", question)
            await until_answered(page, TEXT)
        await page.click("#clear")
        await page.type("#text", "Three?")
        await until_answered(page, TEXT)
        assert await page.evaluate("document.querySelectorAll('.turn').length") == 2
    said = [[(message.role, message.parts[0].text) for message in job.messages] for job in queue.submitted]
    assert said == [
        [("user", "One?")],
        [("user", "One?"), ("assistant", TEXT), ("user", "Two?")],
        [("user", "Three?")],
    ]
    assert page.problems == []


async def test_stop_ends_the_work_and_keeps_what_has_come(page: Page) -> None:
    queue = MemoryQueue(halting(3, asyncio.Event()))
    async with listening(queue) as (host, port):
        await ready(page, f"http://{host}:{port}/")
        await page.type("#text", "Tell me.")
        await page.until(f"{LAST}.textContent === 'a cat sat '")
        await page.click("#stop")
        await until_answered(page, "a cat sat ")
        await asyncio.wait_for(queue.was_cancelled.wait(), 10)
        queue.script = tell("and on")
        await page.type("#text", "Go on.")
        await until_answered(page, "and on")
    assert [message.parts[0].text for message in queue.submitted[1].messages] == ["Tell me.", "a cat sat ", "Go on."]
    assert page.problems == []


async def test_a_refused_request_is_told_and_the_question_can_be_sent_again(page: Page) -> None:
    async def refuse(job: ChatJob) -> AsyncGenerator[Event, None]:
        yield Failed(job_id=job.job_id, epoch=0, seq=0, code="image_too_large", message="It is too large.")

    queue = MemoryQueue(refuse)
    async with listening(queue) as (host, port):
        await ready(page, f"http://{host}:{port}/")
        await page.type("#text", "Hm?")
        await page.until(f"{LAST}.matches('.error') && {LAST}.textContent === 'It is too large.'")
        assert await page.evaluate("document.querySelector('#text').value") == "Hm?"
        queue.script = tell(TEXT)
        await page.click("button[type=submit]")
        await until_answered(page, TEXT)
    assert [len(job.messages) for job in queue.submitted] == [1, 1]
    assert {source for source, _ in page.problems} <= {"network"}, "the browser itself notes the status"


async def test_an_error_in_the_middle_of_an_answer_is_told_behind_what_has_come(page: Page) -> None:
    async def die(job: ChatJob) -> AsyncGenerator[Event, None]:
        teller = Teller(job)
        yield teller.accepted()
        if job.epoch == 0:
            yield teller.words(TEXT)[0]
        raise WorkerDied

    async with listening(MemoryQueue(die)) as (host, port):
        await ready(page, f"http://{host}:{port}/")
        await page.type("#text", "Tell me.")
        await page.until(f"{LAST}.matches('.error')")
        turns = await page.evaluate("[...document.querySelectorAll('.turn')].map((turn) => turn.textContent)")
    assert turns == ["Tell me.", "a ", "The workers that served this request failed."]
    assert page.problems == []


async def test_a_server_that_goes_away_is_told(page: Page) -> None:
    async with listening(MemoryQueue(halting(3, asyncio.Event()))) as (host, port):
        await ready(page, f"http://{host}:{port}/")
    await page.type("#text", "Anybody?")
    await page.until(f"{LAST}.matches('.error')")
    assert await page.evaluate(f"{LAST}.textContent") == "The server cannot be reached."
    assert {source for source, _ in page.problems} <= {"network"}


async def test_an_answer_that_is_cut_off_does_not_pass_for_a_whole_one(page: Page) -> None:
    page.canned["/v1/chat/completions"] = b'data: {"choices": [{"delta": {"content": "half a "}}]}\n\n'
    async with listening(MemoryQueue(tell(TEXT))) as (host, port):
        await ready(page, f"http://{host}:{port}/")
        await page.type("#text", "Tell me.")
        await page.until(f"{LAST}.matches('.error')")
        turns = await page.evaluate("[...document.querySelectorAll('.turn')].map((turn) => turn.textContent)")
    assert turns == ["Tell me.", "half a ", "The answer was cut off."]
    assert page.problems == []


async def test_a_refused_key_shows_no_page(page: Page) -> None:
    async with listening(MemoryQueue(tell(TEXT)), api_keys=["sk-test"]) as (host, port):
        page.keys = ["sk-wrong"]
        await page.open(f"http://{host}:{port}/")
        assert "API key" in await page.evaluate("document.body.textContent")
        assert await page.evaluate("document.querySelector('#form')") is None


async def test_a_key_is_asked_for_until_it_is_right_and_told_when_it_is_no_more(page: Page) -> None:
    async with listening(MemoryQueue(tell(TEXT)), api_keys=["sk-test"]) as (host, port):
        page.keys = ["sk-wrong", "sk-test"]
        await ready(page, f"http://{host}:{port}/")
        await page.type("#text", "Hm?")
        await until_answered(page, TEXT)
        page.headers = {"Authorization": "Bearer sk-taken-away"}
        await page.type("#text", "And now?")
        await page.until(f"{LAST}.matches('.error')")
        assert "API key" in await page.evaluate(f"{LAST}.textContent")
    assert {source for source, _ in page.problems} <= {"network"}


async def test_markup_in_an_answer_is_text(page: Page) -> None:
    markup = "<img/src=x/onerror=document.title='taken'> <script>document.title='taken'</script>"
    async with listening(MemoryQueue(tell(markup))) as (host, port):
        await ready(page, f"http://{host}:{port}/")
        await page.type("#text", markup)
        await page.until(f"{LAST}.textContent.endsWith('/script>') && document.querySelector('#stop').hidden")
        assert await page.evaluate("[document.title, document.querySelectorAll('#chat img, #chat script').length]") == [
            "glimpsed",
            0,
        ]
    assert page.problems == []


async def test_the_policy_keeps_scripts_that_got_in_from_running_and_from_calling_out(page: Page) -> None:
    calls: list[bytes] = []

    async def canary(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(await reader.read(100))
        writer.close()

    async with listening(MemoryQueue(tell(TEXT))) as (host, port), await asyncio.start_server(canary, host) as other:
        elsewhere = f"http://{host}:{other.sockets[0].getsockname()[1]}"
        await ready(page, f"http://{host}:{port}/")
        await page.evaluate(
            "window.violated = []; document.addEventListener('securitypolicyviolation',"
            " (event) => violated.push(event.effectiveDirective)); 0"
        )
        await page.evaluate(f"fetch('{elsewhere}').then(() => 'sent', () => 'blocked')")
        await page.evaluate(f"document.body.append(Object.assign(new Image(), {{src: '{elsewhere}/a.png'}}))")
        await page.evaluate(
            "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))"
        )
        await page.until("violated.length >= 3")
        assert set(await page.evaluate("violated")) == {"connect-src", "img-src", "script-src-elem"}
        assert await page.evaluate("window.ran") is None
    assert calls == []

"""The page to try the server with."""

import base64
import hashlib
import re

from tests.fakes.memory_queue import MemoryQueue, tell
from tests.server.serving import client_of


async def test_the_page_loads_nothing_from_elsewhere_and_its_policy_names_its_own_script() -> None:
    async with client_of(MemoryQueue(tell("x"))) as client:
        answer = await client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert not re.search(r"https?://|src=|@import|innerHTML|\beval\b", answer.text)
    script = answer.text.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]


async def test_with_keys_a_browser_is_asked_for_one_as_its_password() -> None:
    async with client_of(MemoryQueue(tell("x")), api_keys=["sk-test"]) as client:
        refused = await client.get("/")
        assert (refused.status_code, refused.headers["www-authenticate"].split()[0]) == (401, "Basic")
        assert (await client.get("/", auth=("anyone", "sk-test"))).status_code == 200

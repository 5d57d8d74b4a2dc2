"""Long base64 of media stays in the body; what is read of a body is the same with and without that."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.data_url import DataUrl
from schemas.errors import ErrorCode, RequestError
from schemas.jobs import ImagePart, VideoPart
from server.json_body import decode_json, decode_json_with_media
from server.long_texts import WINDOW_BYTES, Places, anthropic_media, chat_media
from tests.fakes.memory_queue import MemoryQueue, tell
from tests.server.serving import client_of

LONG = "QUJD" * (WINDOW_BYTES // 2)
URL = f"data:image/png;base64,{LONG}"


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def chat(*parts: object, **fields: object) -> dict[str, Any]:
    return {"model": "demo", "messages": [{"role": "user", "content": list(parts)}], **fields}


def read(body: object, media: Places = chat_media) -> Any:
    return decode_json_with_media(bytearray(json.dumps(body).encode()), media)


def plain(value: Any) -> Any:
    """With strings where the body was left alone."""
    match value:
        case DataUrl():
            return value.head + str(value.text.data, "ascii")
        case dict():
            return {name: plain(item) for name, item in value.items()}
        case list():
            return [plain(item) for item in value]
    return value


def num_left(value: Any) -> int:
    match value:
        case DataUrl():
            return 1
        case dict():
            return sum(map(num_left, value.values()))
        case list():
            return sum(map(num_left, value))
    return 0


def test_urls_of_pictures_and_clips_are_left_in_the_body_in_their_places() -> None:
    clip = {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{LONG}"}}
    body = chat(image(URL), {"type": "text", "text": "and"}, image("data:image/png;base64,QUJD"), clip)
    found = read(body)
    assert plain(found) == body
    parts = found["messages"][0]["content"]
    assert [type(parts[at][f"{kind}_url"]["url"]) for at, kind in ((0, "image"), (2, "image"), (3, "video"))] == [
        DataUrl,
        str,
        DataUrl,
    ]
    assert parts[0]["image_url"]["url"].head == "data:image/png;base64,"


def test_anthropics_base64_is_left_in_messages_and_in_results_of_tools() -> None:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": LONG}}
    clip = {"type": "video", "source": {"type": "base64", "media_type": "video/mp4", "data": LONG[4:]}}
    body = chat(picture, {"type": "tool_result", "tool_use_id": "a", "content": [clip]})
    found = read(body, anthropic_media)
    assert plain(found) == body and num_left(found) == 2


@pytest.mark.parametrize(
    "body",
    [
        chat({"type": "text", "text": URL}),
        chat(image(URL), {"type": "text", "text": LONG}),
        chat(image(f"https://example.org/{LONG}")),
        chat(image("data:" + "A" * 2048 + f",{LONG}")),
        chat(image(f"dataé:,{LONG}")),
        chat(image(URL), tools=[{"function": {"parameters": {"data": URL, "url": URL}}}]),
        chat({"type": "text", "image_url": {"url": URL}}),
        chat({"type": ["image_url"], "image_url": {"url": URL}}),
        chat({"type": "image_url", "image_url": URL}),
        chat({"type": "image_url", "image_url": {"url": [URL]}}),
        chat({"type": "image_url", "image_url": {LONG: 1}}),
        chat({LONG: URL}),
        {"messages": [{"content": {"type": "image_url", "image_url": {"url": URL}}}]},
        {"messages": {"content": URL}},
        {"messages": [[image(URL)]]},
        [URL, image(URL)],
        URL,
    ],
    ids=range(17),
)
def test_a_long_string_anywhere_else_is_a_string_as_ever(body: object) -> None:
    found = read(body)
    assert found == body and num_left(found) == 0


@pytest.mark.parametrize(
    "raw",
    [
        b'{"messages": [{"content": [{"type": "image_url", "image_url": {"url": "%s"}}]}]}' % URL[:-3].encode() + b"}",
        b'{"a": "b"%s"c": "d"}' % LONG.encode(),
        b'{"a": "%s, "b": 1}' % LONG.encode(),
        b'"%s' % LONG.encode(),
        b'%s"' % LONG.encode(),
        b"%s" % LONG.encode(),
        b'["%s" "%s"]' % (LONG.encode(), LONG.encode()),
        b'["%s""%s"]' % (LONG.encode(), LONG.encode()),
        b'["%s\\"]' % LONG.encode(),
    ],
    ids=range(9),
)
def test_what_is_no_json_is_none_with_long_strings_in_it_either(raw: bytes) -> None:
    for media in (chat_media, anthropic_media):
        with pytest.raises(RequestError) as refused:
            decode_json_with_media(bytearray(raw), media)
        assert refused.value.code == ErrorCode.INVALID_JSON


def test_escapes_spaces_and_numbers_between_strings_change_nothing() -> None:
    escaped = json.dumps(chat(image(URL))).replace("/", "\\/")
    assert decode_json_with_media(bytearray(escaped.encode()), chat_media) == chat(image(URL))
    gap = " " * (3 * WINDOW_BYTES)
    numbers = ",".join("1" for _ in range(2 * WINDOW_BYTES))
    body = f'{{"x":"y"{gap},{gap}"n":[{numbers}],{gap}"messages":[{{"content":[{json.dumps(image(URL))}]}}]}}'
    found = decode_json_with_media(bytearray(body.encode()), chat_media)
    assert plain(found) == json.loads(body) and num_left(found) == 1


def test_of_a_name_that_is_there_twice_the_last_counts() -> None:
    other = URL[:-4] + "REVG"
    body = b'{"messages":[{"content":[{"type":"image_url","image_url":{"url":"%s","url":"%s"}}]}]}'
    found = decode_json_with_media(bytearray(body % (URL.encode(), other.encode())), chat_media)
    assert plain(found) == {"messages": [{"content": [image(other)]}]}


_STRINGS = st.one_of(
    st.text(max_size=8),
    st.builds(
        lambda start, unit, size, end: start + unit * (size // len(unit)) + end,
        st.sampled_from(["", "data:image/png;base64,", "data:", ",", " ", '"', "\\"]),
        st.sampled_from(["QUJD", 'A"', "A\\", "é", ", ", "[{", '",'], ),
        st.sampled_from([WINDOW_BYTES // 2, WINDOW_BYTES, 2 * WINDOW_BYTES, 3 * WINDOW_BYTES + 1]),
        st.sampled_from(["", '"', "\\", "\n", "="]),
    ),
)  # fmt: skip
_PARTS = st.one_of(
    st.builds(image, _STRINGS),
    st.fixed_dictionaries({"type": st.just("image_url"), "image_url": st.dictionaries(_STRINGS, _STRINGS, max_size=2)}),
    st.dictionaries(_STRINGS, st.one_of(_STRINGS, st.lists(_STRINGS, max_size=2)), max_size=2),
    _STRINGS,
)


@settings(deadline=None, max_examples=150)
@given(st.lists(_PARTS, max_size=5), st.sampled_from([None, 1]), st.booleans())
def test_any_body_says_the_same(parts: list[Any], indent: int | None, ensure_ascii: bool) -> None:
    raw = json.dumps(chat(*parts), indent=indent, ensure_ascii=ensure_ascii).encode()
    assert plain(decode_json_with_media(bytearray(raw), chat_media)) == decode_json(raw)


async def test_a_picture_reaches_its_job_through_every_route_without_becoming_a_string() -> None:
    queue = MemoryQueue(tell("a"))
    block = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": LONG}}
    clip = {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{LONG}"}}
    async with client_of(queue) as client:
        for path, body in {
            "chat/completions": chat(image(URL), clip),
            "tokenize": chat(image(URL), clip),
            "messages": chat(block, max_tokens=1),
            "messages/count_tokens": chat(block),
        }.items():
            answer = await client.post(f"/v1/{path}", json=body)
            assert answer.status_code == 200, (path, answer.text)
            for part in queue.submitted.pop().messages[0].parts:
                assert isinstance(part, ImagePart | VideoPart) and part.url.endswith(";base64,")
                assert part.text is not None and bytes(part.text.data) == LONG.encode()


async def test_a_picture_in_the_wrong_place_is_refused_by_its_name() -> None:
    system = {"role": "system", "content": [image(URL)]}
    async with client_of(MemoryQueue(tell("a"))) as client:
        for body, param in (
            (chat({**image(URL), "image_url": {"url": URL, "data": URL}}), "messages.0.content.0.image_url.data"),
            (chat({"type": "video_url", "image_url": {"url": URL}}), "messages.0.content.0.video_url"),
            (chat({"type": "text", "text": {"url": URL}}), "messages.0.content.0.text"),
            ({**chat(), "messages": [system]}, "messages.0.content.0.image_url.url"),
        ):
            answer = await client.post("/v1/chat/completions", json=body)
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] == param
            assert "QUJDQUJD" not in answer.text


def test_base64_of_any_length_is_whole() -> None:
    for size in range(3 * WINDOW_BYTES // 4 - 3, 3 * WINDOW_BYTES // 2 + 4, 1021):
        body = chat(image("data:image/png;base64," + base64.b64encode(bytes(size)).decode()))
        assert plain(read(body)) == body

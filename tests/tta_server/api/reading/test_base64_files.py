"""Image files as base64 within JSON: what went in comes out, and whatever else is sent is refused at little cost."""

import asyncio
import base64
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st

from tta_server.api.predict import uploads
from tta_server.api.reading.base64_files import files
from tta_server.errors import BadRequest


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=4))
def test_files_come_out_as_they_went_in(contents):
    assert files(json.dumps({"image": [text(data) for data in contents]}).encode(), 4) == contents
    assert files(json.dumps({"image": text(contents[0])}).encode(), 4) == contents[:1]


def test_lines_and_data_urls_are_read():
    wrapped = base64.encodebytes(b"x" * 200).decode()
    url = f"data:image/png;base64,{text(b'y')}"

    assert files(json.dumps({"image": [wrapped, url, url, url]}).encode(), 4) == [b"x" * 200, b"y", b"y", b"y"]


@pytest.mark.parametrize("more", range(-4, 5))
def test_long_files_come_out_as_they_went_in(more):
    data = bytes(range(256)) * 2**10 * 3
    data = data[: len(data) // 4 + more] + data

    assert files(json.dumps({"image": text(data)}).encode(), 4) == [data]


def test_much_is_read_beside_the_event_loop():
    data = b"x" * 2**16
    sent = {"type": "http.request", "body": json.dumps({"image": text(data)}).encode()}
    busy = threading.Event()

    async def receive() -> dict:
        return sent

    async def read(pool: ThreadPoolExecutor) -> list[bytes]:
        headers = [(b"content-type", b"application/json")]
        request = Request({"type": "http", "headers": headers}, receive)
        reading = asyncio.create_task(uploads(request, 4, pool))
        for _ in range(10):
            await asyncio.sleep(0)  # the loop goes on while the pool has other work
        early = reading.done()
        busy.set()
        assert not early
        return [upload.data for upload in await reading]

    with ThreadPoolExecutor(1) as pool:
        pool.submit(busy.wait)
        assert asyncio.run(read(pool)) == [data]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "not JSON"),
        (b"\xff\xd8", "not JSON"),
        (b'"eA=="', "expected to be"),
        (b'{"image": []}', "expected to be"),
        (b'{"image": 7}', "expected to be"),
        (b'{"image": ["eA==", null]}', "expected to be"),
        (b'{"images": "eA=="}', "expected to be"),
        (b'{"image": "eA==", "top_k": 1}', "expected to be"),
        (b'{"image": "e"}', "image 1 of 1 is not base64"),
        (b'{"image": ["eA==", "e?=="]}', "image 2 of 2 is not base64"),
        ('{"image": "\u00e4A=="}'.encode(), "image 1 of 1 is not base64"),
        (b'{"image": ["","","","",""]}', "has 5 images, and a request may have 4"),
        (b'{"image": [' + b"[]," * 1_000_000 + b"[]]}", "more than the 4 images"),
        (b'{"image": [' + b"1," * 1_000_000 + b"1]}", "more than the 4 images"),
        (b"[" * 1_000_000, "more than the 4 images"),
        (b'{"image": "' + b"A" * (2**18 - 4) + b"eA==" + b'eA=="}', "something follows its padding"),
    ],
)
def test_what_is_no_such_body_is_told_so(body, said):
    with pytest.raises(BadRequest, match=said):
        files(body, 4)

"""The one way to answer, without any transport: room, the pool, and callers who hang up."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from tests.tta_server.calls import UNGUARDED
from tests.tta_server.pictures import png
from tests.tta_server.runtime.fakes import SHAPE, rows, tiny
from tta_server.app import build
from tta_server.errors import BadRequest, ClientGone, ConstantImage, NotReady, Overloaded, TTAError, UnsupportedMedia
from tta_server.models import Model, Preprocess
from tta_server.runtime import answer as module
from tta_server.runtime.answer import Question, answer
from tta_server.runtime.images.codec import Upload, open_image
from tta_server.runtime.job import Answer
from tta_server.runtime.served import Served
from tta_server.settings_file import load_settings

PATIENCE_S = 30
IMAGE_BYTES = int(np.prod(SHAPE))


def make(**limits: object) -> Served:
    engine = {"max_rows": 4, "max_queue_rows": 8, "window_rows": 4}
    settings = load_settings(None, {"engine": engine, "guard": UNGUARDED, "limits": {"decode_threads": 1, **limits}})
    return build(settings, Model(tiny(), Preprocess(SHAPE[1:]), ("a", "b", "c", "d"))).served


@pytest.fixture
def served() -> Iterator[Served]:
    """What is served, and starts; at the end all its room must have been given back."""
    started = make()
    started.start()
    yield started
    started.stop()
    assert (started.engine._room.images, started.engine._room.bytes) == (0, 0)


async def never() -> None:
    await asyncio.Event().wait()


@dataclass(frozen=True)
class Plain:
    """Images that need no reading."""

    images: np.ndarray

    @property
    def rows(self) -> int:
        return len(self.images)

    @property
    def decoded_bytes(self) -> int:
        return self.images.nbytes

    @property
    def names(self) -> list[str]:
        return [f"image {place} of {self.rows}" for place in range(1, self.rows + 1)]

    def read(self) -> np.ndarray:
        return self.images


def ask(served: Served, content: Any, gone: Any = never) -> Answer:
    content = Plain(content) if isinstance(content, np.ndarray) else content
    return asyncio.run(answer(served, Question("door", content, "ann", "frame-1"), gone))


def read(served: Served) -> list[dict]:
    return served.engine.command(lambda commands: commands.list().streams).result(PATIENCE_S)


def test_files_and_their_pixels_get_the_same_answer(served):
    uploads = tuple(Upload(f"{seed}", png(8, 8, seed)) for seed in range(3))
    pixels = np.stack([open_image(upload).decode(served.model.preprocess) for upload in uploads])

    from_files, from_pixels = ask(served, uploads), ask(served, pixels)

    assert np.array_equal(from_files.probabilities, from_pixels.probabilities)
    assert (from_files.stream, from_files.version) == ("door", 0)


@pytest.mark.parametrize("place", [0, 1])
def test_an_image_of_one_colour_is_named_and_nothing_of_its_request_is_answered(served, place):
    images = rows(2)
    images[place] = 7

    with pytest.raises(ConstantImage, match=f"^image {place + 1} of 2 is of one colour"):
        ask(served, images)

    assert read(served) == []


def test_images_of_one_colour_are_answered_if_they_are_allowed():
    served = make(refuse_constant=False)
    served.start()
    try:
        assert ask(served, np.zeros((1, *SHAPE), np.uint8)).probabilities.shape == (1, 4)
        assert read(served)[0]["images_dropped"] == 1  # but not learnt from
    finally:
        served.stop()


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ((), BadRequest),
        (rows(5), BadRequest),
        ((Upload("the body", b"text"),), UnsupportedMedia),
        ((Upload("the body", b""),), BadRequest),
    ],
    ids=["nothing", "too many", "no image", "empty"],
)
def test_what_cannot_be_answered_keeps_no_room(served, content, error):
    with pytest.raises(error):
        ask(served, content)


def test_nothing_is_decoded_without_room(served, monkeypatch):
    monkeypatch.setattr(module, "open_image", lambda *_: pytest.fail("it was opened"))

    with served.engine.reserve(4, 1), served.engine.reserve(4, 1):
        with pytest.raises(Overloaded, match="8 images are waiting and this server queues at most 8"):
            ask(served, (Upload("the body", png()),))
        with pytest.raises(Overloaded, match="8 images are waiting"):
            served.engine.refuse_if_full()


@pytest.mark.parametrize(
    ("content", "size"), [(rows(2), 2 * IMAGE_BYTES), ((rows(2) / 255).astype(np.float32), 8 * IMAGE_BYTES)]
)
def test_room_is_counted_in_decoded_bytes_too(content, size):
    most = 16 * IMAGE_BYTES
    served = make(max_decoded_bytes=most)
    served.start()
    try:
        with served.engine.reserve(1, most - size):
            assert ask(served, content).probabilities.shape == (2, 4)
        with (
            served.engine.reserve(1, most - size + 1),
            pytest.raises(Overloaded, match=r"holds at most 3072 \(limits.max_decoded_bytes\)") as error,
        ):
            ask(served, content)
        assert error.value.retry_after_s >= 1
    finally:
        served.stop()


def test_a_limit_below_one_request_is_refused_at_the_start():
    with pytest.raises(ValueError, match="max_decoded_bytes is 3071, expected at least 3072: a request of"):
        make(max_decoded_bytes=3071)


def test_by_default_a_full_queue_of_floats_has_room():
    served = make()
    floats = 4 * IMAGE_BYTES
    served.start()
    try:
        with served.engine.reserve(4, 4 * floats), served.engine.reserve(4, 4 * floats):
            pass
    finally:
        served.stop()


@pytest.mark.parametrize("begun", [False, True], ids=["waits for the pool", "is being decoded"])
def test_a_caller_who_hangs_up_before_the_device_begins_is_neither_answered_nor_learnt_from(served, monkeypatch, begun):
    entered, leave = threading.Event(), threading.Event()
    looked = module.decode_all

    def slow(*args: Any) -> np.ndarray:
        entered.set()
        assert leave.wait(PATIENCE_S)
        return looked(*args)

    monkeypatch.setattr(module, "decode_all", slow)
    monkeypatch.setattr(module, "TINY_BYTES", 0)  # these are tiny, and would be decoded where they are

    async def hang_up() -> None:
        await asyncio.to_thread(entered.wait, PATIENCE_S)
        leave.set()

    async def both() -> list[Any]:
        question = Question("door", (Upload("the body", png(8, 8)),))
        asked = [answer(served, question, hang_up)]
        if not begun:
            asked.insert(0, answer(served, question, never))  # the one thread of the pool is busy with it
        return await asyncio.gather(*asked, return_exceptions=True)

    *answered, dropped = asyncio.run(both())

    assert isinstance(dropped, ClientGone)
    assert [each.probabilities.shape for each in answered] == [(1, 4)] * (not begun)
    assert sum(each["images"] for each in read(served)) == len(answered)


def test_a_request_that_is_given_up_in_the_queue_leaves_it_at_once(served):
    entered, leave = threading.Event(), threading.Event()

    def busy(_commands: object) -> None:
        entered.set()
        leave.wait(PATIENCE_S)

    running = served.engine.command(busy)
    assert entered.wait(PATIENCE_S)

    async def hang_up() -> None:
        while served.engine._batcher.rows < 4:
            await asyncio.sleep(0.001)

    with pytest.raises(ClientGone):
        ask(served, rows(4), hang_up)

    assert served.engine._batcher.rows == 0
    leave.set()
    running.result(PATIENCE_S)
    assert read(served) == []


def test_what_is_queued_was_hashed_and_tested_in_the_pool(served, monkeypatch):
    threads = []
    prepared = module.prepared
    monkeypatch.setattr(module, "TINY_BYTES", 0)  # these are tiny, and would be read where they are
    monkeypatch.setattr(
        module, "prepared", lambda images: threads.append(threading.current_thread()) or prepared(images)
    )
    hashed = []
    monkeypatch.setattr(
        "tta_server.streams.window._digest", lambda image: hashed.append(len(image)) or b"%d" % len(hashed)
    )

    ask(served, rows(3))

    assert [thread.name.partition("_")[0] for thread in threads] == ["decode"]
    assert hashed == [1, 1, 1]  # once each


def test_a_server_that_is_stopping_takes_nothing():
    served = make()
    served.start()
    served.stop()

    with pytest.raises(NotReady) as error:
        ask(served, rows(1))

    assert isinstance(error.value, TTAError)

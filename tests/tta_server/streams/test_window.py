"""What a window lets in and hands out, against a naive model of it."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.tta_server.runtime.fakes import SHAPE, rows
from tta_server.streams.window import Window, as_samples, digest, prepared

BYTES = int(np.prod(SHAPE))


def image(number: int) -> np.ndarray:
    """Return one image (1, C, H, W) that is of one colour if the number is 0, and else differs by number."""
    return np.zeros((1, *SHAPE), np.uint8) if number == 0 else rows(1, number)


def images(window: Window) -> list[bytes]:
    return [row.image.tobytes() for row in window]


class Model(RuleBasedStateMachine):
    """Images come from three clients and leave in their order."""

    @initialize(
        full=st.integers(2, 8), share=st.sampled_from([0.1, 0.34, 0.5, 1.0]), recent=st.sampled_from([0, 1, 3, 100])
    )
    def start(self, full: int, share: float, recent: int) -> None:
        self.window = Window(full, share, recent)
        self.most = max(1, int(full * share)) if share < 1 else None
        self.recent = recent
        self.waiting: list[tuple[int, str, float]] = []
        self.seen: list[int] = []
        self.began_s = float("inf")
        self.now_s = 0.0

    @rule(numbers=st.lists(st.integers(0, 6), min_size=1, max_size=6), client=st.sampled_from("abc"))
    def images_come(self, numbers: list[int], client: str) -> None:
        expected: Counter[str] = Counter()
        for number in numbers:
            if number == 0:
                expected["constant"] += 1
            elif self.recent and number in self.seen[-self.recent :]:
                expected["duplicate"] += 1
            elif self.most is not None and sum(who == client for _, who, _ in self.waiting) >= self.most:
                expected["client_share"] += 1
            else:
                self.began_s = self.began_s if self.waiting else self.now_s
                self.waiting.append((number, client, self.now_s))
                self.seen.append(number)

        refused = self.window.offer(prepared(np.concatenate([image(number) for number in numbers])), client, self.now_s)

        assert refused == expected

    @rule(seconds=st.floats(0.1, 9.0))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(count=st.integers(0, 9))
    def a_window_is_taken(self, count: int) -> None:
        taken = self.window.take(count)

        assert [(row.image.tobytes(), row.client, row.arrived_s) for row in taken] == [
            (image(number).tobytes(), client, arrived_s) for number, client, arrived_s in self.waiting[:count]
        ]
        self.waiting = self.waiting[count:]
        self.began_s = self.waiting[0][2] if self.waiting else float("inf")

    @rule(count=st.integers(0, 3))
    def newer_images_displace_older_ones(self, count: int) -> None:
        if count < len(self.waiting):
            self.window.displace(count)
            self.waiting = self.waiting[count:]

    @rule()
    def it_goes_to_disk_and_comes_back(self) -> None:
        kept = list(self.window), self.window.recent
        self.window = Window(8, 1.0, self.recent)
        self.most = None
        self.window.put_back(*kept)
        self.began_s = self.waiting[0][2] if self.waiting else float("inf")

    @invariant()
    def every_image_is_there_once_and_in_order(self) -> None:
        if hasattr(self, "window"):
            assert images(self.window) == [image(number).tobytes() for number, _, _ in self.waiting]
            assert len(self.window) == len(self.waiting)
            assert self.window.bytes == BYTES * len(self.waiting)
            assert self.window.began_s == self.began_s


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


def test_what_is_offered_may_be_written_to_later():
    window, batch = Window(4), rows(3)
    window.offer(prepared(batch), "", 0.0)

    batch[:] = 0

    assert images(window) == images_of(rows(3))


def images_of(batch: np.ndarray) -> list[bytes]:
    return [batch[i : i + 1].tobytes() for i in range(len(batch))]


def test_an_image_that_is_one_colour_in_each_channel_is_constant():
    flat = np.ones((1, *SHAPE), np.float32) * np.array([0.1, 0.5, 0.9], np.float32)[:, None, None]

    assert Window(4).offer(prepared(flat), "", 0.0) == {"constant": 1}


def test_equal_bytes_of_another_type_are_another_image():
    window = Window(4)
    window.offer(prepared(rows(1)), "", 0.0)

    assert not window.offer(prepared((rows(1) / 255).astype(np.float32)), "", 0.0)


def test_a_duplicate_in_the_same_request_is_refused():
    assert Window(4).offer(prepared(np.concatenate([rows(1), rows(1)])), "", 0.0) == {"duplicate": 1}


def test_an_image_that_was_learnt_from_is_still_known():
    window = Window(4)
    window.offer(prepared(rows(4)), "", 0.0)
    window.take(4)

    assert window.offer(prepared(rows(4)), "", 0.0) == {"duplicate": 4}


def test_one_client_leaves_room_for_others():
    window = Window(8, max_client_share=0.25, recent=0)

    refused = window.offer(prepared(rows(8)), "flood", 0.0)

    assert refused == {"client_share": 6}
    assert not window.offer(prepared(rows(2, 1)), "other", 0.0)


def test_a_client_may_send_again_once_its_images_are_learnt():
    window = Window(8, max_client_share=0.25, recent=0)
    window.offer(prepared(rows(8)), "flood", 0.0)

    window.take(2)

    assert not window.offer(prepared(rows(2)), "flood", 0.0)


@pytest.mark.parametrize("share", [1e-9, 0.124])
def test_every_client_may_have_one_image(share):
    assert Window(8, max_client_share=share).offer(prepared(rows(2)), "a", 0.0) == {"client_share": 1}


@given(st.permutations(range(1, 5)))
def test_a_windows_name_tells_its_images_and_their_order(order):
    named = [
        digest(as_samples(prepared(image(number)), "", 0.0)[0] for number in numbers)
        for numbers in ([1, 2, 3, 4], order)
    ]

    assert (named[0] == named[1]) == (list(order) == [1, 2, 3, 4])


def test_rows_of_a_request_have_the_names_that_a_window_gives_them():
    window = Window(4)
    window.offer(prepared(rows(3)), "a", 1.0)

    assert digest(window) == digest(as_samples(prepared(rows(3)), "b", 2.0))

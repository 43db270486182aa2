"""Room is counted in images and bytes, given back once, and never more than there is."""

import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tta_server.errors import Overloaded
from tta_server.runtime.queue.room import Reservation, Room


class Books(RuleBasedStateMachine):
    """Requests come, are queued, leave the queue and are done, in any order."""

    @initialize(max_images=st.integers(1, 12), max_bytes=st.integers(1, 60))
    def start(self, max_images: int, max_bytes: int) -> None:
        self.most = (max_images, max_bytes)
        self.room = Room(max_images, max_bytes)
        self.held: list[tuple[Reservation, int, int]] = []
        self.queue = 0

    @rule(images=st.integers(1, 8), size=st.integers(1, 40))
    def a_request_comes(self, images: int, size: int) -> None:
        waiting, used = self.queue + self.room.images, self.room.bytes
        fits = waiting + images <= self.most[0], used + size <= self.most[1]
        if all(fits):
            self.held.append((self.room.reserve(images, size, self.queue, lambda: 7), images, size))
            return
        with pytest.raises(Overloaded, match="max_decoded_bytes" if fits[0] else "max_queue_rows") as error:
            self.room.reserve(images, size, self.queue, lambda: 7)
        assert error.value.retry_after_s == 7

    @rule(place=st.integers(0, 9))
    def a_request_is_queued(self, place: int) -> None:
        if self.held:
            reserved, images, size = self.held[place % len(self.held)]
            reserved.queued()
            self.queue += images
            self.held[place % len(self.held)] = (reserved, 0, size)

    @rule()
    def the_queue_is_taken(self) -> None:
        self.queue = 0

    @rule(place=st.integers(0, 9), times=st.integers(1, 3))
    def a_request_is_done(self, place: int, times: int) -> None:
        if self.held:
            reserved, _, _ = self.held.pop(place % len(self.held))
            for _ in range(times):
                reserved.release()

    @invariant()
    def what_is_held_is_what_was_reserved_and_not_given_back(self) -> None:
        if hasattr(self, "room"):
            assert self.room.images == sum(images for _, images, _ in self.held)
            assert self.room.bytes == sum(size for _, _, size in self.held)
            assert self.room.bytes <= self.most[1]
            assert self.room.images + self.queue <= self.most[0]


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def test_room_is_given_back_however_the_block_is_left():
    room = Room(4, 100)

    with pytest.raises(RuntimeError), room.reserve(2, 50, 0, lambda: 1):
        raise RuntimeError

    assert (room.images, room.bytes) == (0, 0)


def test_threads_that_reserve_at_once_never_get_more_than_there_is():
    room, held, refused = Room(10, 1000), [], []
    together = threading.Barrier(8)

    def press() -> None:
        together.wait()
        for _ in range(200):
            try:
                with room.reserve(3, 1, 0, lambda: 1):
                    held.append(room.images)
            except Overloaded:
                refused.append(1)

    threads = [threading.Thread(target=press) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert max(held) <= 10
    assert len(held) + len(refused) == 1600
    assert (room.images, room.bytes) == (0, 0)

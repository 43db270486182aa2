"""How long a piece of work takes, and how long nothing was heard of it."""

import threading

import pytest

from tta_server import pulse
from tta_server.pulse import Pulse, beat


@pytest.fixture
def now(monkeypatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(pulse, "monotonic", lambda: now[0])
    return now


def test_what_gets_on_is_busy_and_not_still(now):
    subject = Pulse()
    with subject:
        now[0] += 50
        beat()
        now[0] += 5

        assert (subject.busy_s(), subject.still_s()) == (55, 5)
        assert subject.busy_s(since_s=150) == 5

    assert (subject.busy_s(), subject.still_s()) == (0, 0)


def test_a_beat_is_of_the_work_of_its_own_thread_and_of_nothing_elsewhere(now):
    subject = Pulse()
    with subject:
        now[0] += 50
        other = threading.Thread(target=beat)
        other.start()
        other.join()

        assert subject.still_s() == 50

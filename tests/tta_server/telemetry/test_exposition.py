"""What Prometheus reads: rendered at most once a second, and never of what is gone."""

import pytest

from tta_server.telemetry.metrics import Exposition, Metrics


def test_what_is_read_is_rendered_once_a_second_unless_it_must_be_fresh():
    metrics, time_s = Metrics("m", "tent"), [0.0]
    exposition = Exposition(lambda: [metrics], lambda: time_s[0])

    def queued(fresh: bool = False) -> bytes:
        return next(line for line in exposition.text(fresh).splitlines() if line.startswith(b"tta_queue_depth"))[-3:]

    read = []
    for rows, after_s, fresh in ((1, 0.0, False), (2, 0.9, False), (3, 0.1, False), (4, 0.1, False), (5, 0.0, True)):
        metrics.queue(rows)
        time_s[0] += after_s
        read.append(queued(fresh))

    assert read == [b"1.0", b"1.0", b"3.0", b"3.0", b"5.0"]


@pytest.mark.parametrize("gone", ["close", "forget"])
def test_nothing_of_a_stream_is_read_that_was_deleted_or_reset_since(gone):
    metrics = Metrics("m", "tent")
    metrics.stream.open("gate", "tent")
    metrics.stream.answered("gate", 1, 0.5, 0.5)
    exposition = Exposition(lambda: [metrics], lambda: 0.0)
    measured = b'tta_predictive_entropy_ratio{model="m",stream="gate"}'

    before = exposition.text()
    getattr(metrics.stream, gone)("gate")

    assert measured in before
    assert measured not in exposition.text()


def test_a_model_that_is_loaded_again_is_read_in_place_of_what_it_was():
    loaded, time_s = [Metrics("m", "tent")], [0.0]
    exposition = Exposition(lambda: loaded, lambda: time_s[0])
    loaded[0].queue(1)
    exposition.text()

    loaded[0] = Metrics("m", "tent")
    loaded[0].queue(2)
    time_s[0] += 1.0

    assert b'tta_queue_depth_images{model="m"} 2.0' in exposition.text()

"""Series of streams that go to disk and come back."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tta_server.telemetry.test_metrics import use, values
from tta_server.telemetry.metrics import Metrics


@settings(max_examples=60, deadline=None)
@given(
    done=st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from(("use", "rest", "close")))),
    most=st.integers(1, 5),
)
def test_what_was_counted_of_a_stream_is_counted_until_it_is_gone_or_another_has_its_place(done, most):
    metrics = Metrics("m", "tent", max_labelled=most)
    counts, resting = dict[str, int](), list[str]()  # of those with series

    for name, what in done:
        if what == "use":
            if name in resting:
                resting.remove(name)
            elif name not in counts and len(counts) == most and resting:
                del counts[resting.pop(0)]
            use(metrics, name)
            if name in counts or len(counts) < most:
                counts[name] = counts.get(name, 0) + 2
        elif what == "rest":
            metrics.stream.rest(name)
            resting += [name] if name in counts and name not in resting else []
        else:
            metrics.stream.close(name)
            counts.pop(name, None)
            resting = [each for each in resting if each != name]

    found = values(metrics, "tta_samples_offered_total", "stream")
    assert {name: found[name] for name in found if name != "_other"} == counts


def test_a_frozen_stream_that_goes_to_disk_is_still_said_to_be_frozen():
    metrics = Metrics("m", "tent")
    use(metrics, "a")

    metrics.stream.rest("a")

    assert values(metrics, "tta_stream_frozen", "stream") == {"a": 1}

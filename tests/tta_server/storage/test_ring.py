"""The audit log in memory: as the one on disk for what it holds, and never larger than it may be."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tta_server.storage.audit import Entry
from tta_server.storage.ring import Ring


@settings(max_examples=50)
@given(
    streams=st.lists(st.sampled_from(["door", "gate"])),
    most=st.integers(1, 8),
    limit=st.integers(1, 10),
    asked=st.sampled_from(["", "door"]),
)
def test_the_newest_lines_are_there_newest_first(streams, most, limit, asked):
    ring, entries = Ring(most), [Entry(stream, "commit", i, i + 1) for i, stream in enumerate(streams)]

    for entry in entries:
        ring.append(entry)

    assert ring.newest(asked, limit) == [e for e in entries[::-1][:most] if asked in ("", e.stream)][:limit]

"""Tables for a terminal: whatever does not fit in a line is in the next."""

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tta_server.operate.sheet import TIME, Sheet
from tta_server.operate.tables import apart, many
from tta_server.operate.words import moment

WORDS = st.lists(st.text("abc-@[]", min_size=1, max_size=40), min_size=1, max_size=8).map(" ".join)
STREAM = {
    "name": "gate-north-entrance-7",
    "mode": "after",
    "state_version": 1234,
    "images": 123456,
    "images_learnt": 12345,
    "answers": "adapted",
    "source_because": "",
    "domain": "gate-north-entrance-7@12",
    "last_verdict": {"verdict": "rollback", "cause": "referee"},
    "trouble": "",
    "frozen": "the guard has taken it back three times in a row",
}
DOMAIN = STREAM | {
    "id": "gate-north-entrance-7@12",
    "title": "fog in the morning, by the gate",
    "current": True,
    "share": 0.5,
    "steps": 12,
    "estimated_gain": 0.0123,
    "distance": 1234.0,
}


def printed(shown: object, width: int) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as found:
        console.print(shown, markup=False, highlight=False, crop=False)
    return found.get()


@given(st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=4), st.integers(1, 120))
def test_no_character_is_lost_and_no_line_is_too_long_where_there_is_room_for_words(rows, width):
    heads = ("one", "two", "three")

    shown = printed(Sheet(heads, rows), width)

    said = "".join("".join(row) for row in [heads, *rows])
    assert sorted("".join(shown.split())) == sorted(said.replace(" ", ""))
    if width >= 3 * 32 + 4:
        assert max(map(len, shown.splitlines())) <= width


@pytest.mark.parametrize("width", [20, 80])
def test_a_time_is_whole_and_what_is_long_stands_in_more_lines_or_under_it(width):
    why = "it answers worse than the frozen model " * 3

    shown = printed(Sheet([TIME, "reason"], [["11-28 23:10:01", why]]), width).splitlines()

    assert shown[1 if width == 80 else 2].startswith("11-28 23:10:01")
    assert len(shown) >= 3


def test_a_column_in_which_nothing_is_said_is_left_out_unless_there_are_no_rows():
    heads = ["stream", "trouble"]

    assert printed(Sheet(heads, [["gate-7", ""], ["door", ""]]), 80).split() == ["stream", "gate-7", "door"]
    assert printed(Sheet(heads, []), 80).split() == heads


def test_names_are_whole_where_much_is_said_of_a_stream_and_of_a_domain():
    listed = printed(many([STREAM], drift={STREAM["name"]: "warning"}), 80)

    assert re.findall(r"gate[\w@-]+", listed) == [STREAM["name"], STREAM["domain"]]
    assert "warning" in listed
    assert f"    frozen: {STREAM['frozen']}\n" in listed
    assert f"{DOMAIN['id']}," in printed(apart([DOMAIN]), 80)


def test_the_year_of_a_moment_is_shown_if_it_is_another_one():
    now = datetime.now(UTC)

    assert moment(f"{now:%Y}-03-04T05:06:07.890+00:00") == "03-04 05:06:07"
    assert moment("1999-12-31T23:59:59.900+00:00") == "1999-12-31 23:59:59"
    assert moment("") == ""

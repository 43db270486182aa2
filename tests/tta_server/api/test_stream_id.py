"""How a request names its stream."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_server.api.stream_id import stream_of
from tta_server.errors import BadRequest
from tta_server.names import STREAM_NAME


@pytest.mark.parametrize("nothing", [(), (None,), ("",), (0,), (None, "", 0)])
def test_a_request_that_names_none_belongs_to_the_default_stream(nothing):
    assert stream_of(*nothing) == "default"


def test_the_first_name_that_is_given_wins():
    assert stream_of(None, "door", 7) == "door"
    assert stream_of("yard", "door", 7) == "yard"


def test_a_sequence_id_is_a_name():
    assert stream_of(None, None, 42) == "42"


@given(st.from_regex(STREAM_NAME, fullmatch=True))
def test_a_good_name_is_kept_as_it_is(name):
    assert stream_of(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "a/b",
        "ä",
        "a" * 65,
        "a\n",
        "\n",
        " ",
        "a\x00",
        "a;b",
        "../a",
        True,
        False,
        1.5,
        [],
        ["a"],
        {},
        {"a": 1},
        10**64,
    ],
)
def test_a_bad_name_is_refused_with_the_rule(name):
    with pytest.raises(BadRequest, match="must be 1 to 64 letters, digits"):
        stream_of(name)


@given(st.text() | st.integers() | st.floats() | st.booleans() | st.lists(st.text()))
def test_whatever_is_given_the_name_is_good_or_refused_in_one_short_line(candidate):
    try:
        name = stream_of(candidate)
    except BadRequest as error:
        message = str(error)
        assert "\n" not in message
        assert len(message) < 500
    else:
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name)

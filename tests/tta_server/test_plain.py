"""Text of others commands no terminal, and turns nothing around."""

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_server.plain import is_plain, plain, plain_lines

TURNS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
MARKS = "\u061c\u200e\u200f"


def test_no_control_break_or_mark_of_direction_is_plain():
    for char in map(chr, range(sys.maxunicode + 1)):
        commands = unicodedata.category(char) in ("Cc", "Zl", "Zp") or unicodedata.bidirectional(char) in TURNS
        if commands or char in MARKS:
            assert not is_plain(f"a{char}"), ascii(char)


@pytest.mark.parametrize(
    "text", ["a new lens", "می\u200cخواهم", "\N{MAN}\u200d\N{WRENCH}", "霧\u3000夜", "prix\xa0: 3 €", ""]
)
def test_what_people_write_is_plain(text):
    assert is_plain(text)
    assert plain(text) == text


@given(st.text())
def test_whatever_comes_leaves_plain_and_in_as_many_lines_as_were_meant(text):
    assert is_plain(plain(text))
    assert [plain(each) for each in text.split("\n")] == plain_lines(text).split("\n")


def test_what_was_there_can_still_be_read():
    assert plain("\x1b[2J\u202ea\n") == r"\x1b[2J\u202ea\n"

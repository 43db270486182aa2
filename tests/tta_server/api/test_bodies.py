"""What is wrong with a body is said by naming the field and what it should be, whatever the body and the field."""

import json
import re
import sys
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from tta_server.api import bodies
from tta_server.api.bodies import Body, Change, Labels, NeededReason, Reason
from tta_server.api.front.responses import explain
from tta_server.plain import is_plain

WRONG: list[Any] = [None, True, 3, -1, 1.5, "", "no such thing", "x" * 20_000, [], [None], {}, {"x": 1}]
SHOULD = re.compile(
    r"should (be|have)|must be|expected an object such as \{|is missing|unknown key|say why|nothing to change; give"
)


def every_body() -> list[type[Body]]:
    found = [Body]
    for each in found:
        found += each.__subclasses__()
    return [each for each in found[1:] if each.__module__ == bodies.__name__]


def problems(body: type[Body], value: object) -> list[str]:
    """Return what the caller is told; nothing if the value is right."""
    try:
        body.model_validate(value)
    except ValidationError as error:
        # FastAPI puts in front where the value was: in the body or the query.
        return [explain(problem | {"loc": ("body", *problem["loc"])}) for problem in error.errors()]
    return []


def test_there_are_bodies_to_look_at():
    assert {Change, Labels} <= set(every_body())


@pytest.mark.parametrize("body", every_body(), ids=lambda body: body.__name__)
def test_a_wrong_field_is_named_with_what_it_should_be(body):
    refused = 0
    for name in body.model_fields:
        for value in WRONG:
            said = [each for each in problems(body, {name: value}) if name in each]
            others = [each for each in problems(body, {name: value}) if name not in each]
            assert all(SHOULD.search(each) and "\n" not in each and len(each) < 300 for each in said), said
            assert all(SHOULD.search(each) for each in others), others  # such as another field that is missing
            refused += bool(said)
    assert refused > 0


@pytest.mark.parametrize("body", every_body(), ids=lambda body: body.__name__)
@pytest.mark.parametrize("value", [None, True, 3, "text", [], [{}], b"{}"], ids=repr)
def test_what_is_no_object_is_told_the_right_form_and_the_form_is_right(body, value):
    (said,) = problems(body, value)

    example = re.search(r"JSON object such as (\{.*?\}+\]?\}?), sent", said)
    assert example, said
    if value != "text":  # else the text stands where it may have been meant
        assert problems(body, json.loads(example.group(1))) == []


@pytest.mark.parametrize("body", every_body(), ids=lambda body: body.__name__)
def test_an_unknown_key_is_named(body):
    assert "unknown key 'drift'" in problems(body, {"drift": "high"})


def test_the_name_of_an_adapter_alone_is_answered_with_the_form_that_was_meant():
    (said,) = problems(Change, {"adapter": "rotta"})

    assert said == """adapter: expected an object such as {"name": "rotta"}, got 'rotta'"""


def test_a_reason_says_something_by_the_same_rule_in_the_schema_and_in_the_server():
    reason = TypeAdapter(NeededReason)
    pattern = schemas(reason)

    for text in ["", *map(chr, range(sys.maxunicode + 1))]:
        assert bool(pattern.search(text)) == bool(text.strip() and is_plain(text)), ascii(text)
    assert reason.validate_python("\xa0 a new lens\u3000") == "a new lens"
    for text in ("\xa0", "\u2000\u3000", " "):
        with pytest.raises(ValidationError, match="say why"):
            reason.validate_python(text)


@pytest.mark.parametrize("kind", [Reason, NeededReason])
@pytest.mark.parametrize("text", ["\x1b[2Jx", "a\nb", "a new lens\n", "\u202etxt", "\x9b31mx", "\x00"])
def test_a_reason_that_would_command_a_terminal_is_refused_by_schema_and_server(kind, text):
    reason = TypeAdapter(kind)

    assert not schemas(reason).search(text)
    with pytest.raises(ValidationError, match="must be one line, without control characters"):
        reason.validate_python(text)


def schemas(kind: TypeAdapter) -> re.Pattern[str]:
    """Return the pattern of a schema; the end of ECMA 262 is the very end."""
    return re.compile(kind.json_schema()["pattern"].removesuffix("$") + r"\Z")

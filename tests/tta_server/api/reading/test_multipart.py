"""Forms become files, whoever wrote them; what is no file is never dropped."""

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_server.api.reading.multipart import FormFile, _parameters, boundary_of, files
from tta_server.errors import BadRequest


def form(*parts: tuple[str, bytes], boundary: str = "x") -> bytes:
    """Return a form; each part has its Content-Disposition and its content."""
    written = b"".join(b"--%s\r\nContent-Disposition: %s\r\n\r\n%s\r\n" % (boundary.encode(), head.encode(), content)
                       for head, content in parts)  # fmt: skip
    return written + b"--" + boundary.encode() + b"--\r\n"


def read(body: bytes, most: int = 4) -> list[FormFile]:
    return files(body, b"x", most)


@given(st.lists(st.binary(max_size=200).filter(lambda data: b"--x" not in data), max_size=4))
def test_contents_come_out_as_they_went_in(contents):
    body = form(*[(f'form-data; name="image"; filename="{place}"', data) for place, data in enumerate(contents)])

    assert read(body) == [FormFile(str(place), data) for place, data in enumerate(contents)]


@pytest.mark.parametrize("name", ["a.png", 'a"b.png', "a\\b.png", "äö 図.png", "a;b=c.png", "x" * 300])
def test_what_a_usual_client_sends_is_understood(name):
    sent = httpx.Request("POST", "http://x", files=[("image", (name, b"1")), ("image", ("b", b"\r\n--\r\n"))])

    found = files(sent.read(), boundary_of(sent.headers["content-type"]), 4)

    assert [part.data for part in found] == [b"1", b"\r\n--\r\n"]
    assert found[1].file_name == "b"


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ('form-data; name="image"; filename=""', ""),
        ("form-data; name=image; filename=a.png", "a.png"),
        ("form-data; name=image; filename*=UTF-8''%C3%A4.png", "ä.png"),
        ('FORM-DATA; NAME="image"; FILENAME="a.png"', "a.png"),
        ("form-data; filename=a; filename*=utf-8'en'%c3%a4", "ä"),
        ("form-data; filename=a; filename*=idna''x%ff", "a"),
        ("form-data; filename=a; filename*=undefined''x", "a"),
        ("form-data; filename=a; filename*=utf-7''+2AA-", "a"),
        ("form-data; filename*=utf-8''%ff%ed%a0%80", "\ufffd" * 4),
        (f"form-data; filename=a; filename*{'0' * 1000}*=x", "a"),
        ('form-data; filename="x' + ";" * 2000, '"x'),
        ('form-data; filename="a;b\\"c"; name=image', 'a;b"c'),
    ],
)
def test_a_file_is_known_by_its_file_name_even_an_empty_one_or_a_mad_one(disposition, name):
    assert read(form((disposition, b"1"))) == [FormFile(name, b"1")]


words = st.text("abc;=\"\\ .'*", max_size=12)


@given(st.dictionaries(st.text("abcxyz-", min_size=1, max_size=5), words, max_size=5))
def test_parameters_come_out_as_they_went_in(wanted):
    quoted = {name: text.replace("\\", "\\\\").replace('"', '\\"') for name, text in wanted.items()}

    assert _parameters("form-data" + "".join(f'; {name}="{text}"' for name, text in quoted.items())) == wanted


@pytest.mark.parametrize(
    "parameters",
    ["boundary*=idna''x%ff", "boundary*=undefined''x", f"boundary*{'0' * 5000}=x", 'boundary="x' + ";" * 9000],
)
def test_a_form_without_a_boundary_is_refused(parameters):
    with pytest.raises(BadRequest, match="names no boundary"):
        boundary_of(f"multipart/form-data; {parameters}")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            form(("form-data; name=image; filename=a", b"1"), ("form-data; name=second", b"2")),
            "part 2 of 2 ('second') has",
        ),
        (form(('form-data; filename="x' + ";" * 2048, b"1")), "Content-Disposition of more than 2048 characters"),
        (form(*[("form-data; filename=a", b"1")] * 5), "the form has 5 parts, and a request may have 4"),
        (form(*[("form-data; filename=a", b"1")] * 50), "more than 4 parts"),
        (form(("form-data; filename=a", b"1"))[:-5], "has no end"),
        (b"", "has no end"),
        (b"--x\r\nContent-Type: image/png\r\n\r\n1\r\n--x--", "no Content-Disposition"),
        (b"--x\r\n" + b"a: b\r\n" * 10_000 + b"\r\n1\r\n--x--", "no head that ends within 8192 bytes"),
        (b"--xy\r\n\r\n1\r\n--x--", "no head"),
    ],
)
def test_what_is_no_form_of_files_is_told_so(body, said):
    with pytest.raises(BadRequest) as error:
        read(body)

    assert said in str(error.value)


@given(st.binary(max_size=200), st.sampled_from([b"", b"--x\r\n", b"--x\r\nContent-Disposition: form-data; filename="]))
def test_no_bytes_raise_anything_but_an_error_for_the_caller(data, start):
    for body in (start + data, start + data + b"\r\n--x--"):
        try:
            read(body)
        except BadRequest as error:
            assert "\n" not in str(error)  # noqa: PT017 (either outcome is right)


@pytest.mark.parametrize(
    "header", ["multipart/form-data", "multipart/form-data; boundary=", f"a/b; boundary={'x' * 71}"]
)
def test_a_form_without_a_boundary_is_told_so(header):
    with pytest.raises(BadRequest, match="names no boundary"):
        boundary_of(header)

"""The report on a stream: what somebody reads who was not there, made from a real server under drift."""

import re
from collections.abc import Iterator
from typing import get_args

import pytest

from tests.pages import ROOT
from tests.server import Running, running
from tests.tta_server.calls import until
from tests.tta_server.test_page import browser, replay, serious
from tta_server.cli import main
from tta_server.operate.words import ANSWERS, CAUSES, HAPPENED, answering, better, why
from tta_server.storage.audit import EVENTS
from tta_server.streams.present import Because

HOSTILE = "<script>document.title = 'taken'</script>"


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Running]:
    """A server with a stream that drifts and has labels, and one that does not."""
    with running(tmp_path_factory.mktemp("report"), {"domains": {}, "model": {"device": "cpu"}}) as started:
        replay(started.client)
        until(lambda: started.client.get("/v1/streams/gate-7/drift").json()["learnt"]["rows"])
        started.client.post("/v1/streams/calm/snapshots", json={"note": HOSTILE})
        started.client.post("/v1/streams/calm/reset", json={"reason": HOSTILE}).raise_for_status()
        yield started


def test_a_person_who_was_not_there_reads_whether_it_drifts_whether_adapting_helps_and_why(server, tmp_path, capsys):
    out = tmp_path / "report.html"
    assert main(["report", "--stream", "gate-7", "--url", server.url, "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith("the report on gate-7 is in")

    with browser(java_script_enabled=False, color_scheme="dark") as page:
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(out.as_uri())
        said = page.inner_text("main")
        charts, marks = page.locator("figure svg polyline").count(), page.locator("svg .mark.domain").count()

    assert asked == [out.as_uri()]
    assert "Yes, since 20" in said
    assert "Of 320 images with true labels the stream is right on" in said
    assert re.search(r"At 20.* it (learnt from|refused|did not learn)", said)
    assert "gate-7@1" in said
    assert (charts, marks >= 1) == (5, True)


def test_what_others_wrote_is_text_and_the_page_can_be_read_by_all_and_printed(server, tmp_path):
    out = tmp_path / "calm.html"
    assert main(["streams", "report", "calm", "--url", server.url, "--out", str(out)]) == 0

    with browser() as page:
        page.goto(out.as_uri())
        assert page.title() == "Stream calm"
        assert HOSTILE in page.inner_text("main")
        assert serious(page) == []
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_a_report_on_no_stream_is_refused_in_one_line_and_leaves_no_file(server, tmp_path, capsys):
    out = tmp_path / "nobody.html"

    assert main(["report", "--stream", "nobody", "--url", server.url, "--out", str(out)]) == 1
    assert "nobody" in capsys.readouterr().err
    assert not out.exists()


def test_every_event_has_words_and_the_live_page_has_the_same():
    page = dict(re.findall(r'^  (\w+): "(.*)",$', (ROOT / "tta_server/api/page/words.js").read_text(), re.MULTILINE))

    assert set(HAPPENED) == set(EVENTS)
    assert set(ANSWERS) == {because or "learnt" for because in get_args(Because)}
    assert page == {**CAUSES, **HAPPENED, **ANSWERS}


NOBODY = {"labels": 0}
STREAM = {
    "labelled": dict.fromkeys(("answered", "adapted", "source"), NOBODY),
    "domain": "door@2",
    "frozen": "",
    "verdicts": [],
}


def drift(gain: float | None, rows: int = 16) -> dict:
    measures = {} if gain is None else {"estimated_gain": gain}
    return {"learnt": {"rows": rows, "agreement": 0.5, "measures": measures}}


def test_the_live_page_and_the_report_say_the_same_of_who_answers_and_whether_that_is_better(server):
    frozen = STREAM | {"source_because": "frozen", "frozen": "it was taken back"}
    cases = [(STREAM | {"source_because": because}, drift(0.0)) for because in get_args(Because)]
    cases += [(STREAM | {"source_because": "", "domain": ""}, drift(gain)) for gain in (None, -0.25, 0.25)]
    some = {"labels": 4, "accuracy": 0.5, "low": 0.15, "high": 0.85}
    late = STREAM["labelled"] | {"answered": some}
    cases += [
        (STREAM | {"source_because": "", "labelled": late | more}, drift(0.0))
        for more in ({}, {"adapted": some, "source": some})
    ]
    cases += [(frozen, drift(0.0, rows=0)), (frozen | {"domain": ""}, None)]
    with browser() as page:
        page.goto(server.url)
        said = page.evaluate(
            """async (cases) => {
              const own = document.querySelector("script[type=module]").src;
              const { answering, better, why } = await import(new URL("words.js", own));
              return cases.map(([stream, drift]) => [answering(stream), better(stream, drift), why(stream)]);
            }""",
            cases,
        )

    assert said == [[answering(stream), better(stream, drift), why(stream)] for stream, drift in cases]
    assert "the guard finds neither more credible" in said[0][1]
    assert "switched door@2 off" in said[-2][2]
    assert "Of 4 images with true labels the stream is right on 50" in said[-4][1]
    assert "no longer there to ask the frozen model" in said[-4][1]
    assert "No clear difference. Of 4 images" in said[-3][1]

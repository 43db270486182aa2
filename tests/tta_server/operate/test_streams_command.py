"""What an operator types, against a real server: what is printed, what is done, and how it ends."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from tests.server import Running, running
from tests.tta_server.api.operators import CONFIG, ROWS, lines, taught
from tests.tta_server.calls import glyph_images, infer, stream
from tests.tta_server.receiver import receiving
from tta_server.cli import main
from tta_server.keys.new_key import new_key
from tta_server.operate.server import RefusedError, Server
from tta_server.operate.tables import many
from tta_server.plain import is_plain


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Running]:
    """A server with a stream that has learnt."""
    folder = tmp_path_factory.mktemp("operate")
    with running(folder, CONFIG | {"storage": {"url": str(folder / "kept"), "save_every_s": 0.05}}) as started:
        taught(started.client, "gate-7")
        infer(started.client, "reference", glyph_images(0, ROWS))
        yield started


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("TTA_KEY", raising=False)
    monkeypatch.delenv("TTA_URL", raising=False)


@pytest.fixture
def typed(server: Running, capsys):
    """Return what types a command, expects that it succeeds, and returns what it prints."""

    def typed(*words: str) -> str:
        assert main(["streams", *words, "--url", server.url]) == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        return printed.out

    return typed


def complaint(capsys: pytest.CaptureFixture, *words: str) -> tuple[int, str]:
    """Return how a command ends, and the one line that it says."""
    status = main(["streams", *words])
    printed = capsys.readouterr()
    assert (printed.out, len(printed.err.splitlines())) == ("", 1)
    return status, printed.err


def test_streams_are_listed_with_who_answers_and_whether_they_drift(typed):
    table = typed("ls", "--drift")

    assert re.search(r"^gate-7 +\w+ +after ", table, re.MULTILINE)
    assert re.search(r"^reference +\w+ +off +source ", table, re.MULTILINE)


def test_who_lists_streams_on_a_terminal_is_told_whose_they_are():
    console = Console(width=120)

    with console.capture() as printed:
        console.print(many([], "tta-1"))

    assert "of replica tta-1 alone: ask each of the others" in printed.get()


def test_only_what_is_asked_for_is_listed(typed):
    found = json.loads(typed("ls", "--mode", "off", "--json"))

    assert [each["name"] for each in found] == ["reference"]


@pytest.mark.parametrize("verb", ["show", "drift"])
def test_as_json_the_answer_is_the_servers(typed, server, verb):
    path = "/v1/streams/gate-7" + ("/drift" if verb == "drift" else "")

    assert json.loads(typed(verb, "gate-7", "--json")) == server.client.get(path).json()


def test_a_stream_is_shown_with_its_verdicts_and_its_drift_with_its_scores(typed):
    shown, drift = typed("show", "gate-7"), typed("drift", "gate-7")

    assert re.search(r"^version +\d+; its state was made by \d+ steps", shown, re.MULTILINE)
    assert "commit" in shown
    assert re.search(r"^drift +(unknown|stable|warning|drift)", drift, re.MULTILINE)
    assert "entropy_ratio" in drift or "missing" in drift


def test_in_a_pipe_each_verdict_is_one_line_however_wide_and_without_a_frame(typed, server):
    told = stream(server.client, "gate-7")["verdicts"][-10:]

    rows = typed("show", "gate-7").partition("last verdicts")[2].splitlines()[2:]

    assert len(rows) == len(told) > 0
    for row, each in zip(rows, told, strict=True):
        assert row.startswith(f"{each['time'][5:10]} {each['time'][11:19]}  {each['verdict']}")
        assert row.rstrip().endswith(each["reason"] or each["domain"] or str(each["version_after"]))


@pytest.mark.parametrize("words", ["ls --drift", "show gate-7", "drift gate-7"])
def test_on_a_terminal_of_80_columns_nothing_is_cut_off(typed, monkeypatch, words):
    piped = typed(*words.split())
    for name, value in {"TTY_COMPATIBLE": "1", "NO_COLOR": "1", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)

    shown = re.sub(r"\x1b\[[\d;]*m", "", typed(*words.split()))

    assert max(map(len, shown.splitlines())) <= 80
    assert sorted(shown.split()) == sorted(piped.split())
    assert re.findall(r"\d\d-\d\d \d\d:\d\d:\d\d", shown) == re.findall(r"\d\d-\d\d \d\d:\d\d:\d\d", piped)


def test_what_is_learnt_goes_to_a_file_and_into_another_stream(typed, server, tmp_path: Path):
    out = tmp_path / "gate.safetensors"

    typed("export", "gate-7", "--out", str(out))
    said = typed("import", "gate-8", str(out))

    assert said == f"gate-8 goes on from {out}, version 1\n"
    assert stream(server.client, "gate-8")["steps"] == stream(server.client, "gate-7")["steps"] > 0


def test_a_file_that_opens_a_domain_is_said_to(typed, monkeypatch, tmp_path: Path):
    (tmp_path / "fog").write_bytes(b"a state")
    monkeypatch.setattr(Server, "upload", lambda *_: {"name": "gate-7@2", "state_version": 1})

    said = typed("import", "gate-7", str(tmp_path / "fog"))

    assert said == f"gate-7@2, a new domain of gate-7, goes on from {tmp_path / 'fog'}, version 1\n"


def test_a_stream_is_kept_rolled_back_switched_off_and_reset(typed, server):
    taught(server.client, "door")

    kept = json.loads(typed("snapshot", "door", "--note", "before", "--json"))["id"]
    typed("rollback", "door", "--version", "1", "--reason", "it got worse")
    typed("freeze", "door", "--reason", "it rains")
    off = stream(server.client, "door")["mode"]
    assert "learns again, in mode shadow" in typed("thaw", "door", "--mode", "shadow", "--reason", "it is dry")
    assert stream(server.client, "door")["mode"] == "shadow"
    typed("reset", "door", "--reason", "a new lens")

    about = stream(server.client, "door")
    assert kept in [each["id"] for each in server.client.get("/v1/streams/door/snapshots").json()["snapshots"]]
    assert (off, about["steps"]) == ("off", 0)
    said = [(line["verdict"], line["reason"]) for line in lines(server.client, "door")[:5]]
    assert said == [
        ("reset", "a new lens"),
        ("mode", "it is dry"),
        ("mode", "it rains"),
        ("rollback", "it got worse"),
        ("snapshot", "before"),
    ]


HOSTILE = "\x1b[2J\x1b]52;c;eA==\x07\u202e\x9b31m"
TEXTS = ("reason", "cause", "title", "trouble", "frozen", "who", "adapter", "name", "missing", "id", "state_version")


def hostile(said: object, name: str = "") -> object:
    """Return what a server says, with what would command a terminal in every text."""
    if isinstance(said, dict):
        return {key: hostile(value, key) for key, value in said.items()}
    if isinstance(said, list):
        return [hostile(each) for each in said]
    return f"{HOSTILE}{said}" if name in TEXTS else said


@pytest.mark.parametrize("words", ["ls", "show gate-7", "drift gate-7", "reset x", "snapshot x"])
def test_nothing_that_a_server_says_commands_the_terminal(typed, server, monkeypatch, words):
    infer(server.client, "x", glyph_images(0, ROWS))
    for name in ("get", "tell"):
        ask = getattr(Server, name)
        monkeypatch.setattr(Server, name, lambda *given, ask=ask, **query: hostile(ask(*given, **query)))

    printed = typed(*words.split())

    assert r"\x1b[2J" in printed
    assert all(map(is_plain, printed.split("\n")))


def test_nor_does_what_it_says_when_it_refuses(server, capsys, monkeypatch):
    def refuse(*_: object) -> None:
        raise RefusedError(HOSTILE)

    monkeypatch.setattr(Server, "get", refuse)
    _, said = complaint(capsys, "show", "gate-7", "--url", server.url)

    assert is_plain(said.rstrip("\n"))


def test_what_the_server_refuses_is_one_line_and_status_1(server, capsys):
    status, said = complaint(capsys, "show", "nobody", "--url", server.url)

    assert (status, said.startswith("tta-server: ")) == (1, True)
    assert "nobody" in said


def test_where_no_server_is_that_is_said_with_status_3(capsys):
    with receiving([]) as gone:
        pass

    status, said = complaint(capsys, "ls", "--url", gone.url)

    assert status == 3
    assert said.startswith(f"tta-server: no server answers at {gone.url}: ")


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://"])
def test_what_is_no_address_is_refused_with_status_2(url, capsys):
    status, said = complaint(capsys, "ls", "--url", url)

    assert status == 2
    assert "is no address of a server; expected one such as http://127.0.0.1:8000" in said


def test_a_file_that_is_not_there_is_one_line_and_status_2(server, capsys):
    status, said = complaint(capsys, "import", "gate-7", "nowhere.safetensors", "--url", server.url)

    assert (status, "nowhere.safetensors" in said) == (2, True)


@pytest.mark.parametrize("name", ["pf/domains/1", "..", "pf?x", ""])
def test_what_is_no_name_of_a_stream_is_refused_before_anything_is_asked(name, capsys):
    with receiving([]) as there:
        status, said = complaint(capsys, "reset", name, "--url", there.url)

    assert (status, there.requests) == (2, [])
    assert f"stream name '{name}' must be" in said


def test_a_key_as_its_file_has_it_is_sent_and_what_is_no_key_is_not_told(capsys):
    with receiving([404, 404]) as there:
        complaint(capsys, "reset", "door", "--url", there.url, "--key", "secret\n")
        status, said = complaint(capsys, "reset", "door", "--url", there.url, "--key", "secret\nX-Actor: ann")

    assert [each.headers["authorization"] for each in there.requests] == ["Bearer secret"]
    assert (status, "secret" in said) == (2, False)


def test_a_key_is_shown_to_nobody_but_the_server_that_was_named(capsys):
    with receiving([307]) as there:
        status, said = complaint(capsys, "reset", "door", "--url", there.url, "--key", "secret")

    assert (status, len(there.requests)) == (1, 1)
    assert there.requests[0].headers["authorization"] == "Bearer secret"
    assert there.requests[0].headers["x-stream-id"] == "door"  # a balancer finds who has the stream
    assert "HTTP 307" in said


def test_a_server_with_keys_is_asked_with_the_one_of_the_environment(tmp_path, capsys, monkeypatch):
    secret, _ = new_key(tmp_path / "keys.yaml", {"name": "ann", "scopes": ["read"], "streams": ["*"]})
    with running(tmp_path, {"model": {"device": "cpu"}, "auth": {"keys_file": str(tmp_path / "keys.yaml")}}) as keyed:
        status, said = complaint(capsys, "ls", "--url", keyed.url)
        monkeypatch.setenv("TTA_KEY", secret)
        monkeypatch.setenv("TTA_URL", keyed.url)

        assert (status, "key" in said) == (1, True)
        assert main(["streams", "ls", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == []


def test_all_streams_are_switched_at_each_server_whatever_another_says(server, capsys, tmp_path):
    nobody = "http://127.0.0.1:9"
    with running(tmp_path, CONFIG) as other:
        infer(other.client, "gate-9", glyph_images(0, ROWS))
        urls = [word for url in (nobody, server.url, other.url) for word in ("--url", url)]

        status = main(["streams", "switch", "off", "--reason", "all misread", *urls])
        printed = capsys.readouterr()
        switched = [stream(server.client, "gate-7")["mode"], stream(other.client, "gate-9")["mode"]]

        assert (status, switched) == (3, ["off", "off"])
        assert f"tta-server: {nobody}: no server answers" in printed.err
        assert f"{server.url}: every stream is switched to off: " in printed.out
        assert f"{other.url}: every stream is switched to off: 1 in mode off" in printed.out

        listed = main(["streams", "ls", "--json", "--url", server.url, "--url", other.url])
        found = json.loads(capsys.readouterr().out)
        assert (listed, [each["name"] for each in found[other.url]]) == (0, ["gate-9"])
    assert main(["streams", "switch", "configured", "--reason", "over", "--url", server.url]) == 0


def test_all_streams_are_not_switched_without_a_reason(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["streams", "switch", "off"])

    assert ended.value.code == 2
    assert "--reason" in capsys.readouterr().err

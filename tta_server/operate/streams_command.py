"""`tta-server streams`: look at the streams of a running server, and change them.

Ends with 0; with 1 if the server refused; 2 if the command line is wrong or a file cannot be read or written; 3 if no
server answers. What is about all streams is asked of several servers, whatever the others say; the worst counts.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from tta_server.names import stream_or_domain_name
from tta_server.operate.report import read, written
from tta_server.operate.server import RefusedError, Server, UnreachableError
from tta_server.operate.tables import apart, drifting, many, one
from tta_server.operate.terminal import Plain
from tta_server.plain import plain

REPORT = "write what is known of a stream as a page of its own, for somebody who was not there"

_URL = "http://127.0.0.1:8000"
_NO_TERMINAL = 1_000_000
"""How many characters a line may have where it is no terminal's: more than any has."""

_OF_ALL = ("ls", "switch")
_MODES = ("after", "inline", "shadow", "off")

Done = tuple[Any, RenderableType]
"""What the server answered, and how it looks on a terminal."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    verbs = parser.add_subparsers(title="what to do", required=True, metavar="VERB")

    def verb(name: str, run: Callable[[Server, argparse.Namespace], Done], text: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        added.set_defaults(verb=run)
        if name not in _OF_ALL:
            added.add_argument("stream", help="name of the stream, or of one of its domains, such as gate-7@2")
        _add_server(added, several=name in _OF_ALL)
        return added

    listing = verb("ls", _list, "list streams")
    listing.add_argument("--mode", choices=_MODES, help="only those in this mode")
    listing.add_argument("--answers", choices=("source", "adapted"), help="only those that this answers")
    listing.add_argument("--frozen", action="store_true", help="only those that the guard switched off")
    listing.add_argument("--drift", action="store_true", help="say of each whether it drifts: one more question each")
    switch = verb("switch", _switch, "switch every stream at once, and those to come, at each server that is named")
    switch.add_argument("mode", choices=(*_MODES, "configured"), help="off stops all learning; configured undoes it")
    switch.add_argument("--reason", required=True, help="why, for the audit log")
    verb("show", _show, "say everything about a stream, with the last verdicts and their reasons")
    verb("drift", _drift, "say whether a stream's input drifts, since when, and what says so")
    verb("domains", _domains, "list the kinds of input that a stream tells apart, and who answers each")
    reset = verb("reset", _reset, "put a stream back to the frozen model, and forget its domains")
    reset.add_argument("--reason", default="", help="why, for the audit log")
    rollback = verb("rollback", _roll_back, "put a stream back to a version that is kept")
    rollback.add_argument("--version", type=int, help="which (default: the newest that passed the complete check)")
    rollback.add_argument("--reason", required=True, help="why, for the audit log")
    freeze = verb("freeze", _freeze, "have the frozen model answer, and learn nothing, until the mode is changed")
    freeze.add_argument("--reason", default="", help="why, for the audit log")
    thaw = verb("thaw", _thaw, "have a stream, or a domain, learn and answer again, whoever froze it")
    thaw.add_argument("--mode", choices=("after", "inline", "shadow"), default="after", help="how (default: after)")
    thaw.add_argument("--reason", default="", help="why, for the audit log")
    snapshot = verb("snapshot", _snapshot, "keep the state that a stream has now")
    snapshot.add_argument("--note", default="", help="what it is kept for")
    export = verb("export", _export, "save what a stream has learnt as a file")
    export.add_argument("--out", type=Path, help="the file (default: STREAM.safetensors)")
    verb("import", _import, "have a stream go on from such a file").add_argument("file", type=Path, help="the file")
    _add_out(verb("report", _report, REPORT))


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `tta-server report`, which does what `tta-server streams report` does."""
    parser.set_defaults(verb=_report)
    parser.add_argument("--stream", required=True, help="name of the stream")
    _add_server(parser)
    _add_out(parser)


def _add_server(parser: argparse.ArgumentParser, several: bool = False) -> None:
    more = "; of several replicas, each with its own --url" if several else ""
    text = f"address of the server (default: TTA_URL, else {_URL}){more}"
    parser.add_argument("--url", action="append" if several else "store", help=text)
    parser.add_argument("--key", help="API key (default: TTA_KEY, which other users of the machine cannot see)")
    parser.add_argument("--cert", type=Path, help="certificate to show, in PEM, where the server asks for one")
    parser.add_argument("--cert-key", type=Path, help="its key, in PEM")
    parser.add_argument("--json", action="store_true", help="print what the server answers, as JSON")


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, help="the HTML file (default: STREAM.html)")


def run(options: argparse.Namespace) -> int:
    """Ask the server and print its answer; return the exit status.

    Raises:
        ValueError: If an option is wrong, such as the name of the stream.
        OSError: If a file cannot be read or written.
    """
    if bool(options.cert) != bool(options.cert_key):
        raise ValueError("--cert and --cert-key are given together")
    if "stream" in options:
        stream_or_domain_name(options.stream)
    certificate = (options.cert, options.cert_key) if options.cert else None
    given = options.url or os.environ.get("TTA_URL", _URL)
    urls = [given] if isinstance(given, str) else given
    servers = [Server(url, options.key or os.environ.get("TTA_KEY", ""), certificate) for url in urls]
    status, answers = 0, dict[str, Any]()
    for url, server in zip(urls, servers, strict=True):
        where = f"{url}: " if len(urls) > 1 else ""
        try:
            answers[url], shown = options.verb(server, options)
        except (RefusedError, UnreachableError) as error:
            print(f"tta-server: {where}{plain(str(error))}", file=sys.stderr)
            status = max(status, 1 if isinstance(error, RefusedError) else 3)
            continue
        if not options.json:
            _show_at(where, shown)
    if options.json and answers:
        print(json.dumps(answers if len(urls) > 1 else answers[urls[0]], indent=2))
    return status


def _show_at(where: str, shown: RenderableType) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = _NO_TERMINAL
    told = f"{where}{shown}" if isinstance(shown, str) else shown
    if where and told is shown:
        console.print(Plain(where), markup=False, highlight=False, soft_wrap=True)
    console.print(Plain(told), markup=False, highlight=False, crop=False, soft_wrap=isinstance(shown, str))


def _at(options: argparse.Namespace, rest: str = "") -> str:
    return f"/v1/streams/{options.stream}{rest}"


def _list(server: Server, options: argparse.Namespace) -> Done:
    frozen = "true" if options.frozen else None
    found, replica = server.streams(mode=options.mode, answers=options.answers, frozen=frozen)
    if not options.drift:
        return found, many(found, replica)
    drift = {each["name"]: _drift_state(server, each["name"]) for each in found}
    return [each | {"drift": drift[each["name"]]} for each in found], many(found, replica, drift)


def _drift_state(server: Server, name: str) -> str:
    try:
        return str(server.get(f"/v1/streams/{name}/drift")["state"])
    except RefusedError:  # set aside, or gone meanwhile: the others are asked for all the same
        return "unknown"


def _switch(server: Server, options: argparse.Namespace) -> Done:
    found = server.tell("PATCH", "/v1/streams", {"mode": options.mode, "reason": options.reason})
    modes = ", ".join(f"{count} in mode {mode}" for mode, count in found["streams"].items() if count) or "none yet"
    more = f", {found['unread']} on disk take it when they are asked for" if found["unread"] else ""
    alone = f"; replica {found['replica']} alone: switch each of the others, too" if found["replica"] else ""
    return found, f"every stream is switched to {found['mode']}: {modes}{more}{alone}"


def _show(server: Server, options: argparse.Namespace) -> Done:
    found = server.get(_at(options))
    return found, one(found)


def _drift(server: Server, options: argparse.Namespace) -> Done:
    found = server.get(_at(options, "/drift"))
    return found, drifting(found)


def _domains(server: Server, options: argparse.Namespace) -> Done:
    found = server.get(_at(options, "/domains"))["domains"]
    return found, apart(found)


def _reset(server: Server, options: argparse.Namespace) -> Done:
    found = server.tell("POST", _at(options, "/reset"), {"reason": options.reason})
    return found, f"{options.stream} is reset, version {found['state_version']}"


def _roll_back(server: Server, options: argparse.Namespace) -> Done:
    found = server.tell("POST", _at(options, "/rollback"), {"version": options.version, "reason": options.reason})
    return found, f"{options.stream} is rolled back, version {found['state_version']}"


def _freeze(server: Server, options: argparse.Namespace) -> Done:
    found = server.tell("PATCH", _at(options), {"mode": "off", "reason": options.reason})
    return found, f"{options.stream} learns nothing, and the frozen model answers"


def _thaw(server: Server, options: argparse.Namespace) -> Done:
    found = server.tell("PATCH", _at(options), {"mode": options.mode, "reason": options.reason})
    return found, f"{options.stream} learns again, in mode {found['mode']}"


def _snapshot(server: Server, options: argparse.Namespace) -> Done:
    found = server.tell("POST", _at(options, "/snapshots"), {"note": options.note})
    return found, f"{options.stream} is kept as {found['id']}"


def _export(server: Server, options: argparse.Namespace) -> Done:
    data, out = server.download(_at(options, "/state")), options.out or Path(f"{options.stream}.safetensors")
    out.write_bytes(data)
    return {"file": str(out), "bytes": len(data)}, f"{options.stream} is in {out}, {len(data)} bytes"


def _import(server: Server, options: argparse.Namespace) -> Done:
    found = server.upload(_at(options, "/state"), options.file.read_bytes())
    opened = f", a new domain of {options.stream}," if found["name"] != options.stream else ""
    return found, f"{found['name']}{opened} goes on from {options.file}, version {found['state_version']}"


def _report(server: Server, options: argparse.Namespace) -> Done:
    known, out = read(server, options.stream), options.out or Path(f"{options.stream}.html")
    page = written(known, datetime.now(UTC).isoformat()).encode()
    out.write_bytes(page)
    return {"file": str(out), "bytes": len(page)}, f"the report on {options.stream} is in {out}"

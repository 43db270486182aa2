"""How a server ends: what it has learnt is written, and where that cannot be, its exit status says so."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server import START_WITHIN_S, Running, running
from tests.tta_server.calls import UNGUARDED, glyph_images, infer, until
from tta_server.storage.store import Store

STOP_WITHIN_S = 60
# A server to which a signal comes while it imports torch.
IMPORTING = """
import importlib.abc, signal, sys
signal.signal(NUMBER, signal.SIG_DFL)  # whoever runs the tests may have had it ignored
from tta_server.__main__ import main

class Signals(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            assert signal.getsignal(NUMBER) not in (signal.SIG_DFL, signal.default_int_handler)
            signal.raise_signal(NUMBER)

sys.meta_path.insert(0, Signals())
sys.argv = ["tta-server", "serve", "--port", "0"]
sys.exit(main())
"""
# A server of several that is asked for a stream, and whose storage does not say whose it is.
HANGING = """
import sys, threading, time, urllib.request
from tta_server import serve
from tta_server.models.glyphs import images
from tta_server.runtime import served
from tta_server.settings_file import load_settings
from tta_server.storage.owners import Owners
from tests.replicas.load import png

def hangs(*about):
    print("is waited for", flush=True)
    threading.Event().wait()

def ask(server):
    began = server.startup
    async def startup(sockets):
        await began(sockets)
        url = "http://127.0.0.1:%d/predict" % sockets[0].getsockname()[1]
        asked = urllib.request.Request(url, png(images("test")[0][0]))
        threading.Thread(target=urllib.request.urlopen, args=(asked,), daemon=True).start()
    server.startup = startup
    return server

Owners.owns, made = hangs, serve._Server
serve._DRAIN_S = served.FINISH_S = 1
serve._END_S = 0.1
serve._Server = lambda *about: ask(made(*about))
storage = {"url": sys.argv[1], "shared": True, "replica": "a"}
serve.serve(load_settings(None, {"server": {"port": 0}, "storage": storage, "domains": {"max": 1}}))
"""


def config(folder: Path) -> dict:
    return {
        "model": {"device": "cpu"},
        "guard": UNGUARDED,
        "storage": {"url": str(folder / "kept"), "save_every_s": 3600.0},
    }


@pytest.fixture
def hangup() -> Iterator[None]:
    """Have servers that are started hear of a hangup, however these tests were started."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def signalled(server: Running, number: int) -> int:
    """Send a signal to a server and return its exit status."""
    server.process.send_signal(number)
    return server.process.wait(STOP_WITHIN_S)


@pytest.mark.usefixtures("hangup")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_what_is_learnt_is_written_before_the_end(tmp_path, number):
    with running(tmp_path, config(tmp_path), forked=False) as server:
        infer(server.client, "camera", glyph_images(0, 4))

        assert signalled(server, number) == 0

    assert Store(str(tmp_path / "kept")).names() == ["camera"]
    assert "stopped" in (tmp_path / "server.log").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_server_that_still_imports_is_ended_by_a_signal_without_a_word(number):
    ended = importing(number)

    assert (ended.returncode, ended.stdout, ended.stderr) == (-number, "", "")


def test_the_first_process_of_a_container_is_ended_while_it_imports():
    apart = ("unshare", "--pid", "--fork")
    allowed = subprocess.run([*apart, "true"], capture_output=True, check=False).returncode == 0

    ended = importing(signal.SIGTERM, *(apart if allowed else ()))

    assert ended.returncode == (128 + signal.SIGTERM if allowed else -signal.SIGTERM)
    assert ended.stderr == ""


def importing(number: signal.Signals, *before: str) -> "subprocess.CompletedProcess[str]":
    """Have a server end that a signal reaches while it imports torch; `before` begins its command line."""
    command = [*before, sys.executable, "-c", IMPORTING.replace("NUMBER", f"signal.{number.name}")]
    return subprocess.run(command, capture_output=True, text=True, timeout=STOP_WITHIN_S, check=False)


def test_a_server_whose_storage_hangs_is_ended_though_a_request_still_waits_for_it(tmp_path):
    log = tmp_path / "server.log"
    with log.open("w") as out:
        server = subprocess.Popen([sys.executable, "-c", HANGING, str(tmp_path / "kept")], stdout=out, stderr=out)
    try:
        until(lambda: "is waited for" in log.read_text(), START_WITHIN_S)
        server.send_signal(signal.SIGTERM)

        assert server.wait(STOP_WITHIN_S) == 1  # the answer to the request opened a stream
    finally:
        server.kill()
        server.wait()
    assert "that do not end are left behind" in log.read_text()


@pytest.mark.usefixtures("hangup")
def test_a_hangup_that_whoever_starts_the_server_has_it_ignore_stays_ignored(tmp_path):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does; children inherit it
    with running(tmp_path, config(tmp_path), forked=False) as server:
        server.process.send_signal(signal.SIGHUP)

        assert infer(server.client, "camera", glyph_images(0, 4))
        assert signalled(server, signal.SIGTERM) == 0


def test_an_end_at_which_something_is_lost_is_no_success(tmp_path):
    kept = tmp_path / "kept"
    with running(tmp_path, config(tmp_path), forked=False) as server:
        infer(server.client, "camera", glyph_images(0, 4))
        kept.rename(tmp_path / "away")
        kept.write_bytes(b"")  # where the folder was is a file now

        assert signalled(server, signal.SIGTERM) == 1

    said = (tmp_path / "server.log").read_text()
    assert "the newest states of 1 streams are lost" in said
    assert "Traceback" not in said

"""The commands and calls of the pages for operators are answered by a server; the storage is moved."""

import re
import shlex
import subprocess

import pytest
import yaml

from tests.pages import PAGES, ROOT, WRITTEN_ADDRESS, blocks, text
from tests.server import Running, running
from tests.tta_server.calls import UNGUARDED, glyph_images, infer, settled, stream
from tta_server.cli import main
from tta_server.evaluate.corruptions import corrupt
from tta_server.storage.store import Store

ROWS = 16
CONFIG = {
    "model": {"device": "cpu"},
    "engine": {"max_rows": ROWS, "window_rows": ROWS, "stack_rows": 0},
    "domains": {"max": 16},
    "guard": UNGUARDED,
}


def teach(server: Running) -> None:
    """Have gate-7 open a domain that learns from two windows."""
    infer(server.client, "gate-7", glyph_images(0, ROWS))
    for window in (1, 2):
        infer(server.client, "gate-7", corrupt(glyph_images(100 * window, ROWS), "gaussian_noise", 5))
        assert settled(server.client, "gate-7@1", ROWS)["steps"] == window


@pytest.fixture
def typed(tmp_path, monkeypatch, capfd):
    """Return what types a command and returns what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEY", "none")

    def typed(line: str, server: Running) -> str:
        program, _, rest = line.replace(WRITTEN_ADDRESS, server.url).replace("@docs/", f"@{ROOT}/docs/").partition(" ")
        if program == "tta-server":
            monkeypatch.setenv("TTA_URL", server.url)
            status = main(shlex.split(rest))
        else:
            assert program == "curl"
            status = subprocess.run(f"curl --silent --fail-with-body {rest}", shell=True, timeout=60).returncode
        printed = capfd.readouterr()
        assert status == 0, f"{line}\n{printed.out}{printed.err}"
        return printed.out

    return typed


def test_the_commands_of_the_runbook_do_what_it_says(typed, tmp_path):
    pages = ("docs/runbook.md", "docs/deploy.md", "docs/operations.md")
    written = [block for page in pages for block in blocks("bash", page)]
    lines = [line for each in sorted(written, key=lambda each: "reset" in each.text) for line in each.commands()]
    kept = ""

    with running(tmp_path, CONFIG | {"storage": {"url": str(tmp_path / "kept"), "save_every_s": 0.05}}) as server:
        teach(server)
        for line in lines:
            printed = typed(line.replace("SNAPSHOT", kept).replace("--version 12", "--version 2"), server)
            kept = (re.findall(r"snapshot-[0-9a-v-]+", printed) or [kept])[-1]

        about = stream(server.client, "gate-7")
        assert (about["mode"], about["domains"]) == ("after", [])
        assert stream(server.client, "gate-8")["domains"] == ["gate-8@1"]


CALLS = [
    pytest.param(page, *call, id=f"{page}-{call[0]}-{call[1]}")
    for page in PAGES
    if page.startswith("docs/") and page != "docs/api.md"  # whose table has parameters in place of calls
    for call in re.findall(r"`(PATCH|POST|PUT) (/[^`\s]*)`\s+with\s+`(\{[^`]*\})`", text(page))
]


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    with running(tmp_path_factory.mktemp("calls"), CONFIG) as server:
        teach(server)
        yield server


def test_pages_for_operators_have_calls_in_their_sentences():
    assert {"docs/alerts.md", "docs/operations.md"} <= {call.values[0] for call in CALLS}


@pytest.mark.parametrize(("page", "method", "path", "content"), CALLS)
def test_a_call_in_a_sentence_is_not_refused(taught, page, method, path, content):
    asked = re.sub(r"NAME|\{name\}", "gate-7", path)

    answer = taught.client.request(method, asked, content=content, headers={"Content-Type": "application/json"})

    if '"adapter"' not in content:  # which is one that the page has the reader write
        assert answer.status_code in (200, 409), f"{page}: {answer.text}"  # 409: not with this model


def test_a_backup_that_is_put_beside_what_is_there_is_what_a_server_goes_on_from(tmp_path):
    (written,) = [each for each in blocks("console", "docs/runbook.md") if "kept.tar" in each.text]
    volume = tmp_path / "volume"
    volume.mkdir()
    store = Store(str(volume), replica="tta-server-0")
    generation = store.owners.acquire("gate-7").generation
    store.save("gate-7", 1, b"good", generation)

    for line, learnt in zip(written.commands(), (b"bad", b"worse"), strict=True):
        inside = line.partition(" -- ")[2].replace("/var/lib/tta", str(volume))
        subprocess.run(inside, shell=True, cwd=tmp_path, check=True, timeout=30)
        store.save("gate-7", 2, learnt, generation)

    restored = Store(str(volume / "restored"), replica="tta-server-0")
    assert restored.owners.acquire("gate-7").generation == generation + 1
    assert restored.load("gate-7") == b"good"
    assert store.load("gate-7") == b"worse"


def test_moving_the_storage_moves_everything_but_what_belongs_to_the_file_system(tmp_path):
    job = yaml.safe_load((ROOT / "k8s/move-storage.yaml").read_text())
    old, new = tmp_path / "from", tmp_path / "to"
    (old / "streams/gate-7").mkdir(parents=True)
    (old / "streams/gate-7/manifest.json").write_text("{}")
    (old / "lost+found").mkdir()
    new.mkdir()

    (command,) = job["spec"]["template"]["spec"]["containers"][0]["args"]
    subprocess.run(["sh", "-ec", command.replace("/from", str(old)).replace("/to", str(new))], check=True, timeout=30)

    assert [path.relative_to(new).as_posix() for path in new.rglob("*")] == [
        "streams",
        "streams/gate-7",
        "streams/gate-7/manifest.json",
    ]

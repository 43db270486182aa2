"""What docs/adapters.md tells people to write is checked, served and compared as it stands there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.server import running
from tests.tta_server.calls import glyph_images, infer, settled

DOCS = (Path(__file__).parent.parent / "docs/adapters.md").read_text(encoding="utf-8")
ROWS = 4


def block(language: str, mark: str) -> str:
    found = [text for text in re.findall(rf"```{language}\n(.*?)```", DOCS, re.DOTALL) if mark in text]
    assert len(found) == 1, f"{len(found)} {language} blocks with {mark!r}"
    return found[0]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with the adapter's file, in which commands are started."""
    (tmp_path / "my_adapters.py").write_text(block("python", "class Prior"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ran(*command: str) -> str:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_file_has_thirty_lines_of_code():
    lines = [line for line in block("python", "class Prior").splitlines() if line.strip()]

    assert len(lines) <= 30


def test_the_adapter_keeps_the_laws(folder):
    ran("-W", "error", "-c", block("python", "check(Prior())"))


def test_the_adapter_is_compared(folder):
    command = shlex.split(block("bash", "evaluate"))

    few = ["--protocol", "single", "--images", "16", "--device", "cpu"]
    printed = ran("-m", "tta_server", *command[1:], *few)

    assert "my_adapters:Prior" in printed
    assert "failed" not in printed


def test_the_adapter_is_served_kept_and_named_by_requests_which_import_nothing(folder):
    config = yaml.safe_load(block("yaml", "my_adapters:Prior"))
    config |= {"engine": {"max_rows": ROWS, "window_rows": ROWS}}
    config |= {"model": {"device": "cpu"}, "storage": {"url": str(folder / "kept"), "save_every_s": 0}}
    (folder / "trap.py").write_text("open('sprung', 'w').close()\n", encoding="utf-8")
    (folder / "first").mkdir()

    with running(folder / "first", config) as server:
        infer(server.client, "door", glyph_images(100, ROWS))
        learnt = settled(server.client, "door", ROWS)
        patched = server.client.patch(
            "/v1/streams/door", json={"adapter": {"name": "prior", "settings": {"share": 0.2}}}
        )
        refused = [
            server.client.request(method, f"/v1/streams{path}", json={**body, "adapter": {"name": name}})
            for name in ("trap:Trap", "os:getcwd", "json")
            for method, path, body in (("PATCH", "/door", {}), ("POST", "", {"name": "yard"}))
        ]

    assert (learnt["adapter"], learnt["steps"]) == ("prior", 1)
    assert patched.status_code == 200, patched.text
    assert {answer.status_code for answer in refused} == {400}
    assert all("unknown adapter" in answer.text for answer in refused)
    assert not (folder / "sprung").exists()

    (folder / "second").mkdir()
    with running(folder / "second", config) as server:
        again = server.client.get("/v1/streams/door").json()

    assert (again["adapter"], again["steps"]) == ("prior", 1)
    assert again["state_version"] == learnt["state_version"]

"""Steps are taken again as they were taken, whatever is configured by then; what cannot be is told as it is."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.server import running
from tests.tta_server.test_replay_command import digest, noisy
from tests.tta_server.test_server import infer, stream, until
from tta_server.cli import main

REST = {"domains": {"max": 1}, "engine": {"window_rows": 8, "window_min_rows": 8, "threads": 1}}


@dataclass
class Kept:
    """What a server left behind, and what it was configured by."""

    folder: Path
    config: dict
    digest: str = ""

    def replay(self, stream: str = "gate", **changed: object) -> int:
        """Replay with another configuration, and return the exit status."""
        path = self.folder / "other.yaml"
        path.write_text(yaml.safe_dump(self.config | changed))
        return main(["replay", "--config", str(path), "--stream", stream])

    def rewrite(self, change: Callable[[dict], dict]) -> None:
        """Change the lines of the log, as an older server would have written them or a forger would."""
        for path in (self.folder / "kept" / "audit").rglob("*.jsonl"):
            lines = [change(json.loads(line)) for line in path.read_text().splitlines()]
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def kept(tmp_path) -> Kept:
    """Return what a server left behind that shares its place, and was started twice with different settings."""
    storage = {"url": str(tmp_path / "kept"), "keep_inputs": True, "shared": True, "replica": "tta-0"}
    config = REST | {"storage": storage, "adapter": {"settings": {"lr": 0.01}}}
    for lr in (0.01, 0.003):
        with running(tmp_path, config | {"adapter": {"settings": {"lr": lr}}}) as server:
            for seed in range(3):
                infer(server.client, "gate", noisy(seed + int(lr * 1000)))
                until(lambda: stream(server.client, "gate")["images_in_window"] == 0)
            learnt = digest(server.client.get("/v1/streams/gate/state").content)
    return Kept(tmp_path, config, learnt)


def old(line: dict) -> dict:
    return line | {"extra": {}, "state": None if line["event"] == "load" else line["state"]}


def test_other_settings_than_the_configurations_are_used_again(kept, capsys):
    assert kept.replay(statistics={"full_rows": 2}, guard={"max_distance": 0.5}) == 0

    assert kept.digest in capsys.readouterr().out


def test_what_an_older_server_wrote_is_replayed_as_configured_and_says_so_where_it_differs(kept, capsys):
    kept.rewrite(old)

    assert kept.replay(adapter={"settings": {"lr": 0.02}}) == 2

    said = capsys.readouterr().err
    assert "version 1000001 of stream 'gate' gives state" in said
    assert "the log does not tell with which adapter, settings and statistics" in said


def test_other_weights_are_named(kept, capsys):
    def other(line: dict) -> dict:
        return line | {"extra": line["extra"] | {"weights": "0123456789abcdef"}} if line["event"] == "commit" else line

    kept.rewrite(lambda line: other(line) if "weights" in line["extra"] else line)

    assert kept.replay() == 2

    assert "was learnt with weights 0123456789abcdef, the configured model has" in capsys.readouterr().err


def test_a_line_that_was_changed_is_refused_without_an_excuse(kept, capsys):
    kept.rewrite(lambda line: line | {"state": "f" * 64} if line["version_after"] == 1_000_002 else line)

    assert kept.replay() == 2

    said = capsys.readouterr().err
    assert "version 1000002 of stream 'gate' gives state" in said
    assert "the log does not tell with" not in said


def test_a_changed_line_that_the_state_does_not_come_from_shows_in_the_exit_status(kept, capsys):
    reset = {"event": "reset", "stream": "gate", "version_before": 2_000_003, "version_after": 2_000_004, "time": "9"}
    newest = max((kept.folder / "kept" / "audit").rglob("*.jsonl"))
    newest.write_text(newest.read_text() + json.dumps(reset) + "\n")
    kept.rewrite(lambda line: line | {"state": "f" * 64} if line["version_after"] == 1_000_002 else line)

    assert kept.replay() == 1

    assert "which it does not come from, are not proved: version 1000002 of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("event", "extra"),
    [
        ("delete", {}),
        ("reset", {"domains": ["gate@1"]}),
        ("forget", {"domain": "gate@1"}),
        ("merge", {"merged": "gate@1"}),
    ],
)
def test_the_windows_of_a_domain_are_erased_with_it(kept, capsys, event, extra):
    kept.rewrite(lambda line: line | {"stream": "gate@1"})
    end = {"event": event, "stream": "gate", "version_before": 2_000_003, "version_after": 2_000_003, "time": "9"}
    newest = max((kept.folder / "kept" / "audit").rglob("*.jsonl"))
    newest.write_text(newest.read_text() + json.dumps(end | {"extra": extra}) + "\n")

    assert kept.replay("gate@1") == 0

    assert "was erased with the stream at 9" in capsys.readouterr().out


@pytest.mark.parametrize(("most", "why"), [(10, "inputs_max_bytes left no room for it"), (2**30, "was not set")])
def test_why_a_window_is_missing_is_told(kept, capsys, most, why):
    for path in sorted((kept.folder / "kept" / "streams" / "gate" / "inputs").iterdir())[:-1]:
        path.unlink()

    assert kept.replay(storage=kept.config["storage"] | {"inputs_max_bytes": most}) == 2

    assert why in capsys.readouterr().err


def test_lines_that_were_rotated_away_are_named(kept, capsys):
    segment = next((kept.folder / "kept" / "audit").rglob("*.jsonl"))
    (segment.parent / "00000002.jsonl").write_text("".join(segment.read_text().splitlines(keepends=True)[1:]))
    segment.unlink()

    assert kept.replay() == 2

    said = capsys.readouterr().err
    assert "does not tell how version 1000001 came about; the log's oldest files were removed" in said

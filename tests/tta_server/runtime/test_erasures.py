"""What an operator or the server itself has erased does not come back with a restart, whatever the disk does."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.tta_server.runtime.engines import PATIENCE_S
from tests.tta_server.runtime.fakes import WHO, Wired, ask, bright, dark, learn_all, rows
from tests.tta_server.runtime.told_apart import telling
from tta_server.errors import NotFound
from tta_server.names import is_domain
from tta_server.storage.store import Store


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Have the folders of domains refuse every change, or no more."""
    delete, now = Store.delete, [False]

    def deleted(store: Store, name: str, generation: int = 0) -> None:
        if now[0] and is_domain(name):
            raise PermissionError(1, "Operation not permitted")
        delete(store, name, generation)

    monkeypatch.setattr(Store, "delete", deleted)
    return lambda on: now.__setitem__(0, on)


def written(subject: Wired) -> None:
    """Wait until what can be written is."""
    with subject.kept.keeper._changed:
        assert subject.kept.keeper._changed.wait_for(lambda: not subject.kept.keeper._pending.states, PATIENCE_S)


def taught(folder: Path, *kinds: Callable) -> Wired:
    subject = telling(storage=str(folder))
    for kind in kinds:
        ask(subject, "door", kind(16))
        learn_all(subject)
    written(subject)
    return subject


def killed(subject: Wired, folder: Path) -> Wired:
    """Return the server that finds what this one has written so far."""
    copy = folder.with_name(f"{folder.name}-copy")
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("lock"))
    subject.kept.keeper.close(0.1)
    return telling(storage=str(copy))


def there(subject: Wired) -> list[str]:
    subject.commands.read("door")
    return subject.worker.parts.registry.domain_names("door")


def test_a_reset_says_that_a_domain_cannot_be_erased_and_holds(tmp_path: Path, stuck):
    subject = taught(tmp_path / "kept", dark, bright)
    stuck(True)

    told, erased = subject.commands.reset("door", WHO)

    assert told["domains"] == []
    with pytest.raises(PermissionError):
        erased.result(PATIENCE_S)
    written(subject)
    again = killed(subject, tmp_path / "kept")
    assert "door@1" in again.kept.store.names()
    assert there(again) == []
    stuck(False)
    assert again.kept.keeper.flush(PATIENCE_S)
    assert again.kept.store.names() == ["door"]


def test_a_deletion_that_failed_can_be_asked_for_again_until_nothing_is_left(tmp_path: Path, stuck):
    subject = taught(tmp_path / "kept", dark)
    stuck(True)

    for name in ("door", "door", "door@1", "door"):  # of the stream the domain is left
        with pytest.raises(PermissionError):
            subject.commands.delete(name, WHO).result(PATIENCE_S)

    stuck(False)
    assert subject.kept.keeper.flush(PATIENCE_S)
    with pytest.raises(NotFound):
        subject.commands.delete("door", WHO)


def test_a_reset_of_a_stream_without_domains_waits_for_nothing(tmp_path: Path):
    _, erased = taught(tmp_path / "kept", rows).commands.reset("door", WHO)

    assert erased.result(0) is None


def test_a_domain_that_made_room_does_not_come_back(tmp_path: Path, stuck):
    subject = taught(tmp_path / "kept", dark, bright)
    stuck(True)
    subject.worker.parts.router._leave("forget", subject.stream("door"), "door@1", "", {"domain": "door@1"})
    written(subject)

    assert there(killed(subject, tmp_path / "kept")) == ["door@2"]


def test_a_domain_that_is_newer_than_what_is_written_of_its_stream_is_there(tmp_path: Path):
    folder = tmp_path / "kept"
    subject = taught(folder, dark)
    shutil.copytree(folder / "streams/door", tmp_path / "door")
    ask(subject, "door", bright(16))
    learn_all(subject)
    written(subject)
    shutil.rmtree(folder / "streams/door")
    shutil.copytree(tmp_path / "door", folder / "streams/door")

    again = killed(subject, folder)
    assert there(again) == ["door@1", "door@2"]
    darker = np.clip(rows(16, 3) // 8 + 120, 0, 255).astype(np.uint8)
    assert ask(again, "door", darker).domains[0] == "door@3"


def test_a_stream_of_which_only_snapshots_are_left_can_be_deleted(tmp_path: Path):
    subject = telling(storage=str(tmp_path / "kept"), domains=1)
    ask(subject, "door", rows(1))
    subject.commands.states.snapshot("door", "").result(PATIENCE_S)
    written(subject)
    for path in (tmp_path / "kept/streams/door").glob("state-*"):
        path.unlink()
    again = killed(subject, tmp_path / "kept")

    with pytest.raises(NotFound):
        again.commands.read("door")
    again.commands.delete("door", WHO).result(PATIENCE_S)

    assert again.kept.store.names() == []
    with pytest.raises(NotFound):
        again.commands.delete("door", WHO)

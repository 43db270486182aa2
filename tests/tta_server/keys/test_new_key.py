"""A new key comes into a file that is in use: nothing else of it changes, and no key is lost."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from stat import S_IMODE

import pytest
import yaml

from tta_server.cli import main
from tta_server.keys import new_key as module
from tta_server.keys.key import Key
from tta_server.keys.keyring import Keyring, read_keys
from tta_server.keys.new_key import new_key

ENTRY = {"scopes": ["infer"], "streams": ["gate-*"]}
KEPT = "# of the gates\nkeys:\n- name: old  # until May\n  sha256: {digest}\n  scopes: [infer]\n  streams: ['*']\n"
TEXTS = {
    "with comments": KEPT,
    "without a last line break": KEPT.rstrip(),
    "further in": KEPT.replace("\n  ", "\n      ").replace("\n-", "\n    -"),
    "of another system": KEPT.replace("\n", "\r\n"),
    "with a comment at its end": f"{KEPT}# the end\n",
    "empty": "",
    "of blank lines": "\n\n",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_what_is_in_the_file_stays_with_its_owner_and_its_mode(tmp_path, text):
    file, text = tmp_path / "keys.yaml", text.format(digest="ab" * 32)
    file.write_bytes(text.encode())
    if os.getuid() == 0:
        os.chown(file, 1234, 4321)
    file.chmod(0o640)
    before = file.stat()

    secret, _ = new_key(file, ENTRY | {"name": "new"})

    after = file.stat()
    assert (after.st_uid, after.st_gid, S_IMODE(after.st_mode)) == (before.st_uid, before.st_gid, 0o640)
    assert file.read_bytes().startswith(text.encode())
    keys = read_keys(file)
    assert [key.name for key in keys] == (["old", "new"] if text.strip() else ["new"])
    assert Keyring(keys).find(secret).name == "new"


def test_a_link_stays_one_and_the_file_behind_it_gets_the_key(tmp_path):
    (tmp_path / "etc").mkdir()
    file, link = tmp_path / "etc" / "keys.yaml", tmp_path / "keys.yaml"
    link.symlink_to(Path("etc", "keys.yaml"))

    for name in ("one", "two"):
        new_key(link, ENTRY | {"name": name})

    assert link.is_symlink()
    assert [key.name for key in read_keys(file)] == ["one", "two"]
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["etc", "keys.yaml", "keys.yaml"]


def test_links_in_a_circle_are_told_in_one_line(tmp_path, capsys):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")

    status = main(["keys", "new", "--name", "x", "--streams", "*", "--file", str(tmp_path / "a")])

    printed = capsys.readouterr()
    assert (status, printed.out, len(printed.err.splitlines())) == (2, "", 1)


def test_of_many_at_once_no_key_is_lost(tmp_path):
    file = tmp_path / "keys.yaml"

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: new_key(file, ENTRY | {"name": f"key-{number}"})[0], range(24)))

    ring = Keyring(read_keys(file))
    assert [ring.find(secret).name for secret in made] == [f"key-{number}" for number in range(24)]


@pytest.mark.parametrize("shape", ["{{keys: {keys}}}", "keys: {keys}\n", "keys: &all {keys}\n...\n"])
def test_what_cannot_be_added_to_is_left_alone(tmp_path, shape):
    file, old = tmp_path / "keys.yaml", Key(name="old", sha256="0" * 64, **ENTRY).model_dump(exclude_none=True)
    file.write_text(shape.format(keys=yaml.safe_dump([old], default_flow_style=True).strip()))
    before = file.read_text()

    with pytest.raises(ValueError, match="leave out --file"):
        new_key(file, ENTRY | {"name": "new"})

    assert (file.read_text(), len(list(tmp_path.iterdir()))) == (before, 1)


def test_where_there_is_no_room_the_file_stays_and_nothing_is_left_behind(tmp_path, monkeypatch):
    file = tmp_path / "keys.yaml"
    new_key(file, ENTRY | {"name": "old"})
    before = file.read_text()

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(ValueError, match="cannot be written: No space left on device"):
        new_key(file, ENTRY | {"name": "new"})

    assert (file.read_text(), len(list(tmp_path.iterdir()))) == (before, 1)

"""Keys and the file that they are in."""

import asyncio
import stat
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tta_server.cli import main
from tta_server.errors import Forbidden, RateLimited, Unauthorized
from tta_server.keys import files
from tta_server.keys.key import Key, digest_of
from tta_server.keys.keyring import Keyring, keys_in, read_keys
from tta_server.keys.new_key import new_key
from tta_server.keys.rate import Rate
from tta_server.settings_door import AuthSettings

ENTRY = {"name": "cameras", "scopes": ["infer"], "streams": ["gate-*"]}

GOOD = ENTRY | {"sha256": "0" * 64}


def test_a_new_key_is_known_again_and_kept_nowhere(tmp_path, capsys):
    file = tmp_path / "keys.yaml"
    arguments = ["keys", "new", "--scopes", "infer", "read", "--streams", "gate-*", "--file", str(file)]

    assert main([*arguments, "--name", "one"]) == main([*arguments, "--name", "two"]) == 0
    first, second = capsys.readouterr().out.split()

    ring = Keyring(read_keys(file))
    assert (ring.find(first).name, ring.find(second).name) == ("one", "two")
    assert first not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for wrong in ("", first[:-1], first + "x", ring.find(first).sha256, "\udcff"):
        with pytest.raises(Unauthorized):
            ring.find(wrong)


def test_without_a_file_the_entry_is_shown(capsys):
    assert main(["keys", "new", "--name", "one", "--streams", "*"]) == 0

    printed = capsys.readouterr()
    (entry,) = yaml.safe_load(printed.err.split("\n", 1)[1].rpartition("this is the key")[0])
    assert Keyring([Key(**entry)]).find(printed.out.strip()).scopes == ["infer"]


def of(**changes: object) -> str:
    """Return a file of one key."""
    return yaml.safe_dump({"keys": [GOOD | changes]})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("keys: []", "must be a mapping 'keys' with a list"),
        ("- a", "must be a mapping"),
        ("{", "cannot be read"),
        (of(sha256=""), "key 1: sha256"),
        (of(sha256="secret"), "key 1: sha256"),
        (of(name="engine"), "cannot be called 'engine'"),
        (of(scopes=[]), "scopes"),
        (of(streams=["[a]"]), "pattern '[a]'"),
        (of(stream="*"), "stream"),
        (of(images_per_s=True), "images_per_s"),
        (of(images_per_s="5"), "images_per_s"),
        (yaml.safe_dump({"keys": [GOOD, GOOD]}), "two keys called 'cameras'"),
    ],
)
def test_a_wrong_file_is_told_what_is_wrong_and_no_secret_of_it(tmp_path, text, said):
    file = tmp_path / "keys.yaml"
    file.write_text(text)

    with pytest.raises(ValueError) as error:  # noqa: PT011 (what it says is compared below)
        read_keys(file)

    assert said in str(error.value)
    assert "secret" not in str(error.value)


def test_a_name_is_taken_once(tmp_path):
    new_key(tmp_path / "keys.yaml", ENTRY)

    with pytest.raises(ValueError, match="has a key called 'cameras' already"):
        new_key(tmp_path / "keys.yaml", ENTRY)


@pytest.mark.parametrize(
    ("name", "mine"), [("gate-1", True), ("gate-1@2", True), ("gate", False), ("Gate-1", False), ("door@gate-1", False)]
)
def test_a_key_is_for_the_streams_of_its_patterns_and_their_domains(name, mine):
    key = Key(**ENTRY, sha256="0" * 64)

    assert key.is_for_stream(name) == mine
    if not mine:
        with pytest.raises(Forbidden, match="for the streams gate-"):
            key.expect_streams(name)


@given(st.from_regex(r"[A-Za-z0-9._:@-]{1,64}", fullmatch=True))
def test_a_pattern_holds_what_a_model_s_name_may_hold(name):
    key = Key(**ENTRY | {"models": [name]}, sha256="0" * 64)

    assert key.is_for_model(name)
    assert not key.is_for_model(f"{name}x")


@given(st.floats(0.5, 100), st.lists(st.tuples(st.floats(0, 2), st.integers(1, 64)), max_size=40))
def test_a_rate_holds_on_average_whatever_comes(per_s, requests):
    rate, now_s, taken, last = Rate(per_s), 0.0, 0, 0

    for passed_s, images in requests:
        now_s += passed_s
        if not rate.take(images, now_s):
            taken, last = taken + images, images

    assert taken - last <= max(1.0, per_s) + per_s * now_s + 1e-6  # the last one may overdraw it


def test_new_keys_replace_all_but_what_is_left_of_a_rate():
    def entry(name: str, images_per_s: int) -> dict[str, object]:
        return ENTRY | {"name": name, "sha256": digest_of(name), "images_per_s": images_per_s}

    def become(*entries: dict[str, object]) -> None:
        ring.read_again(yaml.safe_dump({"keys": list(entries)}).encode(), Path("keys.yaml"))

    ring = Keyring([Key(**entry("slow", 1)), Key(**entry("fast", 9))])
    ring.take(ring.find("slow"), 5, 0.0)

    become(entry("slow", 1), entry("new", 9))

    assert ring.find("new").name == "new"
    with pytest.raises(Unauthorized):
        ring.find("fast")
    with pytest.raises(RateLimited):
        ring.take(ring.find("slow"), 1, 0.0)
    become(entry("slow", 2))
    ring.take(ring.find("slow"), 1, 0.0)  # another rate begins anew


def test_who_is_told_to_wait_need_not_wait_longer():
    rate = Rate(2.0)
    assert rate.take(10, 0.0) == 0

    wait_s = rate.take(1, 0.0)

    assert wait_s == 5
    assert rate.take(1, wait_s + 0.1) == 0


def test_a_half_written_file_widens_no_key(tmp_path, monkeypatch):
    narrow = GOOD | {"models": ["one"], "images_per_s": 2.0}
    new, last = GOOD | {"name": "new", "sha256": digest_of("n")}, narrow | {"name": "last", "sha256": digest_of("l")}
    whole = yaml.safe_dump({"keys": [narrow, new, last]}, sort_keys=False)
    halves = [whole[: whole.rindex(mark)] for mark in ("  models", "  images_per_s")]
    assert [keys_in(half.encode(), tmp_path)[-1].images_per_s for half in halves] == [None, None]
    looks = [*halves, whole, halves[0], whole, whole]
    ring, taken = Keyring([Key(**narrow)]), list[bytes]()
    monkeypatch.setattr(files, "_content", lambda path: looks.pop(0).encode())

    def read_again(text: bytes, path: Path) -> None:
        taken.append(text)
        Keyring.read_again(ring, text, path)

    monkeypatch.setattr(ring, "read_again", read_again)
    with pytest.raises(IndexError):  # once there are no more looks
        asyncio.run(files.follow(AuthSettings(keys_file=tmp_path / "keys.yaml"), ring, 0))

    assert taken == [whole.encode()]
    assert [(key.name, key.images_per_s) for key in map(ring.find, "nl")] == [("new", None), ("last", 2.0)]

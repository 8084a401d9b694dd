"""Files that are none, where keys are expected: named, nobody's key, and never waited for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sim_stream.errors import InvalidInput
from sim_stream.wire.keys import FILE_BYTES, read_pair, read_public
from sim_stream.wire.server.auth import AllowList, Guard
from tests.wire.test_security import Realm

pytestmark = pytest.mark.skipif(os.name != "posix", reason="FIFOs are POSIX's")
KINDS = ("FIFO", "folder", "device", "dangling", "loop", "huge")


@pytest.fixture
def realm(tmp_path):
    return Realm(tmp_path)


def put(path: Path, kind: str) -> None:
    match kind:
        case "FIFO":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "device":
            path.symlink_to("/dev/zero")
        case "dangling":
            path.symlink_to(path.parent / "nowhere")
        case "loop":
            path.symlink_to(path)
        case "huge":
            with path.open("wb") as file:
                file.truncate(2**40)


@pytest.mark.parametrize("kind", KINDS)
def test_an_odd_file_in_the_folder_is_named_and_the_others_count(realm, caplog, kind):
    put(realm.allow / "odd.pub", kind)
    guard = Guard.load(realm.secret("server"), realm.allow)
    assert guard is not None and guard.allowed == 2
    assert "odd.pub" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_so_it_is_when_it_comes_later(realm, caplog, kind):
    allow_list = AllowList(realm.allow)
    put(realm.allow / "odd.pub", kind)
    realm.let_in("mallory")
    key = read_pair("key", realm.secret("mallory")).public
    assert allow_list.holds(key, at_once=True) and len(allow_list) == 3
    assert "odd.pub" in caplog.text


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "folder"])
def test_an_odd_file_in_place_of_the_list_allows_nobody(realm, caplog, kind):
    path = realm.folder / "allowed"
    path.write_text(realm.public("alice").read_text())
    allow_list = AllowList(path)
    path.unlink()
    put(path, kind)
    assert not allow_list.holds(read_pair("key", realm.secret("alice")).public, at_once=True)
    with pytest.raises(InvalidInput, match="allow: got"):
        AllowList(path)


@pytest.mark.parametrize("kind", KINDS)
def test_an_odd_file_is_no_key(realm, kind):
    path = realm.folder / "odd"
    put(path, kind)
    for read in (read_pair, read_public):
        with pytest.raises(InvalidInput, match=r"key: got .*odd"):
            read("key", path)


def test_a_file_of_as_many_keys_as_fit_is_read(realm):
    path = realm.folder / "allowed"
    line = realm.public("alice").read_text()
    path.write_text(line * (FILE_BYTES // len(line)))
    assert len(AllowList(path)) == 1

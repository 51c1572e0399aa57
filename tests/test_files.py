"""Files that are replaced: whole or not at all, as `open` would make them, and on the disk."""

import errno
import hashlib
import os
import stat
import threading
import time
from pathlib import Path

import pytest

from src import files
from src.errors import UserError
from src.files import (
    file_digest,
    lock,
    remove_left,
    replace,
    replace_all,
    replace_folder,
    write_file,
)


def content(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_file_takes_its_name_at_the_end(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replace(path) as part:
        assert part.startswith(f"{path}.") and part.endswith(".part") and not Path(part).exists()
        Path(part).write_text("new")
        assert path.read_text() == "old"
    assert content(tmp_path) == {"a.txt": "new"}
    with replace(str(path)) as part:
        Path(part).write_text("newer")
    assert content(tmp_path) == {"a.txt": "newer"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    for begun in (False, True):
        with pytest.raises(error), replace(path) as part:
            if begun:
                Path(part).write_text("half")
            raise error
    assert content(tmp_path) == {"a.txt": "old"}


def test_a_full_disk_names_the_place(tmp_path):
    with pytest.raises(OSError, match=f"No space.*{tmp_path}"), replace(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_part_that_cannot_take_the_name_is_removed(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OSError, match="a.txt"), replace(tmp_path / "a.txt") as part:
        Path(part).write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_all_files_are_complete_before_the_first_takes_its_name(tmp_path):
    paths = [tmp_path / name for name in ("a", "b", "c")]
    paths[0].write_text("old")
    with pytest.raises(ValueError), replace_all(paths) as parts:
        for part in parts[:2]:
            Path(part).write_text("new")
        raise ValueError
    assert content(tmp_path) == {"a": "old"}
    with replace_all(paths) as parts:
        assert len(set(parts)) == 3
        for part, text in zip(parts, "xyz"):
            Path(part).write_text(text)
    assert content(tmp_path) == {"a": "x", "b": "y", "c": "z"}


def test_two_writers_do_not_share_a_part(tmp_path):
    with replace(tmp_path / "a") as first, replace(tmp_path / "a") as second:
        Path(first).write_text("first")
        Path(second).write_text("second")
        assert first != second
    assert content(tmp_path) == {"a": "first"}  # whoever ends last


@pytest.mark.parametrize("content", [b"my own\n", b"\xff\xd8", b"\n12 (x)\nmore"])
def test_a_file_of_the_users_is_no_lock(tmp_path, content):
    (tmp_path / "a.lock").write_bytes(content)
    with pytest.raises(UserError, match="a.lock: found a file that is no lock of ours"):
        with files.lock(tmp_path / "a.lock", "busy"):
            raise AssertionError("taken for a lock")
    assert (tmp_path / "a.lock").read_bytes() == content


def test_what_a_killed_process_left_is_a_lock(tmp_path):
    for left in (b"", b"\n", b"\n12 (LHC_Train.py)\n"):
        (tmp_path / "a.lock").write_bytes(left)
        with files.lock(tmp_path / "a.lock", "busy"):
            pass
        assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="no such permissions on Windows")
def test_permissions_are_those_that_open_gives(tmp_path):
    with replace(tmp_path / "ours") as part:
        Path(part).write_text("")
    (tmp_path / "plain").write_text("")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "plain")]
    assert modes[0] == modes[1]


@pytest.mark.parametrize("sync", [True, False])
def test_the_disk_holds_the_content_before_the_name_and_then_the_name(tmp_path, monkeypatch, sync):
    done, replaces, fsync = [], os.replace, os.fsync
    monkeypatch.setattr(files.os, "replace", lambda *a: done.append("rename") or replaces(*a))
    monkeypatch.setattr(
        files.os,
        "fsync",
        lambda handle: (
            done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
            or fsync(handle)
        ),
    )
    with replace_all([tmp_path / "a", tmp_path / "b"], sync=sync) as parts:
        for part in parts:
            Path(part).write_text("x")
    expected = ["file", "file", "rename", "rename", "folder"] if sync else ["rename", "rename"]
    assert done == expected


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path):
    with replace(tmp_path / "a") as part:
        Path(part).write_text("half")
        left = Path(part).read_bytes()
    Path(part).write_bytes(left)  # as if it had never taken its name
    kept = ["a", "b.part", "b.part.json", ".1-01234567.part", "c.1-0123.part", "c.1-01234567.parts"]
    for name in kept[1:]:
        (tmp_path / name).write_text("mine, or a download that goes on")
    remove_left(tmp_path)
    assert sorted(content(tmp_path)) == sorted(kept)


def test_a_folder_takes_its_name_at_the_end(tmp_path):
    path = tmp_path / "a"
    for text in ("old", "new"):
        with replace_folder(path) as part:
            assert part.startswith(f"{path}.") and list(Path(part).iterdir()) == []
            (Path(part) / text / "deep").mkdir(parents=True)
            (Path(part) / text / "deep" / "b").write_text(text)
            assert path.exists() == (text == "new")
        assert (path / text / "deep" / "b").read_text() == text
        assert [entry.name for entry in tmp_path.iterdir()] == ["a"]
        assert [entry.name for entry in path.iterdir()] == [text]


def test_an_error_leaves_the_folder_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.mkdir()
    (path / "b").write_text("old")
    with pytest.raises(ValueError), replace_folder(path) as part:
        (Path(part) / "b").write_text("half")
        raise ValueError
    rename = os.rename

    def refuse(source, target):
        if str(target) == str(path) and (Path(source) / "b").read_text() == "new":
            raise OSError(errno.EACCES, "refused")
        rename(source, target)

    monkeypatch.setattr(files.os, "rename", refuse)
    with pytest.raises(OSError, match="refused"), replace_folder(path) as part:
        (Path(part) / "b").write_text("new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]
    assert content(path) == {"b": "old"}


def test_an_ending_process_removes_the_folder_that_it_writes(tmp_path):
    with pytest.raises(FileNotFoundError), replace_folder(tmp_path / "a") as part:
        (Path(part) / "b").write_text("half")
        files.remove_parts()
        assert list(tmp_path.iterdir()) == []
        os.listdir(part)


def test_digest_of_a_file(tmp_path):
    body = bytes(range(256)) * 5000  # more than a block
    (tmp_path / "a").write_bytes(body)
    for algorithm in ("md5", "sha256"):
        expected = hashlib.new(algorithm, body).hexdigest()
        assert file_digest(tmp_path / "a", algorithm) == expected


def test_a_lock_can_be_waited_for(tmp_path):
    done = []

    def second():
        with lock(tmp_path / "lock", "x", wait=True):
            done.append("second")

    with lock(tmp_path / "lock", "x"):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.2)
        done.append("first")
    thread.join()
    assert done == ["first", "second"]


def test_a_full_disk_keeps_nobody_from_locking(tmp_path, monkeypatch):
    """What is written then says what is full, and where."""

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "write", full)
    with files.lock(tmp_path / "a.lock", "busy"):
        with pytest.raises(UserError, match="busy by another process: "):
            with files.lock(tmp_path / "a.lock", "busy"):
                raise AssertionError("two hold it")
    assert not list(tmp_path.iterdir())


def test_who_has_just_locked_is_named(tmp_path, monkeypatch):
    """Between locking a file and writing its name into it, a process may be kept from going on."""
    write, found = os.write, []

    def second():
        with pytest.raises(UserError) as caught:
            with files.lock(tmp_path / "a.lock", "busy"):
                raise AssertionError("two hold it")
        found.append(str(caught.value))

    def slowly(*args):
        thread.start()
        time.sleep(0.3)
        return write(*args)

    thread = threading.Thread(target=second)
    monkeypatch.setattr(files.os, "write", slowly)
    with files.lock(tmp_path / "a.lock", "busy"):
        thread.join()
    assert found[0].startswith(f"busy by process {os.getpid()} (")


def test_folders_that_killed_processes_left_go_too(tmp_path):
    for name in ("a.onnx.12-0123abcd.part", "mine.part"):
        (tmp_path / name).mkdir()
        write_file(tmp_path / name / "inner", b"x")
    write_file(tmp_path / "b.csv.12-0123abcd.part", b"x")
    remove_left(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.part"]

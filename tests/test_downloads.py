"""Downloads against a server on this machine that misbehaves in every way we could think of."""

import errno
import gzip
import hashlib
import json
import shutil
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import Download_Data
import Download_Models
from src import downloads
from src import settings as settings_module
from src.checkpoints import check_checkpoint_file
from src.dataset import SPLITS, csv_path, load, store
from src.downloads import fetch
from src.errors import UserError
from src.files import file_digest
from src.weights import ensure_imagenet
from tests.loopback import serving

BODY = np.random.RandomState(3).bytes(300_000)
MD5 = hashlib.md5(BODY).hexdigest()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(downloads, "PAUSE", 0)
    monkeypatch.setattr(downloads, "TIMEOUT", (5, 5))
    with serving({"/file": BODY}) as served:
        yield served


@pytest.fixture
def target(tmp_path):
    return tmp_path / "new" / "file.bin"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_fetched(target):
    assert target.read_bytes() == BODY
    assert names(target.parent) == [target.name], "no part file stays"


def test_plain_download(server, target):
    fetch(server.address + "/file", target, md5=MD5)
    assert_fetched(target)
    assert server.requests == [None]


def test_partial_content_that_nobody_asked_for(server, target):
    server.script = [{"status": 206}]
    fetch(server.address + "/file", target, md5=MD5)
    assert_fetched(target)


def test_length_not_told(server, target):
    server.script = [{"no_length": True}]
    fetch(server.address + "/file", target, md5=MD5)
    assert_fetched(target)


@pytest.mark.parametrize("tag", ['"one"', 'W/"weak"', ""])
def test_broken_connections_are_resumed(server, target, tag):
    breaks = {"break_after": 100_000, "etag": tag}
    server.script = [breaks, breaks, {"etag": tag}]
    fetch(server.address + "/file", target, md5=MD5)
    assert_fetched(target)
    first, second, third = server.requests
    assert first is None
    starts = [int(asked[len("bytes=") : -1]) for asked in (second, third)]
    assert 0 < starts[0] <= 100_000 < starts[1] <= 200_000


def test_resumes_in_a_later_run(server, target, monkeypatch):
    monkeypatch.setattr(downloads, "RETRIES", 0)
    server.script = [{"break_after": 150_000}]
    with pytest.raises(UserError, match="could not be fetched"):
        fetch(server.address + "/file", target)
    assert names(target.parent) == ["file.bin.part", "file.bin.part.json"]
    fetch(server.address + "/file", target, md5=MD5)
    assert_fetched(target)
    assert server.requests[-1] and server.requests[-1] != "bytes=0-"


def test_a_kill_before_the_last_step_leaves_no_note(server, target, monkeypatch):
    """The file is there then, so nobody would look for a note."""

    def killed(part, path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(downloads.os, "replace", killed)
        fetch(server.address + "/file", target, md5=MD5)
    assert names(target.parent) == ["file.bin.part"]
    fetch(server.address + "/file", target, md5=MD5)
    assert_fetched(target)


def test_server_without_ranges(server, target):
    server.script = [{"break_after": 100_000}, {"no_range": True}]
    fetch(server.address + "/file", target, md5=MD5)
    assert_fetched(target)


@pytest.mark.parametrize("tags, length", [(('"one"', '"two"'), len(BODY)), (("", ""), 250_000)])
def test_file_that_changes_midway_is_not_mixed(server, target, tags, length):
    """The tag tells, or the length; no digest is there to find out afterwards."""
    old = {"body": b"x" * length, "break_after": 100_000, "etag": tags[0]}
    server.script = [old, {"etag": tags[1]}]
    fetch(server.address + "/file", target)
    assert_fetched(target)


def test_seam_that_fails_the_check_is_fetched_anew(server, target):
    old = {"body": b"x" * len(BODY), "break_after": 100_000, "etag": ""}  # same length, no tag
    server.script = [old, {"etag": ""}]
    fetch(server.address + "/file", target, md5=MD5)
    assert_fetched(target)


def leave_part(target, content, url):
    target.parent.mkdir()
    part = target.with_name(target.name + ".part")
    part.write_bytes(content)
    note = {"url": url, "validator": None, "total": None}
    part.with_name(part.name + ".json").write_text(json.dumps(note))


def test_part_that_is_complete_already(server, target):
    leave_part(target, BODY, server.address + "/file")
    fetch(server.address + "/file", target, md5=MD5)
    assert_fetched(target)
    assert server.requests == [f"bytes={len(BODY)}-"]


@pytest.mark.parametrize("content", [BODY + b"more", BODY[:-1] + b"?", b"garbage"], ids=len)
def test_part_that_does_not_fit(server, target, content):
    leave_part(target, content, server.address + "/file")
    fetch(server.address + "/file", target, md5=MD5)
    assert_fetched(target)


def test_part_of_another_address_is_not_used(server, target):
    leave_part(target, b"garbage", server.address + "/other")
    fetch(server.address + "/file", target)
    assert_fetched(target)
    assert server.requests == [None]


@pytest.mark.parametrize("status", [500, 503, 429])
def test_errors_that_pass_are_retried(server, target, status):
    server.script = [{"status": status}] * 3
    fetch(server.address + "/file", target, md5=MD5)
    assert_fetched(target)


PAGE = b"  <!DOCTYPE html>\n<html><body>Too many requests</body></html>"


@pytest.mark.parametrize(
    "script, options, requests, reason",
    [
        ([{"status": 404}], {}, 1, "404"),
        ([{"status": 500}] * 9, {}, downloads.RETRIES + 1, "500"),
        ([{"body": PAGE, "type": "text/html; charset=utf-8"}], {}, 1, "a web page"),
        ([{"body": PAGE}], {}, 1, "a web page"),
        ([{"body": b""}], {}, 1, "empty file"),
        ([], {"md5": "0" * 32}, 1, f"expected MD5 {'0' * 32}, found {MD5}"),
        (
            [{"break_after": 70_000}] + [{"break_after": 0}] * 9,
            {},
            downloads.RETRIES + 1,
            "fetched",
        ),
    ],
    ids="404 500 page-by-type page-by-content empty md5 breaks".split(),
)
def test_failures_say_why_and_what_to_do(server, target, script, options, requests, reason):
    target.parent.mkdir()
    target.write_bytes(b"the old one")
    server.script = list(script)
    with pytest.raises(UserError, match=reason) as caught:
        fetch(server.address + "/file", target, hint=", or else", **options)
    message = str(caught.value)
    assert server.address + "/file" in message and f"save it as {target}, or else" in message
    assert "\n" not in message
    assert target.read_bytes() == b"the old one", "what was there stays until it can be replaced"
    assert len(server.requests) == requests


@pytest.mark.parametrize(
    "behaviour, reason",
    [
        ({"no_length": True, "then": b"more" * 9999}, "sends more, the file can have 400000"),
        ({"length": 10**15}, "announces 1000000000000000 bytes, the file can have 400000"),
        ({"body": gzip.compress(bytes(10**7)), "packed": True}, "sends more, the file can"),
    ],
    ids=["endless", "announced", "packed"],
)
def test_more_than_the_file_can_have(server, target, behaviour, reason):
    server.script = [behaviour]
    with pytest.raises(UserError, match=f"{reason}.*Correct the address"):
        fetch(server.address + "/file", target, largest=400_000)
    assert not list(target.parent.glob("*")) and len(server.requests) == 1


@pytest.mark.parametrize(
    "how", [{}, {"no_length": True}, {"no_head": True}], ids=["told", "not told", "in the head"]
)
def test_a_byte_now_and_then_is_given_up(server, target, monkeypatch, how):
    monkeypatch.setattr(downloads, "SLOWEST", 1e9)
    monkeypatch.setattr(downloads, "LEAST_PATIENCE", 0.5)
    server.script = [{"break_after": 9, "then": b"x", "pause": 0.05, **how}]
    start = time.monotonic()
    with pytest.raises(UserError, match="took longer than .*Run the command again"):
        fetch(server.address + "/file", target)
    assert time.monotonic() - start < 4
    assert not target.exists()


def test_packed_answers_are_unpacked(server, target):
    server.script = [{"body": gzip.compress(BODY), "packed": True}]
    fetch(server.address + "/file", target, md5=MD5)
    assert_fetched(target)


def test_redirections_stay_encrypted_or_here(server, target):
    server.script = [{"status": 302, "to": server.address + "/file"}]
    fetch(server.address + "/moved", target, md5=MD5)
    assert_fetched(target)
    for url, expected in [("https://a/b", True), ("http://[::1]:5/", True), ("http://a/", False)]:
        assert downloads.secure(url) == expected
    server.requests.clear()
    for url in ("http://a/", "file:///etc/passwd", "//[::1"):
        server.script = [{"status": 302, "to": url}]
        with pytest.raises(UserError, match="(leads to (http|file):.*, not https|Invalid IPv6)"):
            fetch(server.address + "/moved", target)
    assert len(server.requests) == 3, "an address that cannot work is not tried again"


def test_redirections_end(server, target):
    """However many there are, and whatever comes with them."""
    server.script = [{"status": 302, "to": "/file", "then": b"x" * 9999}] * 99
    start = time.monotonic()
    with pytest.raises(UserError, match="leads on and on, to .*Correct the address"):
        fetch(server.address + "/moved", target)
    assert len(server.requests) == downloads.HOPS and time.monotonic() - start < 4


def test_a_certificate_is_not_asked_for_twice(target, monkeypatch):
    asked = []

    def get(*args, **options):
        asked.append(args)
        raise downloads.requests.exceptions.SSLError(
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate has expired "
            "(_ssl.c:1000)"
        )

    monkeypatch.setattr(downloads.requests.Session, "get", get)
    with pytest.raises(UserError, match="certificate of a is not valid here: certificate has exp"):
        fetch("https://a/b", target)
    assert len(asked) == 1


def test_a_full_disk_is_no_matter_of_the_server(server, target, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device", str(target) + ".part")

    monkeypatch.setattr(downloads, "_receive", full)
    with pytest.raises(UserError, match="file.bin.part: could not be written: No space.*free some"):
        fetch(server.address + "/file", target)


@pytest.mark.parametrize("note", ["[" * 100_000, "7", '{"url": 1}', "\0"], ids=len)
def test_notes_that_make_no_sense(server, target, note):
    target.parent.mkdir()
    target.with_name("file.bin.part").write_bytes(BODY[:100])
    target.with_name("file.bin.part.json").write_text(note)
    fetch(server.address + "/file", target, md5=MD5)
    assert_fetched(target)
    assert server.requests == [None]


@pytest.mark.parametrize(
    "change", [{"url": None}, {"validator": "a\nb"}, {"validator": "\u0663"}, {"total": "7"}]
)
def test_notes_of_no_use_begin_anew(server, target, change):
    note = {"url": server.address + "/file", "validator": None, "total": None, **change}
    note = {key: value for key, value in note.items() if key != "url" or value}
    target.parent.mkdir()
    target.with_name("file.bin.part").write_bytes(BODY[:100])
    target.with_name("file.bin.part.json").write_text(json.dumps(note))
    fetch(server.address + "/file", target, md5=MD5)
    assert_fetched(target)
    assert server.requests == [None]


def test_check_is_asked_before_the_name_is_given(server, target):
    def check(part):
        assert part.read_bytes() == BODY and not target.exists()
        raise UserError("not what we wanted")

    with pytest.raises(UserError, match="not what we wanted"):
        fetch(server.address + "/file", target, check=check)
    assert names(target.parent) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/file", "nonsense", "http://", "http://a..b/"])
def test_addresses_that_answer_nothing(server, target, url):
    with pytest.raises(UserError, match="could not be fetched from " + url):
        fetch(url, target)
    assert not target.parent.exists()


def make_splits():
    random = np.random.RandomState(0)
    labels = np.arange(7, dtype=np.uint8)
    return {
        split: (random.randint(0, 256, (7, 48, 48)).astype(np.uint8), labels) for split in SPLITS
    }


def write_data_settings(folder, **values):
    folder.mkdir()
    (folder / "Data_Settings.json").write_text(json.dumps(values))


def test_download_data(server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    splits = make_splits()
    store(tmp_path / "origin", splits)
    for split in SPLITS:
        path = csv_path("origin", split)
        server.files["/" + path.name] = path.read_bytes()
    write_data_settings(
        tmp_path / "mine",
        data_urls={n[1:]: f"{server.address}{n}?dl=1" for n in server.files if n.endswith("csv")},
        class_counts={split: [1] * 7 for split in SPLITS},
    )
    server.files = {name + "?dl=1": body for name, body in server.files.items()}
    arguments = ["--settings", "mine"]
    assert Download_Data.main(arguments) == 0
    assert len(server.requests) == 3
    assert "train: 7 images in" in capsys.readouterr().out
    assert Download_Data.main(arguments) == 0
    assert len(server.requests) == 3, "what is there is only verified"
    assert capsys.readouterr().out.count("already there") == 3

    whole = csv_path("Data", "val").read_bytes()
    csv_path("Data", "val").write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    cleaned = csv_path("Data", "val").read_bytes()
    assert Download_Data.main(arguments) == 2
    error = capsys.readouterr().err
    assert "val, Neutral: expected 1 images, found 0" in error and "--force replaces it" in error
    assert len(server.requests) == 3 and csv_path("Data", "val").read_bytes() == cleaned
    assert Download_Data.main([*arguments, "--force"]) == 0
    assert len(server.requests) == 4 and csv_path("Data", "val").read_bytes() == whole
    csv_path("Data", "val").write_bytes(whole[:-9])  # damaged
    assert Download_Data.main(arguments) == 0
    assert len(server.requests) == 5 and csv_path("Data", "val").read_bytes() == whole
    assert "fetching again" in capsys.readouterr().out
    np.testing.assert_array_equal(load("Data", "val")[0], splits["val"][0])

    csv_path("Data", "test").unlink()
    server.files["/data_test.csv?dl=1"] = whole[: len(whole) // 2]  # a broken file on the server
    assert Download_Data.main(arguments) == 2
    error = capsys.readouterr().err
    assert "expected 2306 columns" in error and "--from PATH" in error
    assert names(Path("Data")) == ["data_train.csv", "data_val.csv"]

    server.files["/data_test.csv?dl=1"] = csv_path("origin", "test").read_bytes()
    values = json.loads((tmp_path / "mine" / "Data_Settings.json").read_text())
    digests = {"in_order": "0" * 64, "any_order": "0" * 64}
    values["fer2013_sha256"] = dict.fromkeys(SPLITS, digests)
    (tmp_path / "mine" / "Data_Settings.json").write_text(json.dumps(values))
    csv_path("Data", "train").unlink()
    csv_path("Data", "val").unlink()
    assert Download_Data.main(arguments) == 2
    error = capsys.readouterr().err
    assert "expected the train split of FER2013" in error and "fer2013_sha256" in error
    assert names(Path("Data")) == []


def test_real_index_tells_the_size_of_the_data(tmp_path):
    """On the published form's own index; its data file is only measured: a sparse one will do."""
    archive = Path(__file__).parents[2] / "shared" / "fixtures" / "published_models.tar.xz"
    if not archive.is_file():
        pytest.skip("needs ../shared/fixtures")
    with tarfile.open(archive) as tar:
        member = next(m for m in tar if m.name.endswith("LHC_Net.index"))
        (tmp_path / "LHC_Net.index").write_bytes(tar.extractfile(member).read())
    data = tmp_path / "LHC_Net.data-00000-of-00001"
    for size in (129687848, 129687847):
        with open(data, "wb") as file:
            file.truncate(size)
        if size == 129687848:
            with pytest.raises(UserError, match="the checksum of .* does not match"):
                check_checkpoint_file(data, data.name)
    with pytest.raises(UserError, match="expected 129687848 bytes, found 129687847"):
        check_checkpoint_file(data, data.name)


def test_download_models(server, make_checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names_of = {"LHC_Net": "LHC_Net", "LHC_NetC": "LHC_Net_Controller"}
    models = {}
    server.files = {}
    index, content = make_checkpoint({"k": np.arange(25)})
    for model, prefix in names_of.items():
        files = {
            "checkpoint": b'model_checkpoint_path: "%s"\n' % prefix.encode(),
            f"{prefix}.data-00000-of-00001": content,
            f"{prefix}.index": index,
        }
        models[model] = {name: f"{server.address}/{model}/{name}" for name in files}
        server.files.update({f"/{model}/{name}": body for name, body in files.items()})
    write_data_settings(tmp_path / "mine", published_models=models)
    arguments = ["--settings", "mine"]
    assert Download_Models.main(arguments) == 0
    assert "LHC_NetC: complete in" in capsys.readouterr().out
    for path, body in server.files.items():
        assert Path("Downloaded_Models" + path).read_bytes() == body
    folder = Path("Downloaded_Models/LHC_Net")
    assert names(folder) == ["LHC_Net.data-00000-of-00001", "LHC_Net.index", "checkpoint"]

    server.requests.clear()
    assert Download_Models.main(arguments) == 0 and server.requests == []
    data = folder / "LHC_Net.data-00000-of-00001"
    for path, broken in [
        (data, bytes(99)),
        (data, b""),
        (data, content[:50] + bytes(50)),  # of the right length
        (folder / "LHC_Net.index", index[:-1]),
        (folder / "checkpoint", b"x"),
    ]:
        path.write_bytes(broken)
        assert Download_Models.main(arguments) == 0
        assert path.read_bytes() == server.files[f"/LHC_Net/{path.name}"]
    assert len(server.requests) == 5

    shutil.rmtree(folder)
    server.files["/LHC_Net/LHC_Net.index"] = b"no index"
    assert Download_Models.main(arguments) == 2
    assert "LHC_Net.index" in capsys.readouterr().err
    assert not (folder / "LHC_Net.index").exists()


def test_imagenet_weights(server, tmp_path, capsys):
    data = {
        "backbone_weights": "imagenet",
        "imagenet_url": server.address + "/file",
        "imagenet_md5": MD5,
    }
    settings = SimpleNamespace(data=data, all_models=tmp_path / "models_folder")
    path = ensure_imagenet(settings)
    assert path == tmp_path / "models_folder" / "file" and path.read_bytes() == BODY
    assert ensure_imagenet(settings) == path and len(server.requests) == 1
    path.write_bytes(BODY[:-1])  # damaged later on
    assert ensure_imagenet(settings) == path and file_digest(path, "md5") == MD5
    assert "fetching it again" in capsys.readouterr().out

    path.unlink()
    server.files = {}
    with pytest.raises(UserError, match=f'404.*save it as {path}.*"backbone_weights"'):
        ensure_imagenet(settings)
    data["backbone_weights"] = str(tmp_path / "mine.h5")
    with pytest.raises(UserError, match='mine.h5: not found; .*"backbone_weights"'):
        ensure_imagenet(settings)
    (tmp_path / "mine.h5").write_bytes(b"x")
    assert ensure_imagenet(settings) == tmp_path / "mine.h5"


def test_all_seeds_share_the_imagenet_weights(server, settings_folder, tmp_path):
    """Also two that start at once: the second one waits."""
    data = {
        "backbone_weights": "imagenet",
        "imagenet_url": server.address + "/file",
        "imagenet_md5": MD5,
    }
    loaded = settings_module.load(settings_folder(tmp_path)).changed(data=data)
    seeds = [loaded.with_seed(seed).changed(training={"target_size": 48}) for seed in (1, 2, 3)]
    with ThreadPoolExecutor(3) as pool:
        found = set(pool.map(ensure_imagenet, [*seeds, loaded.with_seed(1).with_seed(2)]))
    assert found == {tmp_path / "models" / "file"} and len(server.requests) == 1

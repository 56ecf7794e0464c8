"""Tests of bert_tf.checkpoint_download and of the command, with the original's small model."""

import dataclasses
import hashlib
import io
import json
import pathlib
import random
import re
import shutil
import stat
import zipfile

import pytest
from file_server import FileServer, full_disk

from bert_tf import checkpoint_download, file_download, released_checkpoints
from bert_tf.checkpoint import Checkpoint
from bert_tf.cli.main import main
from bert_tf.errors import InputError
from bert_tf.released_checkpoints import Release

NAME = "uncased_L-3_H-64_A-4"
DATA = "bert_model.ckpt.data-00000-of-00001"
PARAMETERS = (2048 + 128 + 2) * 64 + 128 + 3 * (4 * (64 * 64 + 64) + 2 * 64 * 256 + 256 + 64 + 256)
PARAMETERS += 64 * 64 + 64


@pytest.fixture(scope="module")
def files(testdata):
    """The files of a released folder: name -> content."""
    source = testdata / "original_tiny"
    names = {name: name for name in ("bert_config.json", "vocab.txt")}
    names |= {"bert_model.ckpt.index": "model.ckpt-300.index"}
    names |= {DATA: "model.ckpt-300.data-00000-of-00001"}
    return {name: (source / there).read_bytes() for name, there in names.items()}


@pytest.fixture
def server(no_proxies):
    with FileServer(b"") as server:
        yield server


@pytest.fixture
def release(server, monkeypatch):
    """The release that the list has in these tests."""
    release = Release(
        name=NAME,
        url=server.url,
        archive_bytes=None,
        archive_sha256="",
        weights_sha256="",
        vocab_size=2048,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        parameters=PARAMETERS,
    )
    monkeypatch.setattr(released_checkpoints, "read_releases", lambda: {NAME: release})
    return release


def pack(files, folder=f"{NAME}/", more=(), method=zipfile.ZIP_STORED):
    """An archive of files in a folder, then of others under their own names."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method, compresslevel=1) as archive:
        if folder:
            archive.mkdir(folder)
        for name, text in files.items():
            archive.writestr(folder + name, text)
        for entry, text in more:
            archive.writestr(entry, text)
    return content.getvalue()


@pytest.fixture(scope="module")
def archive(files):
    return pack(files, method=zipfile.ZIP_DEFLATED)


def left_in(parent):
    return sorted(path.name for path in parent.iterdir())


def succeeds(parent, release, files):
    """Checks that it is there after another try, as it was released, with nothing beside it."""
    folder = checkpoint_download.obtain(release, parent)
    assert folder == parent / NAME
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert [name for name in left_in(parent) if not name.endswith(".zip")] == [NAME]


@pytest.mark.parametrize("folder", [f"{NAME}/", "", "another/one/"])
@pytest.mark.parametrize("meta", [{}, {"bert_model.ckpt.meta": b"the graph"}])
def test_a_download(tmp_path, release, server, files, folder, meta):
    server.content = pack(files | meta, folder, [("__MACOSX/x", "not wanted")])
    succeeds(tmp_path / "new" / "cache", release, files | meta)


def test_the_command_and_what_uses_it(
    tmp_path, release, server, archive, files, monkeypatch, capsys
):
    cache = tmp_path / "cache"
    monkeypatch.setenv("BERT_TF_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("a text\n")
    use = ["extract_features", f"--checkpoint={NAME}", "--input_file=texts.txt"]
    use += ["--output_file=features.jsonl", "--layers=-1"]
    assert main(use) == 2
    assert f"give the command bert-tf download {NAME} first" in capsys.readouterr().err

    server.content = archive
    assert main(["download"]) == 0
    table = capsys.readouterr().out
    # Four bytes of each parameter.
    assert re.search(rf"{NAME} +{PARAMETERS:,} +1\.2 MB +2,048 uncased {server.url}", table)
    assert re.match("name +parameters +weights +vocabulary +where\n", table)
    assert main(["download", NAME]) == 0
    out = capsys.readouterr().out
    assert out == f"{cache / NAME}: is there now, checked; use it with --checkpoint={NAME}\n"
    assert len(server.requests) == 1
    assert main(["download", "--list"]) == 0
    assert f"uncased {cache / NAME}\n" in capsys.readouterr().out
    assert main(["download", NAME]) == 0
    assert "was there already, whole" in capsys.readouterr().out
    assert len(server.requests) == 1
    assert main(use) == 0
    assert json.loads((tmp_path / "features.jsonl").read_text())["features"]

    assert main(["download", NAME, "--to", str(tmp_path / "there")]) == 0
    assert f"--checkpoint={tmp_path / 'there' / NAME}\n" in capsys.readouterr().out
    for arguments, message in (
        (["uncased_L-3_H-64_A-5"], f"did you mean '{NAME}'"),
        ([NAME, "more"], "unexpected argument 'more'"),
    ):
        assert main(["download", *arguments]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_says_what_to_do_by_hand(tmp_path, release, server, archive, files, status):
    server.content, server.status = archive, status
    with pytest.raises(InputError) as error:
        checkpoint_download.obtain(release, tmp_path)
    message = str(error.value)
    assert "\n" not in message
    for part in (server.url, str(status), f"put the released file at {tmp_path / NAME}.zip"):
        assert part in message
    assert "what has come" not in message
    assert left_in(tmp_path) == []
    (tmp_path / f"{NAME}.zip").write_bytes(archive)
    succeeds(tmp_path, release, files)
    assert len(server.requests) == 1
    assert (tmp_path / f"{NAME}.zip").read_bytes() == archive  # not ours to remove


class TestAFailureOfTheCommand:
    """It is one line, and nothing has the checkpoint's name; the same command succeeds then."""

    @pytest.fixture
    def fails(self, tmp_path, capsys):
        def fails(*parts, parent=tmp_path):
            assert main(["download", NAME, f"--to={parent}"]) == 2
            printed = capsys.readouterr()
            assert printed.out == ""
            assert printed.err.startswith("bert-tf: ") and printed.err.count("\n") == 1
            for part in parts:
                assert part in printed.err
            assert [name for name in left_in(tmp_path) if not name.startswith(".")] == []

        return fails

    @pytest.fixture
    def command_succeeds(self, release, files, tmp_path):
        def succeeds_in(parent=tmp_path):
            assert main(["download", NAME, f"--to={parent}"]) == 0
            succeeds(parent, release, files)

        return succeeds_in

    @pytest.fixture
    def put_by_hand(self, tmp_path, archive):
        return lambda: (tmp_path / f"{NAME}.zip").write_bytes(archive)

    def test_no_server(self, tmp_path, server, fails, command_succeeds, put_by_hand):
        server.stop()
        fails(server.url, "Connection refused", f"put that file at {tmp_path / NAME}.zip")
        assert left_in(tmp_path) == []
        put_by_hand()
        command_succeeds()

    @pytest.mark.parametrize("at", [0, 100_003])
    def test_a_stall(self, tmp_path, server, archive, fails, command_succeeds, monkeypatch, at):
        monkeypatch.setitem(file_download.download.__kwdefaults__, "timeout", 0.3)
        server.content, server.stall_after = archive, at
        fails(server.url, "nothing came for 0.3 sec", f"put that file at {tmp_path / NAME}.zip")
        server.stall_after = None
        command_succeeds()
        assert server.requests[1:] == (["bytes=100003-"] if at else [None])

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_a_proxy_that_wants_a_password(
        self, tmp_path, release, server, archive, monkeypatch, fails, command_succeeds, put_by_hand,
        scheme,
    ):  # fmt: skip
        monkeypatch.setenv(f"{scheme}_proxy", f"http://user:secret@{server.url.split('/')[2]}")
        url = f"{scheme}://example.invalid/file.zip"
        elsewhere = dataclasses.replace(release, url=url)
        monkeypatch.setattr(released_checkpoints, "read_releases", lambda: {NAME: elsewhere})
        server.content, server.status = archive, 407
        reason = "407 Proxy Authentication Required"
        place = f"file at {tmp_path / NAME}.zip"
        fails(f"{url}: cannot download it through the proxy 127.0.0.1: ", reason, place)
        assert left_in(tmp_path) == []
        if scheme == "https":
            put_by_hand()
        server.status = None
        command_succeeds()

    @pytest.mark.parametrize("room", [0, 1000])
    def test_a_full_disk(self, tmp_path, server, archive, fails, command_succeeds, room):
        server.content = archive
        with full_disk(room):
            fails(f".{NAME}.download", "cannot write it: File too large", "give the same command")
        command_succeeds()

    @pytest.mark.parametrize("name", ["file", "file/deep"])
    def test_a_file_where_a_folder_must_be(
        self, tmp_path_factory, server, archive, fails, command_succeeds, name
    ):
        server.content = archive
        file = tmp_path_factory.mktemp("other") / "file"
        file.write_text("mine")
        parent = file.parent / name
        fails(f"--to {parent}", "cannot write there: Not a directory", parent=parent)
        assert file.read_text() == "mine" and server.requests == []
        file.unlink()
        command_succeeds(parent)


@pytest.mark.parametrize("status", [408, 429, 503])
def test_a_server_that_cannot_now(tmp_path, release, server, status):
    server.status = status
    with pytest.raises(InputError, match=rf"{status} .* the same command goes on with what has co"):
        checkpoint_download.obtain(release, tmp_path)


def test_a_cut_is_gone_on_from(tmp_path, release, server, archive, files):
    server.content, server.cut_after = archive, 1_000_003
    with pytest.raises(InputError, match=r"ended after 1,000,003 of .* goes on with what has come"):
        checkpoint_download.obtain(release, tmp_path)
    assert left_in(tmp_path) == [f".{NAME}.download"]
    server.cut_after = None
    succeeds(tmp_path, release, files)
    assert server.requests == [None, "bytes=1000003-"]


def symlink(name):
    entry = zipfile.ZipInfo(name)
    entry.create_system = 3
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


def without(files, *names):
    return {name: text for name, text in files.items() if name not in names}


def changed(files, name, old, new):
    assert old in files[name]
    return files | {name: files[name].replace(old, new, 1)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda files: pack(files, more=[("../x", "")]), r"'\.\./x', which leads out"),
        (lambda files: pack(files, more=[("a/../../x", "")]), "which leads out"),
        (lambda files: pack(files, more=[("..\\x", "")]), "which leads out"),
        (lambda files: pack(files, more=[("/x", "")]), "'/x', which leads out"),
        (lambda files: pack(files, more=[("C:\\x", "")]), "which leads out"),
        (lambda files: pack(files, more=[(symlink("link"), "/etc")]), "'link' is a link"),
        (
            lambda files: pack(without(files, DATA), more=[(symlink(f"{NAME}/{DATA}"), "/x")]),
            "is a link",
        ),
        (lambda files: pack(without(files, "bert_config.json")), "must have one bert_config.json"),
        (lambda files: pack(files, more=[("b/bert_config.json", "")]), "but has 2 among"),
        (lambda files: pack(without(files, "vocab.txt")), f"it has no {NAME}/vocab.txt"),
        (lambda files: pack(without(files, DATA)), f"it has no {NAME}/{DATA}"),
        (
            lambda files: pack(
                files | {"bert_model.ckpt.meta": bytes(40 << 20)}, method=zipfile.ZIP_DEFLATED
            ),
            "its files have .* bytes, but at most",
        ),
        (lambda files: b"<html>Please log in", "no zip file, or a damaged one"),
        (lambda files: pack(files)[:-100_000], "no zip file, or a damaged one"),
        (
            lambda files: pack(changed(files, "bert_config.json", b'act": "gelu"', b'act": 7')),
            "bert_config.json: hidden_act must be",
        ),
        (
            lambda files: pack(changed(files, "bert_config.json", b"64", b"60")),
            "hidden_size is 60, but must be 64",
        ),
        (
            lambda files: pack(changed(files, "bert_config.json", b"256", b"252")),
            r"intermediate/dense/kernel is \(64, 256\), but must be \(64, 252\)",
        ),
        (lambda files: pack(changed(files, "vocab.txt", b"\n", b"")), "has 2047 pieces, but must"),
        (lambda files: pack(files | {DATA: files[DATA][:-9]}), "cut short or damaged"),
        (
            lambda files: pack(files | {DATA: b"\x00" * 4 + files[DATA][4:]}),
            "cut short or damaged",
        ),
        (lambda files: pack(files | {"bert_model.ckpt.index": b"x"}), "not a TensorFlow check"),
    ],
)
@pytest.mark.parametrize("by_hand", [False, True])
def test_an_archive_that_is_not_right(
    tmp_path, release, server, archive, files, make, message, by_hand
):
    """Nothing but the archive is left, and that only if it was put there; the next try succeeds."""
    parent = tmp_path / "deep" / "cache"
    parent.mkdir(parents=True)
    by_hand = parent / f"{NAME}.zip" if by_hand else None
    server.content = make(files)
    if by_hand:
        by_hand.write_bytes(server.content)
    with pytest.raises(InputError, match=message) as error:
        checkpoint_download.obtain(release, parent)
    assert str(error.value).startswith(f"{by_hand or server.url}: what came is not {NAME} as")
    assert "unpacked" not in str(error.value)
    assert left_in(parent) == ([by_hand.name] if by_hand else [])
    assert [path.name for path in tmp_path.rglob("x")] == []
    server.content = archive
    if by_hand:
        by_hand.write_bytes(archive)
    succeeds(parent, release, files)
    assert bool(server.requests) == (not by_hand)


def test_sizes_and_checksums_where_they_are_known(tmp_path, release, server, archive, files):
    server.content = archive
    right = dataclasses.replace(
        release,
        archive_bytes=len(archive),
        archive_sha256=hashlib.sha256(archive).hexdigest(),
        weights_sha256=hashlib.sha256(files[DATA]).hexdigest(),
    )
    for wrong, message in (
        ({"archive_sha256": "0" * 64}, "its sha256 is [0-9a-f]{64}, but must be 0000"),
        ({"weights_sha256": "1" * 64}, f"{DATA}: its sha256 is [0-9a-f]{{64}}, but must be 1111"),
        ({"archive_bytes": len(archive) - 1}, "bytes, but must have .*; to try again does not hel"),
        ({"parameters": PARAMETERS + 1}, f"makes {PARAMETERS:,} parameters, but must make"),
    ):
        with pytest.raises(InputError, match=message):
            checkpoint_download.obtain(dataclasses.replace(right, **wrong), tmp_path)
        assert left_in(tmp_path) == []
    (tmp_path / f"{NAME}.zip").write_bytes(archive)
    with pytest.raises(InputError, match=r"bytes, but must have .*put the released one there"):
        checkpoint_download.obtain(
            dataclasses.replace(right, archive_bytes=len(archive) - 1), tmp_path
        )
    (tmp_path / f"{NAME}.zip").unlink()
    succeeds(tmp_path, right, files)


@pytest.mark.parametrize("name", ["bert_config.json", "vocab.txt", "bert_model.ckpt.index", DATA])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_folder_that_is_not_whole_is_refused_and_left(
    tmp_path, release, server, archive, name, damage
):
    server.content = archive
    folder = checkpoint_download.obtain(release, tmp_path)
    (folder / name).write_bytes((folder / name).read_bytes()[:-20])
    if damage == "missing":
        (folder / name).unlink()
    before = left_in(folder)
    with pytest.raises(InputError, match=f"{NAME} is there, but is not .*; remove that folder"):
        checkpoint_download.obtain(release, tmp_path)
    assert left_in(folder) == before
    shutil.rmtree(folder)
    checkpoint_download.obtain(release, tmp_path)


def test_a_full_disk(tmp_path, release, server, archive, files):
    """While unpacking: the archive is kept, so that the next try needs no server."""
    server.content = archive
    largest = len(files[DATA])
    assert len(archive) < largest - 1
    with full_disk(largest - 1), pytest.raises(InputError, match=f"{DATA}: cannot unpack it"):
        checkpoint_download.obtain(release, tmp_path)
    assert left_in(tmp_path) == [f".{NAME}.download"]
    assert left_in(tmp_path / f".{NAME}.download") == [".lock", "archive.zip", "archive.zip.json"]
    server.stop()
    succeeds(tmp_path, release, files)


def test_it_is_interrupted(tmp_path, release, server, archive, files, monkeypatch):
    """What a process that was killed has left is taken away by the next one."""
    server.content = archive

    def interrupt(folder, release):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_download, "check_folder", interrupt)
        with pytest.raises(KeyboardInterrupt):
            checkpoint_download.obtain(release, tmp_path)
    assert left_in(tmp_path) == [f".{NAME}.download"]
    half = tmp_path / f".{NAME}.download" / "unpacked"
    half.mkdir()
    (half / "half").touch()
    succeeds(tmp_path, release, files)
    assert len(server.requests) == 1


def test_another_process_makes_it_before_the_lock(tmp_path, release, server, files, monkeypatch):
    locked = checkpoint_download.locked

    def late(folder, flag):
        (tmp_path / NAME).mkdir()
        for name, content in files.items():
            (tmp_path / NAME / name).write_bytes(content)
        return locked(folder, flag)

    monkeypatch.setattr(checkpoint_download, "locked", late)
    succeeds(tmp_path, release, files)
    assert server.requests == []


@pytest.mark.parametrize("place", ["checkpoints", "."])
def test_what_checkpoint_finds_is_there(
    tmp_path, release, server, archive, files, monkeypatch, capsys, place
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BERT_TF_CACHE", str(tmp_path / "cache"))
    server.content = archive
    folder = checkpoint_download.obtain(release, pathlib.Path(place))
    assert main(["download", NAME]) == 0
    out = capsys.readouterr().out
    assert out == f"{folder}: was there already, whole; use it with --checkpoint={NAME}\n"
    assert main(["download", "--list"]) == 0
    assert f"uncased {folder}\n" in capsys.readouterr().out
    assert main(["download", "--list", "--to=cache"]) == 0
    assert f"uncased {server.url}\n" in capsys.readouterr().out
    assert len(server.requests) == 1
    assert main(["download", NAME, "--to=cache"]) == 0
    assert "is there now, checked; use it with --checkpoint=cache/" in capsys.readouterr().out
    assert len(server.requests) == 2


def test_two_at_once(tmp_path, release, server, archive, files):
    server.content = archive
    with (
        checkpoint_download.locked(tmp_path / f".{NAME}.download", "--to"),
        pytest.raises(InputError, match="in use by another process"),
    ):
        checkpoint_download.obtain(release, tmp_path)
    succeeds(tmp_path, release, files)


def test_no_damage_to_an_archive_is_a_defect(tmp_path, release, files):
    """Changed bytes, anywhere in it: refused as a user's mistake, or without effect."""
    archive = pack({name: b"some text, some text" for name in files}, method=zipfile.ZIP_DEFLATED)
    choose = random.Random(3)
    path, refused = tmp_path / "damaged.zip", 0
    for _ in range(200):
        damaged = bytearray(archive)
        for _ in range(choose.randint(1, 3)):
            damaged[choose.randrange(len(damaged))] ^= 1 << choose.randrange(8)
        path.write_bytes(damaged)
        try:
            checkpoint_download._unpack(path, tmp_path / "unpacked", release)
        except checkpoint_download._CannotWriteError:
            raise AssertionError(f"the disk is held to be full: {damaged!r}") from None
        except InputError:
            refused += 1
    assert 100 < refused < 200


def test_all_tensors_are_those_of_the_archive(tmp_path, release, server, archive, testdata):
    server.content = archive
    folder = checkpoint_download.obtain(release, tmp_path)
    there = Checkpoint(testdata / "original_tiny" / "model.ckpt-300")
    assert Checkpoint(folder).shapes == there.shapes

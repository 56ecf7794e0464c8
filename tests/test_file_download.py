"""Tests of bert_tf.file_download, against a server on this machine that can be made to fail."""

import collections
import functools
import json

import pytest
from file_server import FileServer, full_disk

from bert_tf import file_download
from bert_tf.errors import InputError

CONTENT = bytes(range(256)) * 1201 + b"the end"  # 307,463 bytes


@pytest.fixture
def server():
    with FileServer(CONTENT) as server:
        yield server


@pytest.fixture
def download(tmp_path, server, no_proxies):
    return functools.partial(
        file_download.download, server.url, tmp_path / "file", most_bytes=1 << 20, timeout=0.3
    )


def cut(download, server, at=100_003):
    """A download that is cut off after some bytes."""
    server.cut_after = at
    with pytest.raises(file_download.DownloadError, match=r"ended after 100,003 of 307,463 bytes"):
        download()
    server.cut_after = None


def test_a_download_and_nothing_more_when_it_is_there(tmp_path, server, download, capsys):
    download(expected_bytes=len(CONTENT))
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.requests == [None]
    server.stop()
    download()
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "version", [{"ETag": '"a1"'}, {"Last-Modified": "Thu, 01 Nov 2018 01:02:03 GMT"}]
)
def test_it_goes_on_where_it_was_cut(tmp_path, server, download, version):
    server.headers = version
    cut(download, server)
    assert (tmp_path / "file").stat().st_size == 100_003
    download()
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.requests == [None, "bytes=100003-"]
    assert server.sent[-1] == len(CONTENT) - 100_003


@pytest.mark.parametrize(
    "version", [{}, {"ETag": 'W/"a1"'}], ids=["no version", "a version that is not exact"]
)
def test_without_a_version_it_begins_anew(tmp_path, server, download, version):
    server.headers = version
    cut(download, server)
    download()
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.requests == [None, None]


def test_a_server_without_ranges(tmp_path, server, download):
    cut(download, server)
    server.ranges = False
    download()
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.sent[-1] == len(CONTENT)


@pytest.mark.parametrize("honest", [True, False], ids=["If-Range", "no If-Range"])
@pytest.mark.parametrize("content", [CONTENT[::-1], CONTENT[::-1] + b"more", b"less"])
def test_a_file_that_has_changed_begins_anew(tmp_path, server, download, content, honest):
    """Also where a server sends the rest of the new file, or has no byte there any more."""
    cut(download, server)
    server.content, server.headers, server.if_range = content, {"ETag": '"b2"'}, honest
    download()
    assert (tmp_path / "file").read_bytes() == content


def test_a_part_that_is_not_the_one_asked_for(tmp_path, server, download):
    cut(download, server)
    server.shift = 5
    download()
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.requests == [None, "bytes=100003-", None]


def test_notes_of_another_file(tmp_path, server, download):
    cut(download, server)
    notes = tmp_path / "file.json"
    for text in (notes.read_text().replace(server.url, "http://other/"), "[]", '{"ur'):
        notes.write_text(text)
        download()
        assert (tmp_path / "file").read_bytes() == CONTENT
        assert server.requests.pop() is None


@pytest.mark.parametrize("at", [0, 100_003])
def test_a_server_that_stalls(tmp_path, server, download, at):
    server.stall_after = at
    with pytest.raises(file_download.DownloadError, match=r"nothing came for 0\.3 seconds"):
        download()
    server.stall_after = None
    download()
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.requests[-1] == ("bytes=100003-" if at else None)


@pytest.mark.parametrize("status", [204, 403, 404, 407, 500])
def test_a_refusal(tmp_path, server, download, status):
    server.status = status
    with pytest.raises(
        file_download.DownloadError, match=rf"{server.url}: .*answer is {status} "
    ) as error:
        download()
    assert isinstance(error.value, file_download.WrongFileError) == (status in (403, 404, 407))
    assert list(tmp_path.iterdir()) == []
    server.status = None
    download()


def test_no_server(tmp_path, server, download):
    server.stop()
    with pytest.raises(file_download.DownloadError, match="Connection refused") as error:
        download()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_refuses(server, download, monkeypatch, scheme):
    """Its host is named, its password is not."""
    address = server.url.split("/")[2]
    monkeypatch.setenv(f"{scheme}_proxy", f"http://user:secret@{address}")
    server.status = 403
    with pytest.raises(file_download.DownloadError) as error:
        file_download.download(
            f"{scheme}://example.invalid/file", download.args[1], most_bytes=99, timeout=0.3
        )
    assert "through the proxy 127.0.0.1: " in str(error.value)
    assert "403 Forbidden" in str(error.value)
    assert "secret" not in str(error.value)


def test_through_a_proxy(tmp_path, server, download, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url.split("/")[2])
    file_download.download(
        "http://example.invalid/file", tmp_path / "file", most_bytes=1 << 20, timeout=0.3
    )
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_file_of_another_size(tmp_path, server, download):
    with pytest.raises(file_download.DownloadError, match="has 307,463 bytes, but must have 307,4"):
        download(expected_bytes=307_462)
    with pytest.raises(file_download.DownloadError, match="more than 307,462 bytes"):
        download(most_bytes=307_462)
    assert list(tmp_path.iterdir()) == []


def test_a_file_whose_size_is_not_said(tmp_path, server, download):
    server.chunked = True
    with pytest.raises(file_download.DownloadError, match="more than 100,000 bytes"):
        download(most_bytes=100_000)
    server.cut_after = 200_000
    with pytest.raises(file_download.DownloadError, match="cannot download it"):
        download()
    server.cut_after = None
    with pytest.raises(file_download.DownloadError, match="has 307,463 bytes, but must have 12"):
        download(expected_bytes=12)
    download()
    assert (tmp_path / "file").read_bytes() == CONTENT
    server.stop()
    download()  # it is complete


def test_a_full_disk(tmp_path, server, download, monkeypatch):
    usage = collections.namedtuple("Usage", "free")
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: usage(307_462))
        with pytest.raises(InputError, match=r"307,463 bytes are to come, but .* room for 307,462"):
            download()
    assert list(tmp_path.iterdir()) == []
    with full_disk(100_003), pytest.raises(InputError, match="file: cannot write it: ") as error:
        download()
    assert not isinstance(error.value, file_download.DownloadError)
    download()
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.requests[-1] == "bytes=100003-"


def test_a_folder_that_cannot_be_written(tmp_path, server, no_proxies):
    with pytest.raises(InputError, match=r"cannot write it: No such file"):
        file_download.download(server.url, tmp_path / "no" / "file", most_bytes=1 << 20)


def test_forget(tmp_path, server, download):
    download()
    assert json.loads((tmp_path / "file.json").read_text())["bytes"] == len(CONTENT)
    file_download.forget(tmp_path / "file")
    file_download.forget(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []

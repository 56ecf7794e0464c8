"""Takes a URL, returns its content in a file, also in several goes; next: released_checkpoints."""

import http.client
import json
import pathlib
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

import tqdm

from bert_tf.errors import InputError

_BLOCK_BYTES = 1 << 20
# Refusals of a server that may do it later (RFC 9110, section 15.5.9; RFC 6585, section 4).
_LATER = (http.client.REQUEST_TIMEOUT, http.client.TOO_MANY_REQUESTS)


class DownloadError(InputError):
    """A file that cannot be had from its server; what did come is kept, to go on from."""


class WrongFileError(DownloadError):
    """A server, or a proxy, that does not have the file, or does not give it: for good."""


def download(
    url: str,
    path: pathlib.Path,
    *,
    most_bytes: int,
    expected_bytes: int | None = None,
    timeout: float = 60.0,
) -> None:
    """Downloads a file, or what is missing of it.

    Where it comes from and which version it is of is noted in ``<path>.json``. An earlier download
    that was cut off is gone on with if the server still has that version (by its ``ETag``, or else
    its ``Last-Modified``) and can send a part of it; otherwise it begins anew. One that is complete
    needs no server.

    Args:
        url: ``http:`` or ``https:``; proxies are those of the environment.
        path: where to; its folder is there.
        most_bytes: a longer file is refused.
        expected_bytes: a file of another size is refused.
        timeout: seconds without a single byte that the download waits for.

    Raises:
        DownloadError: if the server, or a proxy, stalls, ends too early or cannot now.
        WrongFileError: if it refuses for good, or has another file.
        InputError: if the file cannot be written.
    """
    source = _Source(url, most_bytes, expected_bytes, timeout)
    notes_path = path.with_name(f"{path.name}.json")
    try:
        notes = _read_notes(notes_path, url)
        there = path.stat().st_size if notes and path.exists() else 0
        if there and there == notes.get("bytes"):
            return
        offset = there if notes.get("version") else 0
        if not (offset and _fetch(source, path, notes_path, notes, offset)):
            _fetch(source, path, notes_path, {}, 0)
    except OSError as error:
        raise InputError(
            f"{error.filename or path}: cannot write it: {error.strerror}; mend that, then "
            "give the same command again, which goes on from there"
        ) from error


def forget(path: pathlib.Path) -> None:
    """Removes what ``download`` has written, so that it begins anew."""
    for file in (path, path.with_name(f"{path.name}.json")):
        file.unlink(missing_ok=True)


class _Source:
    """A file on a server, and what its content must be like."""

    def __init__(
        self, url: str, most_bytes: int, expected_bytes: int | None, timeout: float
    ) -> None:
        self.url = url
        self._most_bytes = most_bytes
        self._expected_bytes = expected_bytes
        self._timeout = timeout

    def open(self, headers: dict[str, str]) -> Any:
        """The server's answer."""
        request = urllib.request.Request(self.url, headers=headers)
        try:
            # Not urlopen, which goes by the proxies of its first use in the process.
            return urllib.request.build_opener().open(request, timeout=self._timeout)
        except urllib.error.HTTPError as error:
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and headers:
                return error
            error.close()
            is_final = 400 <= error.code < 500 and error.code not in _LATER
            kind = WrongFileError if is_final else DownloadError
            raise self.error(f"the answer is {error.code} {error.reason}", kind) from error
        except (OSError, http.client.HTTPException) as error:
            raise self.error(self._why(error)) from error

    def read(self, response: Any) -> bytes:
        """Some bytes, as they come; none at the end."""
        try:
            return bytes(response.read1(_BLOCK_BYTES))
        except (OSError, http.client.HTTPException) as error:
            raise self.error(self._why(error)) from error

    def check_size(self, size: int, *, complete: bool) -> None:
        """Refuses a file that is, or will be, of another size."""
        if complete and self._expected_bytes not in (None, size):
            raise self.error(
                f"it has {size:,} bytes, but must have {self._expected_bytes:,}", WrongFileError
            )
        if size > self._most_bytes:
            raise self.error(f"it has more than {self._most_bytes:,} bytes", WrongFileError)

    def _why(self, error: Exception) -> str:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            return f"nothing came for {self._timeout:g} seconds"
        return getattr(reason, "strerror", None) or str(reason) or type(reason).__name__

    def error(self, reason: str, kind: type[DownloadError] = DownloadError) -> DownloadError:
        """What to say when it cannot be downloaded."""
        parts = urllib.parse.urlsplit(self.url)
        proxy = urllib.request.getproxies().get(parts.scheme)
        through = ""
        if proxy and not urllib.request.proxy_bypass(parts.netloc):
            # Its host alone: there may be a password in it.
            host = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}").hostname
            through = f" through the proxy {host}"
        return kind(f"{self.url}: cannot download it{through}: {' '.join(reason.split())}")


def _read_notes(path: pathlib.Path, url: str) -> dict[str, Any]:
    """What is known of a download that was begun; nothing if it is of another URL."""
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # a process that ended while it wrote them
        return {}
    return notes if isinstance(notes, dict) and notes.get("url") == url else {}


def _fetch(
    source: _Source,
    path: pathlib.Path,
    notes_path: pathlib.Path,
    notes: dict[str, Any],
    offset: int,
) -> bool:
    """Downloads from a byte on; returns whether the server had what goes on from there."""
    headers = {"Range": f"bytes={offset}-", "If-Range": notes["version"]} if offset else {}
    with source.open(headers) as response:
        if response.status == http.client.OK:
            offset = 0  # it cannot send a part, or has another version
        elif not offset:
            raise source.error(f"the answer is {response.status} {response.reason}, not 200 OK")
        elif not _continues(response, notes, offset):
            return False
        length = response.headers.get("Content-Length")
        size = offset + int(length) if length and length.isdecimal() else None
        if size is not None:
            source.check_size(size, complete=True)
            free = shutil.disk_usage(path.parent).free
            if size - offset > free:
                raise InputError(
                    f"{path.parent}: {size - offset:,} bytes are to come, but there is room for "
                    f"{free:,}; make room, then give the same command again"
                )
        if not offset:
            # In this order: bytes must never lie beside the notes of another version.
            forget(path)
            notes = {"url": source.url, "version": _version(response), "bytes": size}
            notes_path.write_text(json.dumps(notes), encoding="utf-8")
        done = offset
        with (
            path.open("ab" if offset else "wb") as file,
            tqdm.tqdm(
                desc="downloading",
                initial=offset,
                total=size,
                unit="B",
                unit_scale=True,
                disable=None,
            ) as progress,
        ):
            while block := source.read(response):
                done += len(block)
                source.check_size(done, complete=False)
                file.write(block)
                progress.update(len(block))
    if size is None:
        source.check_size(done, complete=True)
        notes_path.write_text(json.dumps({**notes, "bytes": done}), encoding="utf-8")
    elif done < size:
        raise source.error(f"the connection ended after {done:,} of {size:,} bytes")
    return True


def _continues(response: Any, notes: dict[str, Any], offset: int) -> bool:
    """Whether an answer is the rest of the file that was begun, from ``offset`` to its end."""
    # RFC 9110, section 14.4.
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", ""))
    if response.status != http.client.PARTIAL_CONTENT or match is None:
        return False
    first, last, size = map(int, match.groups())
    return (
        first == offset
        and last + 1 == size
        and notes.get("bytes") in (None, size)
        and _version(response) in ("", notes["version"])
    )


def _version(response: Any) -> str:
    """What ``If-Range`` may name: a strong ETag, or else the date (RFC 9110, section 13.1.5)."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")

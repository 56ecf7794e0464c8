"""Takes a file, returns its checksum; next: file_download."""

import hashlib
import pathlib


def sha256_of(path: pathlib.Path) -> str:
    """The hexadecimal SHA-256 of a file, which is read piece by piece and may be of any size.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Takes a released checkpoint's name, returns its folder, checked; next: default_checkpoint."""

import logging
import lzma
import math
import os
import pathlib
import shutil
import stat
import struct
import zipfile
import zlib
from typing import IO

from bert_tf import file_download
from bert_tf.checkpoint import DATA_SUFFIX, Checkpoint
from bert_tf.checksum import sha256_of
from bert_tf.config import BertConfig
from bert_tf.errors import InputError, listed
from bert_tf.interop.weights import expand
from bert_tf.released_checkpoints import Release
from bert_tf.run_folder import BERT_CONFIG, CHECKPOINT, VOCAB, locked
from bert_tf.tokenization import Vocabulary

_REQUIRED = (BERT_CONFIG, VOCAB, f"{CHECKPOINT}.index", f"{CHECKPOINT}{DATA_SUFFIX}")
_FILES = (*_REQUIRED, f"{CHECKPOINT}.meta")
# No archive is larger, packed or unpacked: float32 weights with Adam's two slots, the heads, and
# the vocabulary, the index and the graph.
_BYTES_PER_PARAMETER = 16
_OTHER_BYTES = 16 << 20

# What zipfile lets through of a damaged file; a byte may have become that of another compression.
_ZIP_ERRORS = (
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    lzma.LZMAError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)

_log = logging.getLogger(__name__)


def obtain(release: Release, parent: pathlib.Path) -> pathlib.Path:
    """Gets a released checkpoint: the folder that is there, or else its archive.

    Args:
        release: which.
        parent: the folder that holds, or is to hold, the checkpoint's; an archive that lies there
            as ``<name>.zip`` is taken instead of a download, and left there.

    Returns:
        The checkpoint's folder, ``parent / name``, whole and checked.

    Raises:
        InputError: if the archive cannot be had, is not the released one, or cannot be unpacked.
            There is no folder of that name then; what was downloaded is kept beside it, hidden,
            unless it was wrong.
    """
    target = parent / release.name
    if _is_there(target, release):
        return target
    work = parent / f".{release.name}.download"
    downloaded, unpacked = work / "archive.zip", work / "unpacked"
    with locked(work, "--to"):
        try:
            if _is_there(target, release):  # another process has made it meanwhile
                return target
            archive = parent / f"{release.name}.zip"
            by_hand = archive.is_file()
            if not by_hand:
                archive = downloaded
                _download(release, downloaded, by_hand=parent / f"{release.name}.zip")
            source = str(archive) if by_hand else release.url
            _log.info("unpacking and checking %s", release.name)
            try:
                _unpack(archive, unpacked, release)
                check_folder(unpacked, release)
            except _CannotWriteError:
                raise
            except InputError as error:
                reason = str(error).replace(f"{unpacked}{os.sep}", "")
                remedy = "put the released one there"
                if not by_hand:
                    file_download.forget(downloaded)
                    remedy = "it is removed; the same command downloads it anew"
                raise InputError(
                    f"{source}: what came is not {release.name} as it was released: {reason}; "
                    f"{remedy}"
                ) from error
            try:
                unpacked.rename(target)
            except OSError as error:
                raise InputError(f"{target}: cannot make it: {error.strerror}") from error
            file_download.forget(downloaded)
        finally:
            shutil.rmtree(unpacked, ignore_errors=True)
            if not downloaded.exists():
                shutil.rmtree(work, ignore_errors=True)
    return target


def _is_there(target: pathlib.Path, release: Release) -> bool:
    """Whether there is a folder; it must be the released one."""
    if not target.exists():
        return False
    try:
        check_folder(target, release)
    except InputError as error:
        raise InputError(
            f"{error}\n{target} is there, but is not {release.name} as it was released; remove "
            "that folder and run this again"
        ) from error
    return True


def check_folder(folder: pathlib.Path, release: Release) -> None:
    """Checks that a folder holds a released checkpoint, whole.

    The configuration, the vocabulary and the shape of each tensor of the encoder must be those of
    the release, and each tensor of the file, heads included, must have the checksum that the index
    has for it.

    Args:
        folder: which.
        release: what it must be.

    Raises:
        InputError: naming the file, what is expected and what is there.
    """
    config_path = folder / BERT_CONFIG
    config = BertConfig.from_json_file(config_path)
    for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"):
        expected, found = getattr(release, key), getattr(config, key)
        if found != expected:
            raise InputError(f"{config_path}: {key} is {found}, but must be {expected}")
    pieces = len(Vocabulary(folder / VOCAB))
    if pieces != config.vocab_size:
        raise InputError(
            f"{folder / VOCAB}: has {pieces} pieces, but must have {config.vocab_size}"
        )
    checkpoint = Checkpoint(folder / CHECKPOINT)
    sizes = config.to_dict()
    wrong, parameters = [], 0
    for weight in expand(("embeddings", "layer", "pooler"), config.num_hidden_layers):
        shape = tuple(sizes[str(axis)] for axis in weight.shape)
        found = checkpoint.shapes.get(checkpoint.name_in_file(weight.name))
        if found != shape:
            wrong.append(f"{weight.name} is {found}, but must be {shape}")
        parameters += math.prod(shape)
    if wrong:
        raise InputError(f"{checkpoint.path}: {listed(wrong, most=3)}")
    if parameters != release.parameters:
        raise InputError(
            f"{config_path}: makes {parameters:,} parameters, but must make {release.parameters:,}"
        )
    _check_sum(folder / f"{CHECKPOINT}{DATA_SUFFIX}", release.weights_sha256)
    names = list(checkpoint.shapes)
    for start in range(0, len(names), 16):  # a few at a time: the largest model has 1.3 GB
        checkpoint.read(names[start : start + 16])


class _CannotWriteError(InputError):
    """An archive that may well be right, but there is no room for what is in it."""


def _download(release: Release, path: pathlib.Path, by_hand: pathlib.Path) -> None:
    try:
        file_download.download(
            release.url,
            path,
            most_bytes=_most_bytes(release),
            expected_bytes=release.archive_bytes,
        )
    except file_download.WrongFileError as error:
        raise InputError(
            f"{error}; to try again does not help: put the released file at {by_hand}, and give "
            "the same command then"
        ) from error
    except file_download.DownloadError as error:
        raise InputError(
            f"{error}; the same command goes on with what has come. Without a network, put that "
            f"file at {by_hand} and give the same command again"
        ) from error


def _most_bytes(release: Release) -> int:
    return _BYTES_PER_PARAMETER * release.parameters + _OTHER_BYTES


def _unpack(archive: pathlib.Path, folder: pathlib.Path, release: Release) -> None:
    """Takes the checkpoint's files out of an archive, under names that are this module's own."""
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    try:
        size = archive.stat().st_size
        if release.archive_bytes not in (None, size):
            raise InputError(f"it has {size:,} bytes, but must have {release.archive_bytes:,}")
        _check_sum(archive, release.archive_sha256)
        with zipfile.ZipFile(archive) as opened:
            for name, member in _members(opened, release).items():
                with opened.open(member) as source:
                    _write(source, folder / name)
    except InputError:
        raise
    except _ZIP_ERRORS as error:
        raise InputError(f"no zip file, or a damaged one: {error}") from error


def _members(archive: zipfile.ZipFile, release: Release) -> dict[str, zipfile.ZipInfo]:
    """The checkpoint's files: its name of each -> the archive's, in a folder there or in none."""
    entries = archive.infolist()
    for entry in entries:
        parts = pathlib.PurePosixPath(entry.filename.replace("\\", "/")).parts
        mode = entry.external_attr >> 16  # as Unix has it; 0 where another system wrote it
        if not parts or ".." in parts or parts[0] == "/" or ":" in parts[0]:
            raise InputError(f"it has an entry {entry.filename!r}, which leads out of its folder")
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise InputError(f"its entry {entry.filename!r} is a link or no file at all")
    roots = [
        entry.filename.removesuffix(BERT_CONFIG)
        for entry in entries
        if pathlib.PurePosixPath(entry.filename).name == BERT_CONFIG
    ]
    if len(roots) != 1:
        raise InputError(
            f"it must have one {BERT_CONFIG}, but has {len(roots)} among its {len(entries)} "
            f"entries, {listed([entry.filename for entry in entries])}"
        )
    by_name = {entry.filename: entry for entry in entries if not entry.is_dir()}
    members = {name: by_name[roots[0] + name] for name in _FILES if roots[0] + name in by_name}
    missing = [name for name in _REQUIRED if name not in members]
    if missing:
        raise InputError(f"it has no {roots[0]}{missing[0]}")
    size = sum(entry.file_size for entry in members.values())  # zipfile reads no more than that
    if size > _most_bytes(release):
        raise InputError(
            f"its files have {size:,} bytes, but at most {_most_bytes(release):,} can be right"
        )
    return members


def _write(source: IO[bytes], path: pathlib.Path) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _CannotWriteError(
            f"{path}: cannot unpack it: {error.strerror}; mend that, then give the same command "
            "again, which goes on with the archive that is there"
        ) from error


def _check_sum(path: pathlib.Path, expected: str) -> None:
    if not expected:
        return
    found = sha256_of(path)
    if found != expected:
        raise InputError(f"{path}: its sha256 is {found}, but must be {expected}")

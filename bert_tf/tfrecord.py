"""Takes rows of numbers, returns TFRecord bytes; reads and checks them; next: pretraining_records.

A record is a serialized ``tf.train.Example``, written and read here without TensorFlow, which takes
seconds to import. The bytes are those of protobuf's deterministic serialization: features sorted by
name, lists packed, and each varint (an integer in groups of 7 bits, the lowest first, one to a
byte, with the top bit set in all bytes but the last) as short as can be. So equal values make equal
files.

Axes: n = number of records, S = max_seq_length, P = max_predictions_per_seq.
"""

import dataclasses
import gzip
import io
import itertools
import os
import pathlib
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import IO, TypeVar, cast

import google_crc32c
import numpy as np

from bert_tf.errors import InputError, listed
from bert_tf.text_files import GZIP_MAGIC

_SOURCE = "Give a file that create_pretraining_data wrote"

# In front of a record: its length and the checksum of these 8 bytes. After it: its own checksum.
_HEADER = struct.Struct("<QI")
_CHECKSUM_BYTES = 4

# What stands before a field of a protobuf message: field number * 8 + wire type. The numbers are
# those of tensorflow/core/example/example.proto and feature.proto.
_VARINT, _EIGHT_BYTES, _LENGTH_AND_BYTES, _FOUR_BYTES = 0, 1, 2, 5  # wire types
_FEATURES = _ENTRY = 1 << 3 | _LENGTH_AND_BYTES  # Example.features, Features.feature (a map)
_KEY, _VALUE = 1 << 3 | _LENGTH_AND_BYTES, 2 << 3 | _LENGTH_AND_BYTES  # of the map's entries
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = (field << 3 | _LENGTH_AND_BYTES for field in (1, 2, 3))
_PACKED = 1 << 3 | _LENGTH_AND_BYTES  # a list's values, all in one field
_ONE_INT64, _ONE_FLOAT = 1 << 3 | _VARINT, 1 << 3 | _FOUR_BYTES  # or a field for each

_LIST_OF_DTYPE = {"int64": _INT64_LIST, "float32": _FLOAT_LIST}

_MASKS = ("masked_lm_positions", "masked_lm_ids", "masked_lm_weights")
_SIZE_FLAGS = {
    **dict.fromkeys(("input_ids", "input_mask", "segment_ids"), "--max_seq_length"),
    **dict.fromkeys(_MASKS, "--max_predictions_per_seq"),
}


@dataclasses.dataclass(frozen=True)
class Feature:
    """One list of numbers of a record.

    Attributes:
        name: its key in the record.
        size: how many values every record has, at least 1.
        dtype: ``int64`` or ``float32``.
    """

    name: str
    size: int
    dtype: str

    def __post_init__(self) -> None:
        if self.size < 1 or self.dtype not in _LIST_OF_DTYPE:
            raise ValueError(f"{self}: size must be at least 1, dtype int64 or float32")


@dataclasses.dataclass(frozen=True)
class RecordSchema:
    """What every record of a file holds: one ``tf.train.Example``.

    Attributes:
        features: in any order; records have them sorted by name.
    """

    features: tuple[Feature, ...]


def pretraining_schema(max_seq_length: int, max_predictions_per_seq: int | None) -> RecordSchema:
    """The records of create_pretraining_data.py in the original.

    Args:
        max_seq_length: S.
        max_predictions_per_seq: P, or None for records whose masks are chosen in training.
    """
    tokens = ("input_ids", "input_mask", "segment_ids")
    features = [Feature(name, max_seq_length, "int64") for name in tokens]
    if max_predictions_per_seq is not None:
        for name in _MASKS:
            dtype = "float32" if name == "masked_lm_weights" else "int64"
            features.append(Feature(name, max_predictions_per_seq, dtype))
    return RecordSchema((*features, Feature("next_sentence_labels", 1, "int64")))


# --- writing ------------------------------------------------------------------------------------


def encode_records(
    schema: RecordSchema, values: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Serializes records.

    The records are laid out in a matrix that has room for the longest varints, and what is not
    needed of it is dropped at the end. A few thousand records at a time stay in the cache.

    Args:
        schema: what the records hold.
        values: for each feature, non-negative integers or float32 [n, size].

    Returns:
        The serialized examples end to end, uint8 [bytes], and row_splits, int64 [n + 1]; record i
        is ``data[row_splits[i]:row_splits[i + 1]]``.

    Raises:
        ValueError: if values are missing, of a wrong shape or type, or negative.
    """
    entries: list[_Columns] = []
    num_records = _num_records(schema, values)
    for feature in sorted(schema.features, key=lambda feature: feature.name):
        content = _int64s if feature.dtype == "int64" else _floats
        feature_list = _prefixed(_PACKED, [content(feature, values[feature.name])])
        value = _prefixed(_LIST_OF_DTYPE[feature.dtype], feature_list)
        key = _prefixed(_KEY, [_constant(feature.name.encode())])
        entries += _prefixed(_ENTRY, [*key, *_prefixed(_VALUE, value)])
    columns = _prefixed(_FEATURES, entries)
    row_splits = np.zeros(num_records + 1, np.int64)
    np.cumsum(np.broadcast_to(_sizes(columns), num_records), out=row_splits[1:])
    return _joined(columns, num_records), row_splits


def frame_records(data: np.ndarray, row_splits: np.ndarray) -> bytes:
    """Puts the TFRecord format's lengths and checksums around records.

    Args:
        data: uint8 [bytes], records end to end.
        row_splits: int64 [n + 1], where each begins and ends.

    Returns:
        The content of a file; what several calls return may be joined. Each record is 16 bytes
        longer than before, so record i begins at ``row_splits[i] - row_splits[0] + 16 * i``.
    """
    content = data.tobytes()
    records = [content[start:end] for start, end in itertools.pairwise(row_splits.tolist())]
    lengths, which = np.unique(np.diff(row_splits), return_inverse=True)
    checksums = _masked_crcs([struct.pack("<Q", length) for length in lengths.tolist()])
    headers = [_HEADER.pack(*header) for header in zip(lengths.tolist(), checksums, strict=True)]
    footers = _masked_crcs(records).astype("<u4").tobytes()

    pieces = [b""] * (3 * len(records))
    pieces[0::3] = [headers[i] for i in which.tolist()]
    pieces[1::3] = records
    pieces[2::3] = [
        footers[i : i + _CHECKSUM_BYTES] for i in range(0, len(footers), _CHECKSUM_BYTES)
    ]
    return b"".join(pieces)


@dataclasses.dataclass(frozen=True)
class _Columns:
    """Neighbouring columns of the matrix of records: c numbers or characters of each.

    A number has a slot for each byte of the longest varint of its columns, and its last slots may
    be empty. ``n or 1`` rows: 1 if all records are alike here.

    Attributes:
        slots: uint8 [n or 1, c] each: all first bytes, all second bytes and so on.
        filled: bool [n or 1, c] for each slot but the first, which always is.
        sizes: int64 [n or 1], how many bytes there are in each record.
    """

    slots: list[np.ndarray]
    filled: list[np.ndarray]
    sizes: np.ndarray

    @property
    def width(self) -> int:
        return len(self.slots) * self.slots[0].shape[1]


def _num_records(schema: RecordSchema, values: Mapping[str, np.ndarray]) -> int:
    names = [feature.name for feature in schema.features]
    if set(values) != set(names):
        raise ValueError(f"expected values of {', '.join(names)}, but got {', '.join(values)}")
    num_records = len(values[names[0]])
    for feature in schema.features:
        shape = values[feature.name].shape
        if shape != (num_records, feature.size):
            raise ValueError(
                f"{feature.name}: expected the shape {(num_records, feature.size)}, but got {shape}"
            )
    return num_records


def _int64s(feature: Feature, values: np.ndarray) -> _Columns:
    """Integers [n, size] as varints."""
    if values.dtype.kind not in "iu":
        raise ValueError(f"{feature.name}: expected integers, but got {values.dtype}")
    lowest, highest = int(np.min(values, initial=0)), int(np.max(values, initial=0))
    if lowest < 0 or highest >= 1 << 63:
        wrong = lowest if lowest < 0 else highest
        raise ValueError(f"{feature.name}: expected 0 to 2**63 - 1, but got {wrong}")
    return _varints(values, highest)


def _floats(feature: Feature, values: np.ndarray) -> _Columns:
    """Float32 [n, size] as 4 bytes each."""
    if values.dtype != np.float32:
        raise ValueError(f"{feature.name}: expected float32, but got {values.dtype}")
    content = np.ascontiguousarray(values, "<f4").view(np.uint8)
    return _Columns([content], [], np.array([content.shape[1]]))


def _constant(content: bytes) -> _Columns:
    return _Columns([np.frombuffer(content, np.uint8)[np.newaxis]], [], np.array([len(content)]))


def _varints(values: np.ndarray, highest: int) -> _Columns:
    """Integers [n or 1, c], none of them above ``highest``."""
    values = values.astype(np.min_scalar_type(highest))  # the narrower, the faster
    num_slots = max(1, -(-highest.bit_length() // 7))
    slots = [(values >> 7 * slot).astype(np.uint8) for slot in range(num_slots)]
    filled = [values >= 1 << 7 * slot for slot in range(1, num_slots)]
    sizes = np.array([values.shape[1]])
    for slot, goes_on in zip(slots[:-1], filled, strict=True):
        slot |= goes_on.view(np.uint8) << 7  # where it does not go on, the top bit is 0 as it is
        sizes = sizes + np.count_nonzero(goes_on, axis=1)
    return _Columns(slots, filled, sizes)


def _prefixed(tag: int, columns: list[_Columns]) -> list[_Columns]:
    """A field of a message: its tag, its length in bytes, and what is in it."""
    sizes = _sizes(columns)
    length = _varints(sizes[:, np.newaxis], int(np.max(sizes)))
    return [_constant(bytes([tag])), length, *columns]


def _sizes(columns: list[_Columns]) -> np.ndarray:
    """How many bytes there are in each record, int64 [n or 1]."""
    return cast(np.ndarray, sum(part.sizes for part in columns))


def _joined(columns: list[_Columns], num_records: int) -> np.ndarray:
    """What is in the filled slots, record by record, uint8 [bytes]."""
    shape = num_records, sum(part.width for part in columns)
    matrix, filled = np.empty(shape, np.uint8), np.ones(shape, np.bool_)
    start = 0
    for part in columns:
        end, step = start + part.width, len(part.slots)
        for slot, content in enumerate(part.slots):
            matrix[:, start + slot : end : step] = content
        for slot, is_filled in enumerate(part.filled, 1):
            filled[:, start + slot : end : step] = is_filled
        start = end
    return matrix[filled]


# --- reading ------------------------------------------------------------------------------------


def read_records(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """The records of a TFRecord file, plain or compressed with gzip (in one part or several).

    Yields:
        Each record's content, once its checksums have been compared.

    Raises:
        InputError: if the file cannot be read, is no TFRecord file, is damaged or cut off; it says
            in which record, counted from 1, and at which byte that begins.
    """
    path = pathlib.Path(path)
    number, offset, unit = 1, 0, "byte"
    try:
        with path.open("rb") as stored, _uncompressed(stored) as file:
            unit = "byte" if file is stored else "uncompressed byte"
            while (record := _read_record(file)) is not None:
                yield record
                number += 1
                offset += _HEADER.size + len(record) + _CHECKSUM_BYTES
    except (_DamageError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        if number == 1 and isinstance(error, _HeaderError):
            raise InputError(
                f"{path}: not a TFRecord file, or damaged from its first bytes on: it does not "
                f"begin with the length of a record and its checksum. {_SOURCE}"
            ) from error
        what = error if isinstance(error, _DamageError) else f"damaged gzip data: {error}"
        raise InputError(
            f"{path}, record {number} ({unit} {offset}): {what}. Copy the file again from where "
            "it was made, or make it again"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot read it: {error.strerror}") from error


def scan_records(path: str | os.PathLike[str], schema: RecordSchema) -> int:
    """Checks a file before it is used.

    TensorFlow takes some files that were cut off for shorter ones, and, without a word, does not
    read all of some that gzip wrote in several parts. So this is how to know the number.

    Args:
        path: a TFRecord file, plain or compressed with gzip.
        schema: what the records should hold. The first record and the last are compared with it;
            of the others, only the checksums are.

    Returns:
        The number of records, which may be 0.

    Raises:
        InputError: as ``read_records``, or if the first or last record is not as the schema says.
    """
    number, record = 0, b""
    for number, record in enumerate(read_records(path), 1):
        if number == 1:
            _check_record(f"{path}, record 1", record, schema)
    if number > 1:
        _check_record(f"{path}, record {number}", record, schema)
    return number


class _DamageError(Exception):
    """A record is not what was written; the message says what is wrong."""


class _HeaderError(_DamageError):
    """It is so from its first bytes on."""


_Crc = TypeVar("_Crc", int, np.ndarray)


def _masked(crc: _Crc) -> _Crc:
    """CRC-32C as TFRecord files have it, so that a checksum of checksums still is one."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _masked_crcs(contents: list[bytes]) -> np.ndarray:
    """Uint32 [number of contents]."""
    crcs = map(google_crc32c.value, contents)
    return _masked(np.fromiter(crcs, np.uint32, len(contents)))


def _uncompressed(file: io.BufferedReader) -> IO[bytes]:
    """The file itself, or what gzip made it from."""
    is_gzip = file.peek(len(GZIP_MAGIC)).startswith(GZIP_MAGIC)
    return cast(IO[bytes], gzip.GzipFile(fileobj=file)) if is_gzip else file


def _read_record(file: IO[bytes]) -> bytes | None:
    """Reads the next record, or None at the end of the file."""
    header = file.read(_HEADER.size)
    if not header:
        return None
    if len(header) < _HEADER.size:
        raise _HeaderError(f"the file ends after {len(header)} bytes of the record's header")
    length, checksum = _HEADER.unpack(header)
    if _masked(google_crc32c.value(header[:8])) != checksum:
        raise _HeaderError("damaged: its length does not have the checksum that is stored with it")
    content = file.read(length + _CHECKSUM_BYTES)
    if len(content) < length + _CHECKSUM_BYTES:
        raise _DamageError(
            f"the file ends after {len(content)} of the {length + _CHECKSUM_BYTES} bytes of the "
            "record and its checksum"
        )
    record = content[:length]
    if _masked(google_crc32c.value(record)) != int.from_bytes(content[length:], "little"):
        raise _DamageError("damaged: it does not have the checksum that is stored with it")
    return record


def _check_record(place: str, record: bytes, schema: RecordSchema) -> None:
    """Compares a record's features with the schema's."""
    try:
        found = decode_example(record)
    except ExampleFormatError as error:
        raise InputError(f"{place}: not a tf.train.Example: {error}. {_SOURCE}") from error
    names = [feature.name for feature in schema.features]
    for name in names:
        if name not in found:
            others = f"its features are {listed(sorted(found), 8)}" if found else "it has none"
            is_unmasked = name in _MASKS and not any(mask in found for mask in _MASKS)
            raise InputError(
                f"{place}: has no feature {name} ({others})"
                + (
                    ": made with --masking=dynamic? give --masking=dynamic"
                    if is_unmasked
                    else f". {_SOURCE}"
                )
            )
    for name in _MASKS:
        if name in found and name not in names:
            raise InputError(
                f"{place}: has a feature {name}: its masks were chosen when it was made, and "
                "--masking=dynamic would choose others on top; leave out --masking=dynamic"
            )
    for feature in schema.features:
        _check_values(place, feature, found[feature.name])


def _check_values(place: str, feature: Feature, values: np.ndarray) -> None:
    if values.dtype != feature.dtype:
        dtype = "bytes" if values.dtype == np.object_ else values.dtype
        raise InputError(
            f"{place}: {feature.name} holds {dtype}, but should hold {feature.dtype}. {_SOURCE}"
        )
    if len(values) != feature.size:
        flag = _SIZE_FLAGS.get(feature.name)
        raise InputError(
            f"{place}: {feature.name} has {len(values)} values, but "
            + (
                f"{flag} is {feature.size}; give the {flag} that the records were made with"
                if flag
                else f"should have {feature.size}. {_SOURCE}"
            )
        )


# --- tf.train.Example ---------------------------------------------------------------------------


class ExampleFormatError(ValueError):
    """Bytes are not a serialized ``tf.train.Example``."""


def decode_example(record: bytes) -> dict[str, np.ndarray]:
    """Reads a serialized ``tf.train.Example``, slowly.

    Args:
        record: its bytes; not only those that ``encode_records`` writes, but lists that are not
            packed, and features in any order.

    Returns:
        For each feature int64 [size], float32 [size] or, as this holds Python's bytes, object
        [size]. A feature of no type is left out.

    Raises:
        ExampleFormatError: if it is none.
    """
    features: dict[str, np.ndarray] = {}
    for entry in _contents(record, _FEATURES):
        for item in _contents(entry, _ENTRY):
            key = b"".join(_contents(item, _KEY)[-1:])
            value = b"".join(_contents(item, _VALUE)[-1:])
            try:
                name = key.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ExampleFormatError(f"the feature name {key!r} is not UTF-8") from error
            for tag, content in _fields(value):
                if tag in _DECODERS:
                    features[name] = _DECODERS[tag](cast(bytes, content))
    return features


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The tag and the content of each field: an integer for a varint, or else bytes."""
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        wire_type = tag & 7
        if not tag >> 3:
            raise ExampleFormatError("a field without a number")
        if wire_type == _VARINT:
            number, at = _read_varint(message, at)
            yield tag, number
            continue
        if wire_type == _LENGTH_AND_BYTES:
            size, at = _read_varint(message, at)
        elif wire_type in (_EIGHT_BYTES, _FOUR_BYTES):
            size = 8 if wire_type == _EIGHT_BYTES else 4
        else:
            raise ExampleFormatError(f"a field of the unknown wire type {wire_type}")
        if at + size > len(message):
            raise ExampleFormatError(f"a field of {size} bytes, but {len(message) - at} are left")
        yield tag, message[at : at + size]
        at += size


def _contents(message: bytes, tag: int) -> list[bytes]:
    """The contents of all fields with a tag whose wire type is bytes."""
    return [content for found, content in _fields(message) if found == tag]  # type: ignore[misc]


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """The number that begins at a place, 0 to 2**64 - 1, and the place after it."""
    number = 0
    for i, byte in enumerate(message[at : at + 10]):
        number |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return number & 0xFFFFFFFFFFFFFFFF, at + i + 1
    raise ExampleFormatError("a number without an end")


def _decode_int64s(content: bytes) -> np.ndarray:
    numbers = []
    for tag, field in _fields(content):
        if tag == _ONE_INT64:
            numbers.append(cast(int, field))
        elif tag == _PACKED:
            packed, at = cast(bytes, field), 0
            while at < len(packed):
                number, at = _read_varint(packed, at)
                numbers.append(number)
    return np.array(numbers, np.uint64).view(np.int64)


def _decode_floats(content: bytes) -> np.ndarray:
    parts = [field for tag, field in _fields(content) if tag in (_PACKED, _ONE_FLOAT)]
    packed = b"".join(cast(list[bytes], parts))
    if len(packed) % 4:
        raise ExampleFormatError(f"{len(packed)} bytes of floats of 4 bytes each")
    return np.frombuffer(packed, "<f4").astype(np.float32)


def _decode_bytes(content: bytes) -> np.ndarray:
    return np.array(_contents(content, _PACKED), np.object_)


_DECODERS = {
    _BYTES_LIST: _decode_bytes,
    _FLOAT_LIST: _decode_floats,
    _INT64_LIST: _decode_int64s,
}

"""Takes data compressed in parts, returns one gzip file of them; next: record_shard.

The file has a single member. Members one after another would be valid too, but TensorFlow 2.20 ends
a file early, without an error, where a member ends just behind a border of its input buffer.

Source: RFC 1951 (a block may end on a byte, and another follow), RFC 1952 (header and footer).
"""

import dataclasses
import struct
import zlib

HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # deflate, no name, no time, any system
_LAST_BLOCK = b"\x03\x00"  # empty
_RAW = -15  # deflate without a header, with the largest window


@dataclasses.dataclass(frozen=True)
class Checksum:
    """What a gzip file's footer says of its content.

    Attributes:
        crc: CRC-32.
        length: in bytes.
    """

    crc: int = 0
    length: int = 0

    @classmethod
    def of(cls, content: bytes) -> "Checksum":
        """Of some content."""
        return cls(zlib.crc32(content), len(content))

    def __add__(self, other: "Checksum") -> "Checksum":
        """Of both contents, one after the other."""
        # CRC-32 is linear: this one moves on by as many zeros as the other has bytes. Its start
        # value moves on too, and is taken out again.
        zeros = bytes(other.length)
        crc = zlib.crc32(zeros, self.crc) ^ zlib.crc32(zeros) ^ other.crc
        return Checksum(crc, self.length + other.length)


def compress(content: bytes) -> bytes:
    """A part of the file: blocks that end on a byte, none of them the last."""
    compressor = zlib.compressobj(wbits=_RAW)
    return compressor.compress(content) + compressor.flush(zlib.Z_FULL_FLUSH)


def footer(checksum: Checksum) -> bytes:
    """What follows the last part."""
    return _LAST_BLOCK + struct.pack("<II", checksum.crc, checksum.length & 0xFFFFFFFF)

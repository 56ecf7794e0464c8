import gzip
import zlib

import numpy as np
import pytest
import tensorflow as tf

from bert_tf import gzip_parts
from bert_tf.gzip_parts import Checksum
from bert_tf.tfrecord import frame_records

INPUT_BUFFER = 262_144  # of TensorFlow's reader of gzip files


def join(contents):
    file = gzip_parts.HEADER + b"".join(map(gzip_parts.compress, contents))
    return file + gzip_parts.footer(sum(map(Checksum.of, contents), Checksum()))


@pytest.mark.parametrize("contents", [[], [b""], [b"a"], [b"", b"bc", b""], [b"abc" * 999, b"d"]])
def test_the_parts_are_one_member(contents):
    decompressor = zlib.decompressobj(wbits=31)

    assert decompressor.decompress(join(contents)) == b"".join(contents)

    assert decompressor.eof
    assert decompressor.unused_data == b""


def test_checksums_of_parts_add_up_to_that_of_the_whole():
    a, b = b"some bytes", b"and seventeen more"

    assert Checksum.of(a) + Checksum.of(b) == Checksum(zlib.crc32(a + b), len(a + b))


def test_a_wrong_checksum_is_noticed():
    file = gzip_parts.HEADER + gzip_parts.compress(b"abc") + gzip_parts.footer(Checksum.of(b"abd"))

    with pytest.raises(gzip.BadGzipFile, match="CRC"):
        gzip.decompress(file)


def noisy_record(size):
    noise = np.random.default_rng(0).bytes(size)
    return bytes(frame_records(np.frombuffer(noise, np.uint8), np.array([0, size])))


@pytest.mark.parametrize("beyond", [-1, 0, 1, 5, 9, 10])
def test_tensorflow_reads_every_part_wherever_it_ends(tmp_path, beyond):
    """With a gzip member for each part, it would end at the first of them for 1 to 9."""
    length = INPUT_BUFFER + beyond - len(gzip_parts.HEADER)
    # Noise cannot be compressed, so it grows by the same number of bytes whatever its size.
    size = 2 * length - 100 - len(gzip_parts.compress(noisy_record(length - 100)))
    first = noisy_record(size)
    assert len(gzip_parts.compress(first)) == length
    second = bytes(frame_records(np.frombuffer(b"second", np.uint8), np.array([0, 6])))
    path = tmp_path / "records.gz"
    path.write_bytes(join([first, second]))

    records = list(tf.data.TFRecordDataset(str(path), "GZIP").as_numpy_iterator())

    assert [len(record) for record in records] == [size, 6]

"""Tests of bert_tf.tfrecord: bytes against protobuf's and TensorFlow's own writer and readers."""

import gzip
import itertools
import re
import struct
import subprocess
import sys

import google_crc32c
import numpy as np
import pytest
import tensorflow as tf

from bert_tf.errors import InputError
from bert_tf.tfrecord import (
    ExampleFormatError,
    Feature,
    RecordSchema,
    decode_example,
    encode_records,
    frame_records,
    pretraining_schema,
    read_records,
    scan_records,
)

# Where a varint, or the length of what has so many bytes, becomes longer.
BORDERS = [0, 1, 127, 128, 16383, 16384, 2097151, 2097152, 2**28 - 1, 2**28, 2**31 - 1]
SMALL = RecordSchema((Feature("b", 3, "int64"), Feature("a", 2, "float32")))


def protobuf(schema, values, i):
    """Record i, as protobuf serializes it."""
    example = tf.train.Example()
    for feature in schema.features:
        row = values[feature.name][i].tolist()
        if feature.dtype == "int64":
            example.features.feature[feature.name].int64_list.value.extend(row)
        else:
            example.features.feature[feature.name].float_list.value.extend(row)
    return example.SerializeToString(deterministic=True)


def records_of(data, row_splits):
    assert data.dtype == np.uint8
    assert row_splits.dtype == np.int64
    assert row_splits[0] == 0
    assert row_splits[-1] == len(data)
    return [data[i:j].tobytes() for i, j in itertools.pairwise(row_splits)]


def encoded(schema, values):
    return records_of(*encode_records(schema, values))


def pretraining_values(n, seq_length=11, predictions=3, seed=5, vocab_size=30522):
    """Values like those of real records."""
    rng = np.random.default_rng(seed)
    mask = np.arange(seq_length) < rng.integers(4, seq_length + 1, [n, 1])
    weights = np.arange(predictions) < rng.integers(1, predictions + 1, [n, 1])
    ids = np.minimum(rng.pareto(0.5, (n, seq_length)) * 700, vocab_size - 1)
    masked_ids = rng.integers(0, vocab_size, (n, predictions))
    return {
        "input_ids": (ids * mask).astype(np.int32),
        "input_mask": mask.astype(np.int32),
        "segment_ids": (mask & (np.arange(seq_length) > 2)).astype(np.uint8),
        "masked_lm_positions": rng.integers(0, seq_length, (n, predictions)) * weights,
        "masked_lm_ids": (masked_ids * weights).astype(np.int32),
        "masked_lm_weights": weights.astype(np.float32),
        "next_sentence_labels": rng.integers(0, 2, (n, 1)),
    }


def write_file(path, content, form="plain"):
    """A file of any of the forms that are read."""
    third = len(content) // 3
    parts = [content] if form != "gzip parts" else [content[:third], b"", content[third:]]
    path.write_bytes(b"".join(parts if form == "plain" else map(gzip.compress, parts)))
    return path


def example_of(**features):
    """A serialized tf.train.Example of any lists."""
    example = tf.train.Example()
    for name, values in features.items():
        feature = example.features.feature[name]
        kinds = {int: feature.int64_list, float: feature.float_list, bytes: feature.bytes_list}
        kinds[type(values[0])].value.extend(values)
    return example.SerializeToString()


def framed(*records):
    row_splits = np.cumsum([0, *map(len, records)])
    return frame_records(np.frombuffer(b"".join(records), np.uint8), row_splits)


@pytest.fixture(scope="module")
def records():
    """Some records, an empty one among them: 3, 0, 300 and 1 bytes."""
    return [b"\x00\xff\x07", b"", np.random.default_rng(0).bytes(300), b"x"]


@pytest.fixture(scope="module")
def starts(records):
    """The byte at which each begins in a file, and the file's end."""
    return np.cumsum([0, *(len(record) + 16 for record in records)]).tolist()


# --- schema -------------------------------------------------------------------------------------


def test_pretraining_schema_is_the_originals():
    features = {f.name: (f.size, f.dtype) for f in pretraining_schema(13, 5).features}
    assert features == {
        **dict.fromkeys(("input_ids", "input_mask", "segment_ids"), (13, "int64")),
        **dict.fromkeys(("masked_lm_positions", "masked_lm_ids"), (5, "int64")),
        "masked_lm_weights": (5, "float32"),
        "next_sentence_labels": (1, "int64"),
    }
    without = {f.name: (f.size, f.dtype) for f in pretraining_schema(13, None).features}
    assert without == {k: v for k, v in features.items() if not k.startswith("masked_lm")}


@pytest.mark.parametrize(("size", "dtype"), [(0, "int64"), (3, "int32"), (3, "string")])
def test_a_feature_that_cannot_be_written_is_refused(size, dtype):
    with pytest.raises(ValueError, match=f"name='a', size={size}, dtype='{dtype}'"):
        Feature("a", size, dtype)


# --- encoding -----------------------------------------------------------------------------------


@pytest.mark.parametrize("predictions", [3, None])
@pytest.mark.parametrize("vocab_size", [100, 2048, 30522])
def test_pretraining_records_equal_protobufs(vocab_size, predictions):
    schema = pretraining_schema(47, predictions)
    values = pretraining_values(29, 47, 3, vocab_size=vocab_size)
    values = {feature.name: values[feature.name] for feature in schema.features}
    assert encoded(schema, values) == [protobuf(schema, values, i) for i in range(29)]


@pytest.mark.parametrize("size", [1, 41, 42, 43, 127, 128, 5461, 5462, 5463])
def test_varints_and_lengths_equal_protobufs_at_every_border(size):
    rng = np.random.default_rng(size)
    schema = RecordSchema((Feature("z", size, "int64"), Feature("aé", size, "float32")))
    # Rows of small numbers only and of large ones too, so that lengths differ in their own length.
    highest = [1, *BORDERS[1:], BORDERS[-1]]
    rows = [[border for border in BORDERS if border <= high] for high in highest]
    values = {
        "z": np.array([rng.choice(row, size) for row in rows]),
        "aé": rng.standard_normal((len(rows), size)).astype(np.float32),
    }
    assert encoded(schema, values) == [protobuf(schema, values, i) for i in range(len(rows))]


def test_the_largest_numbers_and_odd_floats_equal_protobufs():
    schema = RecordSchema((Feature("a", 3, "float32"), Feature("b", 4, "int64")))
    values = {
        "a": np.array([[np.inf, -np.inf, -0.0], [1e-45, 3.4e38, -1.5]], np.float32),
        "b": np.array([[0, 2**35 - 1, 2**35, 2**56], [2**63 - 1, 2**62, 2**49 - 1, 1]]),
    }
    assert encoded(schema, values) == [protobuf(schema, values, i) for i in range(2)]


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i4", ">u8"])
def test_every_type_of_integer_is_taken(dtype):
    highest = np.iinfo(dtype).max if dtype not in ("u8", ">u8") else 2**63 - 1
    numbers = [number for number in BORDERS if number <= highest]
    schema = RecordSchema((Feature("a", len(numbers), "int64"),))
    for row in (numbers, [0] * len(numbers), [int(highest)] * len(numbers)):
        values = {"a": np.array([row, numbers], dtype)}
        assert encoded(schema, values) == [protobuf(schema, values, i) for i in range(2)]


def test_views_of_larger_arrays_are_taken():
    big = np.arange(2 * 7 * 6).reshape(14, 6) * 50
    values = {"b": big[::2, 3:].T.copy().T, "a": big.T[1:3].T[::2].astype(np.float32, order="F")}
    assert not values["a"].flags.c_contiguous
    assert not values["b"].flags.c_contiguous
    assert encoded(SMALL, values) == [protobuf(SMALL, values, i) for i in range(7)]


def test_no_records_are_no_bytes():
    values = {"b": np.zeros([0, 3], np.int32), "a": np.zeros([0, 2], np.float32)}
    data, row_splits = encode_records(SMALL, values)
    assert records_of(data, row_splits) == []
    assert len(frame_records(data, row_splits)) == 0


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("b", np.zeros([4, 2], np.int32), r"b: expected the shape \(4, 3\), but got \(4, 2\)"),
        ("a", np.zeros([5, 2], np.float32), r"expected the shape .*, but got "),
        ("b", np.zeros([12], np.int32), r"b: expected the shape \(4, 3\), but got \(12,\)|\(12, 3"),
        ("b", np.full([4, 3], -7), "b: expected 0 to .*, but got -7"),
        ("b", np.full([4, 3], 2**63, np.uint64), f"b: expected 0 to .*, but got {2**63}"),
        ("b", np.zeros([4, 3]), "b: expected integers, but got float64"),
        ("b", np.zeros([4, 3], bool), "b: expected integers, but got bool"),
        ("a", np.zeros([4, 2]), "a: expected float32, but got float64"),
        ("a", np.zeros([4, 2], np.int32), "a: expected float32, but got int32"),
        ("c", np.zeros([4, 2], np.int32), "expected values of b, a, but got b, a, c"),
    ],
)
def test_values_that_do_not_fit_are_refused(name, values, message):
    right = {"b": np.ones([4, 3], np.int32), "a": np.ones([4, 2], np.float32)}
    assert len(encoded(SMALL, right)) == 4
    with pytest.raises(ValueError, match=message):
        encode_records(SMALL, {**right, name: values})
    with pytest.raises(ValueError, match="expected values of b, a, but got b"):
        encode_records(SMALL, {"b": right["b"]})


# --- framing ------------------------------------------------------------------------------------


def test_frames_equal_those_of_tensorflows_writer(tmp_path, records, starts):
    with tf.io.TFRecordWriter(str(tmp_path / "a")) as writer:
        for record in records:
            writer.write(record)
    content = framed(*records)
    assert content == (tmp_path / "a").read_bytes()
    assert content == b"".join(framed(record) for record in records)
    assert [content[starts[i] : starts[i + 1]] for i in range(4)] == [framed(r) for r in records]


def test_frames_of_a_part_of_the_records():
    content = np.arange(100, dtype=np.uint8)
    assert frame_records(content, np.array([10, 17, 40])) == framed(
        bytes(range(10, 17)), bytes(range(17, 40))
    )


# --- TensorFlow reads it ------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["plain", "gzip"])
def test_tensorflow_reads_what_is_written(tmp_path, form):
    schema, values = pretraining_schema(11, 3), pretraining_values(31)
    content = frame_records(*encode_records(schema, values))
    path = write_file(tmp_path / "a.tfrecord", content, form)
    compression = "" if form == "plain" else "GZIP"
    dataset = tf.data.TFRecordDataset(str(path), compression, buffer_size=100)
    features = {f.name: tf.io.FixedLenFeature([f.size], f.dtype) for f in schema.features}
    parsed = tf.io.parse_example(list(dataset), features)
    assert set(parsed) == set(values)
    for name, expected in values.items():
        np.testing.assert_array_equal(parsed[name], expected, err_msg=name)


def test_the_originals_records_are_read_and_written_again(tmp_path, shared):
    path = shared / "goldens/original_tiny/pretrain.tfrecord"
    schema = pretraining_schema(64, 10)
    records = list(read_records(path))
    assert len(records) == scan_records(path, schema) == 1216
    assert framed(*records) == path.read_bytes()

    features = {f.name: tf.io.FixedLenFeature([f.size], f.dtype) for f in schema.features}
    expected = tf.io.parse_example(records, features)
    decoded = [decode_example(record) for record in records]
    for name, array in expected.items():
        np.testing.assert_array_equal([row[name] for row in decoded], array, err_msg=name)

    values = {name: array.numpy() for name, array in expected.items()}
    again = encoded(schema, values)
    parsed = tf.io.parse_example(again, features)
    for name, array in expected.items():
        np.testing.assert_array_equal(parsed[name], array, err_msg=name)
    # The original leaves the order of the features to chance; but for that, the bytes are its.
    for ours, original in zip(again, records, strict=True):
        assert ours == tf.train.Example.FromString(original).SerializeToString(deterministic=True)
        assert sorted(ours) == sorted(original)


# --- reading files ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["plain", "gzip", "gzip parts"])
def test_records_are_read_back(tmp_path, records, form):
    path = write_file(tmp_path / "a", framed(*records), form)
    assert list(read_records(path)) == records
    assert list(read_records(str(path))) == records


@pytest.mark.parametrize("form", ["plain", "gzip"])
def test_an_empty_file_has_no_records(tmp_path, form):
    path = write_file(tmp_path / "a", b"", form)
    assert list(read_records(path)) == []
    assert scan_records(path, SMALL) == 0


def read_until_error(path):
    """What is read before the error, and the error."""
    read = []
    with pytest.raises(InputError) as raised:
        for record in read_records(path):
            read.append(record)
    assert str(path) in str(raised.value)
    return read, str(raised.value)


def test_every_flipped_bit_is_found(tmp_path, records, starts):
    content = framed(*records)
    path = tmp_path / "a"
    for at in range(len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        read, message = read_until_error(path)
        number = sum(start <= at for start in starts)
        assert read == records[: number - 1]
        in_header = at < starts[number - 1] + 12
        if number == 1 and in_header:
            assert "not a TFRecord file" in message
        else:
            assert f"a, record {number} (byte {starts[number - 1]}): damaged: it" in message
            assert ("its length" in message) == in_header


def test_every_cut_is_found(tmp_path, records, starts):
    content = framed(*records)
    path = tmp_path / "a"
    for end in set(range(len(content))) - set(starts):
        path.write_bytes(content[:end])
        read, message = read_until_error(path)
        number = sum(start <= end for start in starts)
        assert read == records[: number - 1]
        there = end - starts[number - 1]
        if end < 12:
            assert "not a TFRecord file" in message
        elif there < 12:
            expected = f"the file ends after {there} bytes of the record's header"
            assert f"a, record {number} (byte {starts[number - 1]}): {expected}" in message
        else:
            expected = f"ends after {there - 12} of the {len(records[number - 1]) + 4} bytes"
            assert expected in message
    for number, end in enumerate(starts):
        path.write_bytes(content[:end])
        assert list(read_records(path)) == records[:number]


def test_zeros_at_the_end_are_found(tmp_path, records, starts):
    path = tmp_path / "a"
    path.write_bytes(framed(*records) + bytes(50))
    read, message = read_until_error(path)
    assert read == records
    assert f"record 5 (byte {starts[-1]}): damaged" in message


@pytest.mark.parametrize("form", ["gzip", "gzip parts"])
def test_damaged_gzip_is_found(tmp_path, records, form):
    path = tmp_path / "a"
    content = write_file(path, framed(*records), form).read_bytes()
    first_end = len(gzip.compress(framed(*records)[: len(framed(*records)) // 3]))
    for end in range(3, len(content)):
        path.write_bytes(content[:end])
        if form == "gzip parts" and end in (first_end, first_end + len(gzip.compress(b""))):
            message = read_until_error(path)[1]  # the gzip parts are whole, a record is not
            assert "the file ends after" in message
            continue
        read, message = read_until_error(path)
        number = len(read) + 1
        assert read == records[: len(read)]
        assert re.search(rf"a, record {number} \(uncompressed byte \d+\): damaged gzip", message)
    path.write_bytes(content + b"something else")
    assert "damaged gzip data" in read_until_error(path)[1]


def test_every_flipped_bit_of_gzip_is_found_or_does_no_harm(tmp_path, records):
    path = tmp_path / "a"
    content = write_file(path, framed(*records), "gzip").read_bytes()
    harmless = 0
    for at in range(10, len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        try:
            assert list(read_records(path)) == records
            harmless += 1
        except InputError as error:
            assert "a, record " in str(error) or "a: not a TFRecord file" in str(error)
    assert harmless < 4  # bits that fill up a byte


def test_damage_inside_whole_gzip_is_found(tmp_path, records, starts):
    damaged = bytearray(framed(*records))
    damaged[starts[2] + 50] ^= 1
    path = write_file(tmp_path / "a", bytes(damaged), "gzip")
    assert f"record 3 (uncompressed byte {starts[2]}): damaged: it" in read_until_error(path)[1]


@pytest.mark.parametrize("form", ["plain", "gzip"])
@pytest.mark.parametrize("content", ["Some text.\n\nAnd more of it.\n", "x", "\0" * 40])
def test_foreign_files_are_refused(tmp_path, content, form):
    path = write_file(tmp_path / "a.txt", content.encode(), form)
    read, message = read_until_error(path)
    assert read == []
    assert "a.txt: not a TFRecord file" in message
    assert "Give a file that create_pretraining_data wrote" in message


def test_files_that_cannot_be_read_are_refused(tmp_path):
    assert "cannot read it: No such file" in read_until_error(tmp_path / "none")[1]
    assert "cannot read it: Is a directory" in read_until_error(tmp_path)[1]


def test_a_record_whose_length_looks_like_gzip_is_read(tmp_path):
    record = bytes(0x8B1F)
    path = tmp_path / "a"
    path.write_bytes(framed(record))
    assert path.read_bytes().startswith(b"\x1f\x8b")
    assert list(read_records(path)) == [record]


# --- scanning -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["plain", "gzip", "gzip parts"])
@pytest.mark.parametrize("n", [1, 2, 9])
def test_scan_counts(tmp_path, n, form):
    schema = pretraining_schema(11, 3)
    content = frame_records(*encode_records(schema, pretraining_values(n)))
    assert scan_records(write_file(tmp_path / "a", content, form), schema) == n


def scan_message(path, schema):
    with pytest.raises(InputError) as raised:
        scan_records(path, schema)
    return str(raised.value).removeprefix(str(path.parent) + "/")


@pytest.mark.parametrize(
    ("seq_length", "predictions", "message"),
    [
        (128, 3, "input_ids has 11 values, but --max_seq_length is 128; give the --max_seq_length"),
        (11, 20, "masked_lm_positions has 3 values, but --max_predictions_per_seq is 20; give"),
        (11, None, "has a feature masked_lm_positions: .*; leave out --masking=dynamic"),
    ],
)
def test_scan_refuses_records_of_other_flags(tmp_path, seq_length, predictions, message):
    content = frame_records(*encode_records(pretraining_schema(11, 3), pretraining_values(5)))
    path = write_file(tmp_path / "a.tfrecord", content)
    assert re.match(
        f"a.tfrecord, record 1: {message}",
        scan_message(path, pretraining_schema(seq_length, predictions)),
    )


def test_scan_refuses_records_without_masks(tmp_path):
    schema = pretraining_schema(11, None)
    values = {f.name: pretraining_values(5)[f.name] for f in schema.features}
    path = write_file(tmp_path / "a", frame_records(*encode_records(schema, values)))
    assert scan_records(path, schema) == 5
    assert scan_message(path, pretraining_schema(11, 3)) == (
        "a, record 1: has no feature masked_lm_positions (its features are input_ids, input_mask, "
        "next_sentence_labels, segment_ids): made with --masking=dynamic? give --masking=dynamic"
    )


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"some text", "not a tf.train.Example: "),
        (b"", r"has no feature b \(it has none\)\. Give a file"),
        (example_of(text=[b"x"], label=[3]), r"has no feature b \(its features are label, text\)"),
        (example_of(b=[b"x"], a=[0.5, 2.0]), "b holds bytes, but should hold int64"),
        (example_of(b=[1, 2, 3], a=[1, 2]), "a holds int64, but should hold float32"),
        (example_of(b=[1, 2], a=[0.5, 2.0]), "b has 2 values, but should have 3"),
    ],
    # Records as names would differ between processes: a map's order is not protobuf's promise.
    ids=["text", "nothing", "other names", "bytes for int64", "int64 for float32", "a length of 2"],
)
def test_scan_refuses_foreign_records_first_or_last(tmp_path, record, message):
    right = example_of(b=[1, 2, 3], a=[0.5, 2.0])
    path = tmp_path / "a"
    for number, file in ((1, [record]), (1, [record, right]), (3, [right, right, record])):
        path.write_bytes(framed(*file))
        assert re.match(rf"a, record {number}: {message}", scan_message(path, SMALL))


def test_scan_takes_features_that_it_does_not_know(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(framed(example_of(b=[1, 2, 3], a=[0.5, 2.0], more=[b"x"])))
    assert scan_records(path, SMALL) == 1


def test_scan_finds_damage_in_the_middle(tmp_path):
    schema = pretraining_schema(11, 3)
    content = bytearray(frame_records(*encode_records(schema, pretraining_values(5))))
    content[len(content) // 2] ^= 1
    path = tmp_path / "a"
    path.write_bytes(content)
    assert re.match(r"a, record 3 \(byte \d+\): damaged", scan_message(path, schema))


# --- tf.train.Example ---------------------------------------------------------------------------


def assert_decoded(record, **expected):
    decoded = decode_example(record)
    assert set(decoded) == set(expected)
    for name, values in expected.items():
        assert decoded[name].dtype == np.asarray(values).dtype, name
        np.testing.assert_array_equal(decoded[name], values, err_msg=name)


def test_decoding_what_protobuf_writes():
    numbers = [*BORDERS, -1, -(2**63), 2**63 - 1]
    floats = [1.5, -0.0, float("inf")]
    record = example_of(a=numbers, b=floats, c=[b"x", b""], dé=[7])
    example = tf.train.Example.FromString(record)
    example.features.feature["empty"].int64_list.SetInParent()
    example.features.feature["of no type"].SetInParent()
    assert_decoded(
        example.SerializeToString(),
        a=np.array(numbers),
        b=np.array(floats, np.float32),
        c=np.array([b"x", b""], object),
        dé=np.array([7]),
        empty=np.array([], np.int64),
    )


def message(*fields):
    """Fields (tag, content) of a protobuf message; a number is a varint below 128."""
    return b"".join(
        bytes([tag, content] if isinstance(content, int) else [tag, len(content), *content])
        for tag, content in fields
    )


def test_decoding_lists_that_are_not_packed():
    ints = message((8, 5), (10, b"\x06\xff\x01"), (8, 7))
    floats = b"".join(b"\x0d" + struct.pack("<f", number) for number in (0.5, 3.0))
    entries = [
        message((10, b"i"), (18, message((26, ints)))),
        message((18, message((18, floats))), (10, b"f")),  # the value before the key
    ]
    for order in (entries, entries[::-1]):
        record = message((10, message(*((10, entry) for entry in order))))
        example = tf.train.Example.FromString(record)
        assert list(example.features.feature["i"].int64_list.value) == [5, 6, 255, 7]
        assert_decoded(record, i=np.array([5, 6, 255, 7]), f=np.array([0.5, 3.0], np.float32))


def test_decoding_passes_over_unknown_fields():
    entry = message((10, b"i"), (18, message((26, message((8, 5))))))
    unknown = b"\x79" + bytes(8) + b"\x7d" + bytes(4) + message((0x7A, b"abc"), (0x78, 9))
    record = unknown + message((10, unknown + message((10, entry)))) + unknown
    assert list(tf.train.Example.FromString(record).features.feature) == ["i"]
    assert_decoded(record, i=np.array([5]))


@pytest.mark.parametrize(
    "record",
    [
        b"\x0a",
        b"\x0a\x05abc",
        b"\x0b",
        b"\x00\x00",
        b"\xff" * 11,
        message((10, message((10, message((10, b"\xff"), (18, b"")))))),
        message((10, message((10, message((10, b"f"), (18, message((18, b"\x0a\x03abc")))))))),
        message((10, message((10, message((10, b"i"), (18, message((26, b"\x0a\x01\x80")))))))),
    ],
)
def test_decoding_refuses_what_is_no_example(record):
    with pytest.raises(ExampleFormatError):
        decode_example(record)


def test_decoding_anything_raises_nothing_else():
    rng = np.random.default_rng(3)
    record = example_of(a=BORDERS, b=[0.5, 2.0], c=[b"xyz"])
    refused = 0
    for _ in range(2000):
        damaged = bytearray(record)
        damaged[rng.integers(len(record))] = rng.integers(256)
        try:
            decode_example(bytes(damaged[: rng.integers(len(record) + 1)]))
        except ExampleFormatError:
            refused += 1
    assert 1000 < refused < 2000


# --- the module ---------------------------------------------------------------------------------


def test_checksums_are_computed_in_c():
    assert google_crc32c.implementation == "c"


def test_importing_it_imports_no_tensorflow():
    command = "import sys, bert_tf.tfrecord; print(*sys.modules)"
    names = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "bert_tf.tfrecord" in names
    assert not {"tensorflow", "keras", "scipy"} & set(names)

"""Tests of bert_tf.record_dataset: order, resuming and bad records, by counting records."""

import gzip
import itertools

import numpy as np
import pytest
import tensorflow as tf

from bert_tf import record_dataset
from bert_tf.errors import InputError
from bert_tf.record_dataset import (
    RecordFiles,
    check_first_records,
    evaluation_batches,
    reading,
    training_batches,
)
from bert_tf.tfrecord import Feature, RecordSchema, encode_records, frame_records

SCHEMA = RecordSchema((Feature("number", 3, "int64"), Feature("weight", 2, "float32")))


def write(path, numbers, schema=SCHEMA):
    """A file of records, each of which tells its number."""
    first = schema.features[0]
    values = {
        "number": np.repeat(np.array(numbers)[:, None], first.size, axis=1).astype(first.dtype),
        "weight": np.array(numbers, np.float32)[:, None] * np.float32([0.5, 0.25]),
    }
    content = frame_records(*encode_records(schema, values)) if len(numbers) else b""
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def files_of(folder, *sizes, limit=1000):
    """Files of so many records, numbered through; the second is compressed."""
    ends = list(itertools.accumulate(sizes))
    paths = [
        write(folder / f"{i}.tfrecord{'.gz' if i == 1 else ''}", range(end - size, end))
        for i, (size, end) in enumerate(zip(sizes, ends, strict=True))
    ]
    return RecordFiles(tuple(paths), tuple(sizes), SCHEMA, {"number": limit})


@pytest.fixture
def files(tmp_path):
    return files_of(tmp_path, 17, 5, 0, 40)


def numbers_of(dataset, count=None):
    """The numbers of the records of all batches, or of the first ones, as lists."""
    batches = dataset if count is None else dataset.take(count)
    return [batch["number"][:, 0].numpy().tolist() for batch in batches]


def flat(batches):
    return list(itertools.chain.from_iterable(batches))


# --- training -----------------------------------------------------------------------------------


def test_each_epoch_has_each_record_once_and_the_next_follows_without_a_break(files):
    order = flat(numbers_of(training_batches(files, 7, 3, 0), 36))  # 252 records, 4 epochs of 62
    epochs = [order[i : i + 62] for i in range(0, 248, 62)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(62))
    assert len({tuple(epoch) for epoch in epochs}) == 4
    # The files are mixed: records of a file do not stay together.
    for epoch in epochs:
        assert sum(abs(a - b) == 1 for a, b in itertools.pairwise(epoch)) < 15
        assert len({number >= 22 for number in epoch[:7]}) == 2


def test_batches_have_static_shapes_and_the_records_values(files):
    dataset = training_batches(files, 7, 3, 0)
    assert dataset.element_spec == {
        "number": tf.TensorSpec([7, 3], tf.int32),
        "weight": tf.TensorSpec([7, 2], tf.float32),
    }
    for batch in dataset.take(20):
        numbers = batch["number"].numpy()
        assert (numbers == numbers[:, :1]).all()
        np.testing.assert_array_equal(batch["weight"], numbers[:, :1] / [2, 4])


def test_the_order_is_a_function_of_the_seed_alone(files):
    def order(seed):
        return numbers_of(training_batches(files, 7, seed, 0), 20)

    expected = order(3)
    others = [order(seed) for seed in (0, 1, 4, 3 + 2**31, 2**40)]
    assert len({str(numbers) for numbers in (expected, *others)}) == 6
    tf.random.set_seed(77)
    drawn = float(tf.random.uniform([]))
    tf.random.set_seed(77)
    assert order(3) == expected
    assert float(tf.random.uniform([])) == drawn  # nor does it disturb other draws
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    assert numbers_of(training_batches(files, 7, 3, 0).with_options(options), 20) == expected


def test_a_resumed_run_gets_the_tail(files):
    whole = numbers_of(training_batches(files, 7, 3, 0), 40)
    for step in (1, 8, 9, 17, 30):  # in the first epoch, across its end, in later ones
        assert numbers_of(training_batches(files, 7, 3, step), 5) == whole[step : step + 5]


def test_whole_epochs_are_not_read_to_be_skipped(files):
    # 2 million epochs away, and still there at once.
    far = 62 * 2_000_000
    order = flat(numbers_of(training_batches(files, 31, 3, far), 2))
    assert sorted(order) == list(range(62))


def test_the_epochs_of_a_single_file_differ(tmp_path):
    epochs = numbers_of(training_batches(files_of(tmp_path, 30), 30, 3, 0), 4)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_a_batch_may_be_larger_than_all_the_records(tmp_path):
    files = files_of(tmp_path, 3)
    (batch,) = numbers_of(training_batches(files, 8, 3, 0), 1)
    assert sorted(batch[:3]) == sorted(batch[3:6]) == [0, 1, 2]


def test_an_epoch_reads_blocks_of_the_files_in_turn(tmp_path, monkeypatch):
    monkeypatch.setattr(record_dataset, "SHUFFLE_BUFFER", 1)
    monkeypatch.setattr(record_dataset, "BLOCK_LENGTH", 2)
    monkeypatch.setattr(record_dataset, "CYCLE_LENGTH", 3)
    sizes = (5, 3, 4, 6, 1)
    files = files_of(tmp_path, *sizes)
    starts = [0, *itertools.accumulate(sizes)]
    orders = set()
    for epoch in range(6):
        order = flat(numbers_of(training_batches(files, 19, 3, epoch), 1))
        permutations = [
            permutation
            for permutation in itertools.permutations(range(5))
            if in_turn([list(range(starts[i], starts[i + 1])) for i in permutation], 3, 2) == order
        ]
        assert len(permutations) == 1
        orders.add(permutations[0])
    assert len(orders) > 3  # each epoch has the files in an order of its own


def in_turn(lists, cycle_length, block_length):
    """Blocks of the first lists in turn; one that ends is replaced by the next."""
    waiting = [list(one) for one in lists]
    places = [waiting.pop(0) if waiting else None for _ in range(cycle_length)]
    out, at = [], 0
    while any(place is not None for place in places):
        for _ in range(block_length):
            if not places[at]:
                break
            out.append(places[at].pop(0))
        else:
            at = (at + 1) % cycle_length
            continue
        # A place whose list has ended takes the next list when its turn is over.
        places[at] = waiting.pop(0) if places[at] is not None and waiting else None
        at = (at + 1) % cycle_length
    return out


# --- evaluation ---------------------------------------------------------------------------------


def test_evaluation_takes_each_record_once_in_the_files_order(files):
    batches = numbers_of(evaluation_batches(files, 8, 100))
    assert flat(batches) == list(range(62))
    assert [len(batch) for batch in batches] == [8] * 7 + [6]
    assert numbers_of(evaluation_batches(files, 8, 3)) == batches[:3]


# --- bad records --------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [[3, 50, 1], [3, -1]])
def test_a_value_out_of_range_is_found_before_the_run(tmp_path, numbers):
    good = write(tmp_path / "good.tfrecord", [0, 49])
    bad = tmp_path / "bad.tfrecord"
    features = {"number": tf.train.Feature(), "weight": tf.train.Feature()}
    with tf.io.TFRecordWriter(str(bad)) as writer:
        for number in numbers:
            features["number"] = tf.train.Feature(
                int64_list=tf.train.Int64List(value=[0, number, 0])
            )
            features["weight"] = tf.train.Feature(float_list=tf.train.FloatList(value=[0, 0]))
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())
    check_first_records(RecordFiles((good,), (2,), SCHEMA, {"number": 50}))
    files = RecordFiles((good, bad), (2, len(numbers)), SCHEMA, {"number": 50})
    with pytest.raises(InputError, match=r"bad\.tfrecord: .*number must lie in 0 to 49") as error:
        check_first_records(files)
    assert "good" not in str(error.value)
    assert f"from {min(0, *numbers)} to {max(numbers)}." in str(error.value)


def test_a_value_out_of_range_further_on_is_found_in_its_turn(tmp_path):
    path = write(tmp_path / "a.tfrecord", range(150))
    files = RecordFiles((path,), (150,), SCHEMA, {"number": 140})
    check_first_records(files)
    with pytest.raises(InputError, match=r"a\.tfrecord.*0 to 139"), reading(files.paths):
        numbers_of(training_batches(files, 10, 0, 0), 15)


@pytest.mark.parametrize(
    "other", [Feature("number", 4, "int64"), Feature("number", 3, "float32"), None]
)
def test_a_record_of_another_schema_is_an_input_error(tmp_path, other):
    content = write(tmp_path / "a", [1]).read_bytes()
    if other is None:
        content += frame_records(np.frombuffer(b"no Example", np.uint8), np.array([0, 10]))
    else:
        schema = RecordSchema((other, SCHEMA.features[1]))
        content += write(tmp_path / "b", [2], schema).read_bytes()
    path = tmp_path / "c.tfrecord"
    path.write_bytes(content)
    files = RecordFiles((path,), (2,), SCHEMA, {})
    message = r"c\.tfrecord: not all records have the features"
    with pytest.raises(InputError, match=message):
        check_first_records(files)
    with pytest.raises(InputError, match=message), reading(files.paths):
        numbers_of(evaluation_batches(files, 1, 2))


@pytest.mark.parametrize("damage", ["cut off", "changed"])
def test_a_file_that_changes_after_it_was_looked_at_is_an_input_error(tmp_path, damage):
    files = files_of(tmp_path, 30)
    content = bytearray(files.paths[0].read_bytes())
    content[500] ^= 1
    files.paths[0].write_bytes(content[:500] if damage == "cut off" else content)
    with pytest.raises(InputError, match=r"0\.tfrecord: damaged"), reading(files.paths):
        numbers_of(evaluation_batches(files, 4, 100))


def test_other_errors_are_left_as_they_are(tmp_path):
    error = tf.errors.InvalidArgumentError(None, None, "Matrix size-incompatible")
    with pytest.raises(tf.errors.InvalidArgumentError), reading(()):
        raise error

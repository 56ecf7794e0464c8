"""Takes TFRecord files, returns batches of their records as a tf.data.Dataset; next: modeling.

The order of training is a function of (seed, step): epoch after epoch without a break, each in an
order of its own. Whole epochs are skipped by arithmetic, so a resumed run reads at most one of them
to continue where it was.

Axes: B = batch_size; a feature of a record has the size that the schema says.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import tensorflow as tf

from bert_tf.errors import InputError, listed
from bert_tf.random_bits import below, key_of_seed
from bert_tf.text_files import is_gzip
from bert_tf.tfrecord import RecordSchema

# An epoch reads this many files in turn, a block of records from each, and shuffles what comes
# through a buffer. Records that were neighbours in a file end up in different batches.
CYCLE_LENGTH = 8
BLOCK_LENGTH = 16
SHUFFLE_BUFFER = 10_000
# Records at the beginning of each file whose values are looked at before a run starts.
CHECKED_RECORDS = 100

_OUT_OF_RANGE = "values of a record are out of range:"
# How TensorFlow begins what it says of records that are not as the schema says.
_OTHER_SCHEMA = ("Name: <unknown>,", "Could not parse example input")


@dataclasses.dataclass(frozen=True)
class RecordFiles:
    """Files of records that have been looked through.

    Attributes:
        paths: the files.
        counts: how many records each has.
        schema: what each record has.
        limits: feature -> what its values, which are not negative, must be below.
    """

    paths: tuple[pathlib.Path, ...]
    counts: tuple[int, ...]
    schema: RecordSchema
    limits: Mapping[str, int]

    def __len__(self) -> int:
        return sum(self.counts)


def training_batches(
    files: RecordFiles, batch_size: int, seed: int, first_step: int
) -> tf.data.Dataset:
    """The batches of training from a step on, without an end.

    Args:
        files: the records, at least one.
        batch_size: B; an epoch's last records share a batch with the next one's first.
        seed: of the orders.
        first_step: the step of the first batch, counted from 0.

    Returns:
        A dataset of dicts: int32 [B, size] for each int64 feature, float32 [B, size] for the
        others.
    """
    first_epoch, first_record = divmod(first_step * batch_size, len(files))
    records = tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(
        _Epochs(files, seed, _Reader(files))
    )
    # Records are skipped as they are: parsing, and what comes after it, is what takes time.
    records = records.skip(first_record).batch(batch_size, drop_remainder=True)
    return _parsed(records, files).prefetch(4)


def training_numbers(files: RecordFiles, seed: int) -> tf.data.Dataset:
    """The order of training, without an end and without reading a record.

    Args:
        files: the records, at least one.
        seed: as for ``training_batches``.

    Returns:
        A dataset of int64 [], numbers of records, counted through all files from 0.
    """
    ends = tf.cumsum(tf.constant(files.counts, tf.int64))
    starts = ends - tf.constant(files.counts, tf.int64)

    def numbers(file: tf.Tensor) -> tf.data.Dataset:
        return tf.data.Dataset.range(starts[file], ends[file])

    return tf.data.Dataset.range(tf.int64.max).flat_map(_Epochs(files, seed, numbers))


def evaluation_batches(files: RecordFiles, batch_size: int, max_batches: int) -> tf.data.Dataset:
    """Each record once, in the files' order, up to a number of batches.

    Returns:
        As ``training_batches``; the last batch may be smaller.
    """
    read = _Reader(files)
    records = tf.data.Dataset.range(len(files.paths)).flat_map(read)
    return _parsed(records.batch(batch_size).take(max_batches), files).prefetch(4)


def check_first_records(files: RecordFiles) -> None:
    """Looks at the values of the first records of each file.

    Raises:
        InputError: naming the file.
    """
    read = _Reader(files)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([], tf.int64)])
    def check(number: tf.Tensor) -> tf.Tensor:
        records = read(number).take(CHECKED_RECORDS).batch(CHECKED_RECORDS)
        return _parsed(records, files).reduce(0, lambda count, batch: count + 1)

    for number, path in enumerate(files.paths):
        with reading((path,)):
            check(number)


@contextlib.contextmanager
def reading(paths: tuple[pathlib.Path, ...]) -> Iterator[None]:
    """Says in a user's terms what is wrong with records, where TensorFlow comes across it.

    Args:
        paths: the files that are being read.

    Raises:
        InputError: instead of TensorFlow's errors about records.
    """
    try:
        yield
    except (
        tf.errors.InvalidArgumentError,
        tf.errors.DataLossError,
        tf.errors.FailedPreconditionError,
    ) as error:
        names = listed(map(str, paths), most=2)
        if "expected to contain" in error.message:
            raise InputError(
                f"{names}: TensorFlow finds another number of records in one of them than there "
                "are. Was it changed while being read? If it is a gzip file put together from "
                "several, compress it again as one"
            ) from error
        if isinstance(error, tf.errors.DataLossError):
            raise InputError(
                f"{names}: damaged, or changed while being read; make the records anew"
            ) from error
        if _OUT_OF_RANGE in error.message:
            found = error.message.partition(_OUT_OF_RANGE)[2]
            what = " ".join(found.replace("]", "").replace("[", "").split("\n")[0].split())
            raise InputError(
                f"{names}: {_OUT_OF_RANGE} {what}. Do the records and bert_config.json belong to "
                "the same vocabulary?"
            ) from error
        if any(words in error.message for words in _OTHER_SCHEMA):
            raise InputError(
                f"{names}: not all records have the features and sizes of the first; were they "
                "made with other settings, max_seq_length for instance?"
            ) from error
        raise


class _Reader:
    """The serialized records of one file, by its number."""

    def __init__(self, files: RecordFiles) -> None:
        self._paths = tf.constant([str(path) for path in files.paths])
        self._compressions = tf.constant(["GZIP" if is_gzip(path) else "" for path in files.paths])
        self._counts = tf.constant(files.counts, tf.int64)

    def __call__(self, number: tf.Tensor) -> tf.data.Dataset:
        """Int64 [] -> a dataset of strings []."""
        records = tf.data.TFRecordDataset(self._paths[number], self._compressions[number])
        # TensorFlow takes files that were cut off, and some gzip files of several parts, for
        # shorter ones without a word.
        return records.apply(tf.data.experimental.assert_cardinality(self._counts[number]))


class _Epochs:
    """What there is of the records of all files, in the order of one epoch, by its number.

    Args:
        files: the records.
        seed: of the order.
        read: the number of a file, int64 [] -> a dataset of something for each of its records.
    """

    def __init__(
        self, files: RecordFiles, seed: int, read: Callable[[tf.Tensor], tf.data.Dataset]
    ) -> None:
        self._read = read
        self._num_files = len(files.paths)
        # From 1 on, as TensorFlow takes 0 for no seed, and below its modulus.
        self._seed = 1 + int(below(np.asarray(key_of_seed(seed)), 2**31 - 2))

    def __call__(self, epoch: tf.Tensor) -> tf.data.Dataset:
        """Int64 [] -> a dataset of what ``read`` gives."""
        # shuffle() adds the seed of the graph to its own. Set here, while the graph of this
        # function is made, it is that graph's alone; else it would be the caller's global one.
        tf.random.set_seed(self._seed)
        numbers = tf.random.experimental.stateless_shuffle(
            tf.range(self._num_files, dtype=tf.int64), seed=[self._seed, epoch]
        )
        records = tf.data.Dataset.from_tensor_slices(numbers).interleave(
            self._read,
            cycle_length=min(self._num_files, CYCLE_LENGTH),
            block_length=BLOCK_LENGTH,
            num_parallel_calls=min(self._num_files, CYCLE_LENGTH),
            deterministic=True,
        )
        return records.shuffle(SHUFFLE_BUFFER, seed=epoch, reshuffle_each_iteration=False)


def _parsed(records: tf.data.Dataset, files: RecordFiles) -> tf.data.Dataset:
    """Batches of serialized records, strings [B], -> dicts of features."""
    spec = {
        feature.name: tf.io.FixedLenFeature([feature.size], tf.as_dtype(feature.dtype))
        for feature in files.schema.features
    }

    def parse(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        batch = tf.io.parse_example(serialized, spec)
        checks = [
            tf.debugging.Assert(
                tf.reduce_all((batch[name] >= 0) & (batch[name] < limit)),
                [
                    f"{_OUT_OF_RANGE} {name} must lie in 0 to {limit - 1}, but its values go from",
                    tf.reduce_min(batch[name]),
                    "to",
                    tf.reduce_max(batch[name]),
                ],
            )
            for name, limit in files.limits.items()
            if name in batch
        ]
        with tf.control_dependencies(checks):
            return {
                name: tf.cast(value, tf.int32) if value.dtype == tf.int64 else tf.identity(value)
                for name, value in batch.items()
            }

    return records.map(parse, num_parallel_calls=2, deterministic=True)

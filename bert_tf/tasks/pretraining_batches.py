"""Takes a pretraining run's settings, returns its batches of records; next: tasks.pretraining.

Axes: B = batch_size, S = max_seq_length, P = max_predictions_per_seq.
"""

import functools

import numpy as np
import tensorflow as tf
import tqdm

from bert_tf.config import BertConfig, Pretraining
from bert_tf.errors import InputError
from bert_tf.input_pipeline import filled
from bert_tf.losses import Batch
from bert_tf.masking import Masker, MaskingRule
from bert_tf.random_bits import key_of_seed, random_bits
from bert_tf.record_dataset import (
    RecordFiles,
    check_first_records,
    evaluation_batches,
    training_batches,
)
from bert_tf.record_manifest import SUFFIX, check_manifest, check_shards
from bert_tf.shared_rows import num_shares
from bert_tf.tasks.shared_records import SharedRecords
from bert_tf.text_files import find_files
from bert_tf.tfrecord import pretraining_schema, scan_records
from bert_tf.tokenization import Vocabulary
from bert_tf.training import progress_interval

# What the keys of dynamic masks are nested into; 1 and 2 are taken by pretraining_data, whose seed
# may be the same.
_TRAINING_MASKS, _EVALUATION_MASKS = 3, 4
# Evaluation's masks do not depend on the run's seed, so that runs can be compared.
_EVALUATION_SEED = 0


class PretrainingBatches:
    """The records of a run, looked through.

    Args:
        settings: the run's.
        config: the model's.
        vocabulary: the model's, which dynamic masks take.

    Raises:
        InputError: for files that are missing, damaged, empty, or do not fit the settings.

    Attributes:
        train: what to train on; None without ``do_train``.
        held_out: what to evaluate on; None if nothing is to be evaluated.
        do_lower_case: whether the records' text was lower-cased; None if nothing says so.
        shared: with ``pack_examples``, the rows that records share in training.
    """

    def __init__(
        self, settings: Pretraining, config: BertConfig, vocabulary: Vocabulary | None
    ) -> None:
        self._settings = settings
        self._masker = _masker(settings, vocabulary) if settings.masking == "dynamic" else None
        self.train = self.held_out = None
        self.do_lower_case = settings.do_lower_case
        read = functools.cache(functools.partial(self._read, config, vocabulary))
        if settings.do_train:
            self.train = read(settings.input_file or "", "--input_file")
        if settings.eval_input_file:
            self.held_out = read(settings.eval_input_file, "--eval_input_file")
        elif settings.do_eval:
            self.held_out = read(settings.input_file or "", "--input_file")
        self.shared = None
        if self.train is not None and settings.pack_examples:
            self.shared = SharedRecords(
                self.train,
                batch_size=settings.train_batch_size,
                num_steps=settings.num_train_steps,
                seed=settings.seed,
                max_seq_length=settings.max_seq_length,
                max_predictions_per_seq=settings.max_predictions_per_seq,
                num_shares=self._num_shares,
                num_predictions=None if self._masker is None else self._masker.num_predictions,
            )

    @property
    def micro_batch_size(self) -> int | None:
        """The rows that go through the model at once; None for all of a batch."""
        given = self._settings.micro_batch_size
        if self.shared is None or given is None:
            return given
        return self.shared.shape.rows // self._num_shares

    @property
    def _num_shares(self) -> int:
        return num_shares(
            self._settings.train_batch_size,
            self._settings.micro_batch_size,
            tf.distribute.get_strategy().num_replicas_in_sync,
        )

    def training(self, first_step: int) -> tf.data.Dataset:
        """The batches from a step on: int32 [B, S], int32 and float32 [B, P], int32 [B, 1].

        With ``pack_examples``, they are those of ``SharedRecords.shared``.
        """
        settings = self._settings
        assert self.train is not None
        key = random_bits(key_of_seed(settings.seed), _TRAINING_MASKS)
        size = settings.train_batch_size
        if self.shared is None:
            batches = training_batches(self.train, size, settings.seed, first_step)
            return self._masked(batches, key, first_step, size)
        masked = self._masked(self.shared.spread(first_step), key, first_step, size)
        return self.shared.shared(masked)

    def evaluation(self) -> tf.data.Dataset:
        """The batches to evaluate on, the last one perhaps smaller.

        The original goes through the records again where there are fewer than ``max_eval_steps``
        batches; here each counts once. A TPU gets all of one size, see ``filled``.
        """
        settings = self._settings
        assert self.held_out is not None
        batches = evaluation_batches(
            self.held_out, settings.eval_batch_size, settings.max_eval_steps
        )
        key = random_bits(key_of_seed(_EVALUATION_SEED), _EVALUATION_MASKS)
        masked = self._masked(batches, key, 0, settings.eval_batch_size)
        return filled(masked, settings.eval_batch_size) if settings.on_tpu else masked

    @property
    def num_evaluation_batches(self) -> int:
        """How many batches ``evaluation`` has."""
        assert self.held_out is not None
        available = -(-len(self.held_out) // self._settings.eval_batch_size)
        return min(available, self._settings.max_eval_steps)

    def _read(
        self, config: BertConfig, vocabulary: Vocabulary | None, patterns: str, flag: str
    ) -> RecordFiles:
        settings = self._settings
        # A glob for the records finds the manifest beside them too.
        paths = [path for path in find_files(patterns, flag) if not path.name.endswith(SUFFIX)]
        check_shards(paths)
        for path in paths:
            self.do_lower_case = check_manifest(
                path,
                next_sentence=settings.next_sentence,
                vocabulary=vocabulary,
                do_lower_case=self.do_lower_case,
            )
        schema = pretraining_schema(
            settings.max_seq_length,
            settings.max_predictions_per_seq if settings.masking == "static" else None,
        )
        progress = tqdm.tqdm(
            paths, desc=f"checking {flag}", unit="file", mininterval=progress_interval()
        )
        files = RecordFiles(
            paths=tuple(paths),
            counts=tuple(scan_records(path, schema) for path in progress),
            schema=schema,
            limits={
                "input_ids": config.vocab_size,
                "input_mask": 2,
                "segment_ids": config.type_vocab_size,
                "masked_lm_positions": settings.max_seq_length,
                "masked_lm_ids": config.vocab_size,
                "next_sentence_labels": 2,
            },
        )
        if not len(files):
            raise InputError(f"{flag} {patterns}: there are no records in it")
        check_first_records(files)
        return files

    def _masked(
        self, batches: tf.data.Dataset, key: np.ndarray, first_step: int, batch_size: int
    ) -> tf.data.Dataset:
        """Adds dynamic masks; a record's are a function of its number among all that come by."""
        if self._masker is None:
            return batches
        masker, num_predictions = self._masker, self._settings.max_predictions_per_seq

        def mask(step: np.int64, ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, ...]:
            keys = random_bits(key, int(step) * batch_size + np.arange(len(ids)))
            found = masker(ids, mask.sum(axis=1).astype(np.int64), keys)
            return (
                found.input_ids,
                found.masked_lm_positions,
                found.masked_lm_ids,
                found.masked_lm_weights,
            )

        def add_masks(step: tf.Tensor, batch: Batch) -> Batch:
            ids, positions, true_ids, weights = tf.numpy_function(
                mask,
                [step, batch["input_ids"], batch["input_mask"]],
                [tf.int32, tf.int32, tf.int32, tf.float32],
            )
            shape = [batch["input_ids"].shape[0], num_predictions]
            return {
                **batch,
                "input_ids": tf.ensure_shape(ids, batch["input_ids"].shape),
                "masked_lm_positions": tf.ensure_shape(positions, shape),
                "masked_lm_ids": tf.ensure_shape(true_ids, shape),
                "masked_lm_weights": tf.ensure_shape(weights, shape),
            }

        numbered = batches.enumerate(first_step)
        return numbered.map(add_masks, num_parallel_calls=2, deterministic=True).prefetch(4)


def _masker(settings: Pretraining, vocabulary: Vocabulary | None) -> Masker:
    if vocabulary is None:
        raise InputError(
            "--masking=dynamic: --vocab_file is missing; give the vocab.txt that the records were "
            "made with"
        )
    rule = MaskingRule(
        masked_lm_prob=settings.masked_lm_prob,
        max_predictions_per_seq=settings.max_predictions_per_seq,
        unit=settings.mask_unit,
        span_geometric_p=settings.span_geometric_p,
        max_span_length=settings.max_span_length,
    )
    return Masker(vocabulary, rule)

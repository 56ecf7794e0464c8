"""Takes planned instances, returns records and what there is to say of them; next: text_tables.

Axes: n = number of instances, S = max_seq_length.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from bert_tf.config import PretrainingData
from bert_tf.masking import Masker, MaskingRule
from bert_tf.pretraining_data import InstanceRule, Instances, make_instances
from bert_tf.tfrecord import encode_records, pretraining_schema
from bert_tf.tokenization import FullTokenizer


class RecordMaker:
    """Turns planned instances into records: what every process of a run has.

    Args:
        settings: the run's.

    Raises:
        InputError: for settings or a vocabulary that do not fit.
    """

    def __init__(self, settings: PretrainingData) -> None:
        self.settings = settings
        self.rule = InstanceRule(
            max_seq_length=settings.max_seq_length,
            dupe_factor=settings.dupe_factor,
            short_seq_prob=settings.short_seq_prob,
            next_sentence=settings.next_sentence,
            seed=settings.random_seed,
        )
        self.tokenizer = FullTokenizer(settings.vocab_file or "", settings.do_lower_case)
        vocabulary = self.tokenizer.vocabulary
        self._cls_id, self._sep_id = vocabulary.cls_id, vocabulary.sep_id
        self._masker = None
        if settings.masking == "static":
            masking_rule = MaskingRule(
                masked_lm_prob=settings.masked_lm_prob,
                max_predictions_per_seq=settings.max_predictions_per_seq,
                unit=settings.mask_unit,
                span_geometric_p=settings.span_geometric_p,
                max_span_length=settings.max_span_length,
            )
            self._masker = Masker(vocabulary, masking_rule)
        self._schema = pretraining_schema(
            settings.max_seq_length,
            settings.max_predictions_per_seq if self._masker else None,
        )

    def make(self, corpus: Any, plan: np.ndarray) -> Instances:
        """Planned instances, INSTANCE [n], with their word pieces."""
        return make_instances(corpus, plan, self.rule, self._cls_id, self._sep_id)

    def encode(
        self, instances: Instances, keys: np.ndarray
    ) -> tuple[tuple[np.ndarray, np.ndarray], "Statistics"]:
        """Masks and encodes instances.

        Args:
            instances: the inputs.
            keys: uint64 [n], of their masks.

        Returns:
            The serialized records, end to end, uint8, and their borders, int64 [n + 1]; and what
            there is to say about them.
        """
        values = {
            "input_ids": instances.input_ids,
            "input_mask": _is_text(instances.lengths, self.rule.max_seq_length),
            "segment_ids": instances.segment_ids,
            "next_sentence_labels": instances.next_sentence_labels[:, None],
        }
        statistics = Statistics.of(instances)
        if self._masker is not None:
            masked = self._masker(instances.input_ids, instances.lengths, keys)
            values["input_ids"] = masked.input_ids
            values["masked_lm_positions"] = masked.masked_lm_positions
            values["masked_lm_ids"] = masked.masked_lm_ids
            values["masked_lm_weights"] = masked.masked_lm_weights
            statistics.masks += masked.counts.sum(axis=0)
        return encode_records(self._schema, values), statistics


@functools.lru_cache(1)
def record_maker(settings: PretrainingData) -> RecordMaker:
    """The maker for settings; made once, and shared with processes that are forked off."""
    return RecordMaker(settings)


def _is_text(lengths: np.ndarray, max_seq_length: int) -> np.ndarray:
    """1 where a row has pieces, 0 for padding, uint8 [n, S]."""
    return (np.arange(max_seq_length) < lengths[:, None]).view(np.uint8)


@dataclasses.dataclass
class Statistics:
    """Sums over records.

    Attributes:
        lengths: int64 [S + 1], how many records are so long.
        masks: int64 [3], pieces that became [MASK], stayed, became a random piece.
        num_random_next: records whose next sentence is random.
        num_truncated: records that lost pieces.
        num_dropped: pieces that they lost.
    """

    lengths: np.ndarray
    masks: np.ndarray
    num_random_next: int = 0
    num_truncated: int = 0
    num_dropped: int = 0

    @classmethod
    def zero(cls, max_seq_length: int) -> "Statistics":
        """Of no record."""
        return cls(np.zeros(max_seq_length + 1, np.int64), np.zeros(3, np.int64))

    @classmethod
    def of(cls, instances: Instances) -> "Statistics":
        """Of instances before masking."""
        max_seq_length = instances.input_ids.shape[1]
        return cls(
            lengths=np.bincount(instances.lengths, minlength=max_seq_length + 1),
            masks=np.zeros(3, np.int64),
            num_random_next=int(instances.next_sentence_labels.sum()),
            num_truncated=int(np.count_nonzero(instances.num_dropped)),
            num_dropped=int(instances.num_dropped.sum()),
        )

    def __add__(self, other: "Statistics") -> "Statistics":
        return Statistics(
            **{name: value + getattr(other, name) for name, value in vars(self).items()}
        )

    @property
    def num_records(self) -> int:
        """How many."""
        return int(self.lengths.sum())

    def to_json(self) -> dict[str, Any]:
        """The sums, for a JSON file."""
        return {**vars(self), "lengths": self.lengths.tolist(), "masks": self.masks.tolist()}

    @classmethod
    def from_json(cls, sums: dict[str, Any]) -> "Statistics":
        """The inverse of ``to_json``."""
        arrays = {name: np.array(sums[name], np.int64) for name in ("lengths", "masks")}
        return cls(**{**sums, **arrays})

    def described(self, next_sentence: str) -> dict[str, Any]:
        """What the manifest says of them."""
        num_records = self.num_records
        max_seq_length = len(self.lengths) - 1
        num_pieces = int(self.lengths @ np.arange(max_seq_length + 1))
        num_masked = int(self.masks.sum())
        described: dict[str, Any] = {
            "num_records": num_records,
            "num_pieces": num_pieces,
            "mean_length": num_pieces / num_records,
            "padding": 1.0 - num_pieces / (num_records * max_seq_length),
            "lengths": {str(i): int(count) for i, count in enumerate(self.lengths) if count},
            "truncated_records": self.num_truncated / num_records,
            "truncated_pieces": self.num_dropped,
        }
        if next_sentence == "nsp":
            described["random_next"] = self.num_random_next / num_records
        if num_masked:
            described["masked"] = num_masked / num_pieces
            for name, count in zip(("mask", "same", "random"), self.masks, strict=True):
                described[f"masked_{name}"] = int(count) / num_masked
        return described

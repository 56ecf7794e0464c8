"""Takes a pretrained model and texts with [MASK], returns the likeliest pieces; next: predictor.

Of a pair of texts, it also says how likely the second follows the first.

Axes: B = batch_size, S = seq_length, P = most masks of a text in the batch, V = vocab_size,
K = top_k.
"""

import itertools
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
import tensorflow as tf

from bert_tf import run_folder
from bert_tf.checkpoint import Checkpoint, load_checkpoint
from bert_tf.config import BertConfig, ModelFiles
from bert_tf.errors import InputError
from bert_tf.heads import BertPretrainer
from bert_tf.input_pipeline import Features, batches, evaluation_plan
from bert_tf.packing import RaggedIds, pack_texts
from bert_tf.tasks.model_files import longest_row, read_pretrained
from bert_tf.tasks.task_predictor import (
    NameOf,
    Text,
    is_pair,
    named_parts,
    parse_text_or_pair,
)
from bert_tf.tokenization import FullTokenizer
from bert_tf.training import MODEL_INPUTS

MASK = "[MASK]"
MASKED_LM_HEAD = "cls/predictions"
# What the next-sentence probability takes; a converted checkpoint may be without.
NEXT_SENTENCE_HEAD = ("bert/pooler/*", "cls/seq_relationship/*")


def load(
    model: pathlib.Path | ModelFiles, *, top_k: int = 5, do_lower_case: bool | None = None
) -> "MaskFiller":
    """Loads a pretrained model.

    Args:
        model: the folder of a run_pretraining run or of a released checkpoint, or the files.
        top_k: K, pieces that are named for each mask.
        do_lower_case: whether to lower-case; by default what the model's files say, or the run or
            the name of the folder that the checkpoint is in, else true.

    Raises:
        InputError: if a file is missing, or they do not belong together, or the checkpoint has no
            masked-LM head.
    """
    return MaskFiller(load_pretrained(model, do_lower_case), top_k)


class Pretrained(NamedTuple):
    """A pretrained model with what it takes to ask it.

    Attributes:
        model: with its weights.
        tokenizer: of its vocabulary.
        max_seq_length: longest row.
        has_next_sentence: whether it was trained to tell next sentences.
    """

    model: BertPretrainer
    tokenizer: FullTokenizer
    max_seq_length: int
    has_next_sentence: bool = True

    def check_top_k(self, top_k: int) -> None:
        """Checks that there are so many pieces.

        Raises:
            InputError: if there are not.
        """
        if not 1 <= top_k <= self.model.config.vocab_size:
            raise InputError(
                f"top_k must lie in 1 to {self.model.config.vocab_size}, the size of the "
                f"vocabulary, but is {top_k}"
            )


def load_pretrained(
    model: pathlib.Path | ModelFiles,
    do_lower_case: bool | None = None,
    *,
    dtype: str | None = None,
    max_seq_length: int | None = None,
) -> Pretrained:
    """Loads a pretrained model; see ``load``.

    Args:
        model: as for ``load``.
        do_lower_case: as for ``load``.
        dtype: a Keras dtype policy; float32 by default.
        max_seq_length: longest row; by default what the model takes.
    """
    files, config, tokenizer = read_pretrained(model, do_lower_case)
    checkpoint = files.init_checkpoint or ""
    pretrainer, has_next_sentence = _load_model(config, checkpoint, dtype)
    has_next_sentence = has_next_sentence and _trained_next_sentence(checkpoint)
    longest = longest_row(config, max_seq_length)
    return Pretrained(pretrainer, tokenizer, longest, has_next_sentence)


def _trained_next_sentence(checkpoint: str) -> bool:
    """False if a run beside the checkpoint says that it left its next-sentence head as it was."""
    path = pathlib.Path(checkpoint).with_name(run_folder.RUN_CONFIG)
    return not path.exists() or run_folder.read_run_config(path).get("next_sentence") != "none"


def _load_model(config: BertConfig, path: str, dtype: str | None) -> tuple[BertPretrainer, bool]:
    """The model, and whether it has all that the next-sentence probability takes."""
    checkpoint = Checkpoint(path)
    head = checkpoint.name_in_file(MASKED_LM_HEAD)
    if not any(name.startswith(f"{head}/") for name in checkpoint.shapes):
        raise InputError(
            f"checkpoint {checkpoint.path} has no masked-LM head ({head}/…): fill_mask needs a "
            "pretraining checkpoint, as released or of a run_pretraining run"
        )
    pretrainer = BertPretrainer(config, dtype=dtype)
    report = load_checkpoint(pretrainer, checkpoint.path, allow_missing=NEXT_SENTENCE_HEAD)
    return pretrainer, not report.missing


def refuse_without_mask(parts: Mapping[str, str], name: str) -> NoReturn:
    """Raises the InputError of a text or a pair about which there is nothing to say.

    Args:
        parts: ``text`` and, of a pair, ``text_b``.
        name: what a message calls it.
    """
    if "text_b" not in parts:
        raise InputError(
            f"{name}: has no {MASK} to fill, and is no pair of texts: {parts['text']!r}"
        )
    raise InputError(
        f"{name}: a pair without {MASK}, but this model was trained without next sentences (its "
        f"next-sentence head is missing or untrained): {(parts['text'], parts['text_b'])!r}"
    )


class _Answers(NamedTuple):
    """What the model says of some texts.

    Attributes:
        pieces: for each text int32 [number of masks, K], the likeliest first.
        scores: for each text float32 [number of masks, K], their probabilities.
        next_sentence: float32 [number of texts], that the second text follows the first.
    """

    pieces: list[np.ndarray]
    scores: list[np.ndarray]
    next_sentence: np.ndarray


class MaskFiller:
    """Names the likeliest pieces for each [MASK] in a text.

    Each text gets ``masks``, one dict per [MASK]: its ``position`` in the text and its
    ``predictions``, each a ``piece`` and its ``score``, the probability. A pair also gets its
    ``next_sentence_probability``, and each of its masks ``in``, which text it is in.

    Args:
        pretrained: the model.
        top_k: K.
    """

    def __init__(self, pretrained: Pretrained, top_k: int = 5) -> None:
        pretrained.check_top_k(top_k)
        model, tokenizer, longest, has_next_sentence = pretrained
        self._longest = longest
        self._tokenizer = tokenizer
        self._has_next_sentence = has_next_sentence

        def forward(inputs: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            outputs = model(inputs, training=False)
            probabilities = tf.nn.softmax(outputs["masked_lm_logits"])  # [B, P, V]
            scores, pieces = tf.math.top_k(probabilities, top_k)  # [B, P, K]
            return scores, pieces, tf.nn.softmax(outputs["next_sentence_logits"])[:, 0]

        self._forward = tf.function(forward, autograph=False, reduce_retracing=True)

    def parse(self, line: str, name: str) -> Text:
        """See TaskPredictor."""
        return parse_text_or_pair(line, name)

    def predict(
        self, texts: Sequence[Any], batch_size: int, name_of: NameOf
    ) -> list[dict[str, Any]]:
        """See TaskPredictor."""
        for i, text in enumerate(texts):
            self._check(text, name_of(i))
        results: list[dict[str, Any]] = [{} for _ in texts]
        for pairs in (False, True):
            rows = [i for i, text in enumerate(texts) if is_pair(text) is pairs]
            if not rows:
                continue
            text_a = [texts[i][0] if pairs else texts[i] for i in rows]
            text_b = [texts[i][1] for i in rows] if pairs else None
            answers = self._answers(text_a, text_b, batch_size, [name_of(i) for i in rows])
            for number, row in enumerate(rows):
                results[row] = self._named(texts[row], answers, number)
        return results

    def _check(self, text: Any, name: str) -> None:
        if isinstance(text, str):
            if MASK not in text:
                refuse_without_mask({"text": text}, name)
        elif not is_pair(text):
            raise InputError(f"{name} must be a str or a pair (str, str), but is {text!r}")
        elif not self._has_next_sentence and not any(MASK in part for part in text):
            refuse_without_mask(named_parts(text), name)

    def _answers(
        self,
        text_a: Sequence[str],
        text_b: Sequence[str] | None,
        batch_size: int,
        names: Sequence[str],
    ) -> _Answers:
        """Runs the model on single texts or on pairs."""
        features = self._features(text_a, text_b, names)
        mask_id = self._tokenizer.vocabulary.mask_id
        pieces = [np.empty(0)] * len(text_a)
        scores = [np.empty(0)] * len(text_a)
        next_sentence = np.empty(len(text_a), np.float32)
        plan = evaluation_plan(features.lengths, batch_size)
        for batch in batches(features, plan, max_length=self._longest):
            is_mask = batch["input_ids"].numpy() == mask_id  # [B, S]
            counts = is_mask.sum(axis=1)
            positions = np.zeros((len(counts), max(counts.max(), 1)), np.int32)  # [B, P]
            positions[np.arange(positions.shape[1]) < counts[:, np.newaxis]] = is_mask.nonzero()[1]
            inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
            batch_scores, batch_pieces, batch_next = (
                values.numpy()
                for values in self._forward(
                    {**inputs, "masked_lm_positions": tf.constant(positions)}
                )
            )
            for i, row in enumerate(batch["example_ids"].numpy()):
                scores[row] = batch_scores[i, : counts[i]]
                pieces[row] = batch_pieces[i, : counts[i]]
                next_sentence[row] = batch_next[i]
        return _Answers(pieces, scores, next_sentence)

    def _features(
        self, text_a: Sequence[str], text_b: Sequence[str] | None, names: Sequence[str]
    ) -> Features:
        """Tokenizes and packs; no mask may be cut away, so too long a text is refused."""
        vocabulary = self._tokenizer.vocabulary
        ragged_a = self._encode(text_a)
        ragged_b = None if text_b is None else self._encode(text_b)
        special = 2 if ragged_b is None else 3
        lengths = special + ragged_a.lengths + (0 if ragged_b is None else ragged_b.lengths)
        longest = self._longest
        for i in np.flatnonzero(lengths > longest)[:1]:
            raise InputError(
                f"{names[i]}: {lengths[i]} word pieces with [CLS] and [SEP], but the model takes "
                f"{longest} (max_position_embeddings); shorten the text"
            )
        return Features(
            pack_texts(ragged_a, ragged_b, longest, vocabulary.cls_id, vocabulary.sep_id)
        )

    def _encode(self, texts: Sequence[str]) -> RaggedIds:
        """Tokenizes texts in which [MASK], and no other special piece, stands for itself."""
        parts = [text.split(MASK) for text in texts]
        ids, row_splits = self._tokenizer.encode_batch(list(itertools.chain(*parts)))
        # A mask goes before each part but the first of a text.
        num_parts = np.fromiter(map(len, parts), np.int64, len(parts))
        first = np.cumsum(num_parts) - num_parts
        later = np.setdiff1d(np.arange(num_parts.sum()), first)
        values = np.insert(ids, row_splits[later], self._tokenizer.vocabulary.mask_id)
        lengths = np.add.reduceat(np.diff(row_splits), first) + num_parts - 1
        return RaggedIds(values, np.concatenate([[0], np.cumsum(lengths)]))

    def _named(self, text: str | tuple[str, str], answers: _Answers, number: int) -> dict[str, Any]:
        """One text's result; ``number`` is its place in the answers."""
        parts = named_parts(text)
        places: list[dict[str, Any]] = [
            {"in": key, "position": match.start()}
            for key, part in parts.items()
            for match in re.finditer(re.escape(MASK), part)
        ]
        if len(parts) == 1:
            places = [{"position": place["position"]} for place in places]
        result: dict[str, Any] = dict(parts)
        if len(parts) == 2 and self._has_next_sentence:
            result["next_sentence_probability"] = float(answers.next_sentence[number])
        result["masks"] = [
            {
                **place,
                "predictions": [
                    {
                        "piece": self._tokenizer.vocabulary.piece_of(int(piece)),
                        "score": float(score),
                    }
                    for piece, score in zip(pieces, scores, strict=True)
                ],
            }
            for place, pieces, scores in zip(
                places, answers.pieces[number], answers.scores[number], strict=True
            )
        ]
        return result

"""Takes a trained model of multiple choice, returns what it exports; next: exporter.

Axes: B questions, C = most choices of a question, S = seq_length.
"""

import functools
import pathlib

import tensorflow as tf

from bert_tf.config import ModelFiles
from bert_tf.export.served_model import (
    DEFAULT,
    TOKENS,
    ServedModel,
    Signature,
    Tensors,
    measuring,
    merge_projections,
    rows,
)
from bert_tf.export.text_rows import RowBuilder
from bert_tf.graph_tokenization import GraphTokenizer
from bert_tf.tasks import multiple_choice
from bert_tf.use_config import Export


def served(model: pathlib.Path | ModelFiles, settings: Export) -> ServedModel:
    """What ``ChoicePredictor`` says of contexts, ``text``, and their ``choices`` [B, C].

    Where questions have different numbers of choices, ``""`` stands for none. Of each question:
    ``label``, the number of the likeliest, which is the ``choice``, its ``score``, and
    ``probabilities`` [B, C], 0 where there is no choice.
    """
    scorer = multiple_choice.load(model, **settings.changes())
    merge_projections(scorer.model)
    vocabulary = scorer.tokenizer.vocabulary
    tokenizer = GraphTokenizer(vocabulary, scorer.tokenizer.do_lower_case)
    builder = RowBuilder(
        vocabulary,
        scorer.settings.max_seq_length,
        pairs=True,
        fixed_length=settings.fixed_length,
    )

    def of_rows(inputs: Tensors) -> Tensors:
        probabilities = tf.nn.softmax(scorer.model(inputs, training=False))  # [B, C]
        return {
            "label": tf.argmax(probabilities, axis=1, output_type=tf.int32),
            "score": tf.reduce_max(probabilities, axis=1),
            "probabilities": probabilities,
        }

    def rows_of(inputs: Tensors) -> Tensors:
        choices = inputs["choices"]
        shape = tf.shape(choices)
        number = tf.repeat(tf.range(shape[0]), shape[1])  # [B * C], the question of each choice
        contexts = tf.gather(tokenizer.tokenize(inputs["text"]), number)
        found = builder.of_pairs(contexts, tokenizer.tokenize(tf.reshape(choices, [-1])))
        there = tf.cast(choices != "", tf.int32)[:, :, tf.newaxis]
        row_shape = tf.concat([shape, tf.shape(found.input_ids)[1:]], axis=0)  # B, C, S
        return {name: tf.reshape(part, row_shape) * there for name, part in found._asdict().items()}

    def of_texts(inputs: Tensors) -> Tensors:
        answers = of_rows(rows_of(inputs))
        return answers | {"choice": tf.gather(inputs["choices"], answers["label"], batch_dims=1)}

    return ServedModel(
        task="multiple_choice",
        config=scorer.model.config,
        vocabulary=vocabulary,
        signatures={
            DEFAULT: Signature(
                {
                    "text": tf.TensorSpec([None], tf.string, "text"),
                    "choices": tf.TensorSpec([None, None], tf.string, "choices"),
                },
                of_texts,
            ),
            TOKENS: Signature(rows(windows=True), of_rows),
        },
        sample={
            DEFAULT: {
                "text": "She opened the door.",
                "choices": ["The room was empty.", "The soup was cold."],
            }
        },
        rows_of=rows_of,
        settings={
            "max_seq_length": scorer.settings.max_seq_length,
            "do_lower_case": scorer.tokenizer.do_lower_case,
        },
        measure_on=measuring(
            functools.partial(multiple_choice.measure_on, scorer),
            lambda outputs: outputs["probabilities"],
        ),
    )

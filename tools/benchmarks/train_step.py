"""Times one fixed-shape training step of BERT BASE here and in two peers.

Each contender takes real steps (forward, backward, clipping at global norm 1, its own Adam with
weight decay, dropout 0.1) of a two-class classifier on the same random batch, float32, graph mode
without XLA (which is slower on CPU), in a process of its own; the processes take turns.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from harness import measure_in_turns, print_report

VOCAB_SIZE = 30522


def batch(batch_size: int, seq_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Random ids int32 [batch_size, seq_length] and labels int32 [batch_size]."""
    random = np.random.default_rng(0)
    ids = random.integers(1000, VOCAB_SIZE, (batch_size, seq_length), dtype=np.int32)
    return ids, random.integers(0, 2, batch_size, dtype=np.int32)


def bert_tf_step(ids: np.ndarray, labels: np.ndarray) -> Callable[[], float]:
    """This project."""
    import tensorflow as tf

    import bert_tf
    from bert_tf.losses import Loss, examples_weight, single_label_loss
    from bert_tf.training import TrainStep

    model = bert_tf.BertClassifier(
        bert_tf.BertConfig(vocab_size=VOCAB_SIZE, type_vocab_size=2), num_labels=2
    )
    optimizer = bert_tf.create_optimizer(5e-5, 1000, 100)
    loss = Loss(
        lambda logits, batch: {"loss": single_label_loss(logits, batch["label_ids"])},
        lambda batch: {"loss": examples_weight(batch["label_ids"])},
    )
    step = TrainStep(model, optimizer, loss, 1)
    features = {
        "input_ids": tf.constant(ids),
        "input_mask": tf.ones_like(ids),
        "segment_ids": tf.zeros_like(ids),
        "label_ids": tf.constant(labels),
    }
    function = tf.function(step)
    return lambda: float(function(features)["loss"])


def keras_hub_step(ids: np.ndarray, labels: np.ndarray) -> Callable[[], float]:
    """keras-hub's BertTextClassifier under Keras' own training step."""
    import keras
    import keras_hub

    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=VOCAB_SIZE,
        num_layers=12,
        num_heads=12,
        hidden_dim=768,
        intermediate_dim=3072,
        dropout=0.1,
        max_sequence_length=512,
    )
    model = keras_hub.models.BertTextClassifier(
        backbone, num_classes=2, preprocessor=None, dropout=0.1
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(5e-5, weight_decay=0.01, global_clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    inputs = {
        "token_ids": ids,
        "padding_mask": np.ones_like(ids),
        "segment_ids": np.zeros_like(ids),
    }
    return lambda: float(np.ravel(model.train_on_batch(inputs, labels))[0])


def model_garden_step(ids: np.ndarray, labels: np.ndarray) -> Callable[[], float]:
    """Model Garden's BertEncoderV2 and BertClassifier with its AdamWeightDecay."""
    import tensorflow as tf
    import tf_keras
    from official.modeling.optimization.legacy_adamw import AdamWeightDecay
    from official.nlp.modeling import models, networks

    network = networks.BertEncoderV2(vocab_size=VOCAB_SIZE, max_sequence_length=512)
    model = models.BertClassifier(network, num_classes=2)
    optimizer = AdamWeightDecay(
        5e-5,
        weight_decay_rate=0.01,
        exclude_from_weight_decay=["LayerNorm", "layer_norm", "bias"],
        gradient_clip_norm=0.0,
    )
    loss_function = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    inputs = {
        "input_word_ids": tf.constant(ids),
        "input_mask": tf.ones_like(ids),
        "input_type_ids": tf.zeros_like(ids),
    }
    targets = tf.constant(labels)

    @tf.function
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = loss_function(targets, model(inputs, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        gradients, _ = tf.clip_by_global_norm(gradients, 1.0)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    return lambda: float(step())


CONTENDERS = {
    "bert_tf": bert_tf_step,
    "keras_hub": keras_hub_step,
    "model_garden": model_garden_step,
}


def main() -> None:
    """Parses the arguments and runs one contender, or all of them in turns."""
    parser = argparse.ArgumentParser(prog="tools/bench train_step", description=__doc__)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--seq_length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=5, help="timed steps in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender is None:
        names = ("batch_size", "seq_length", "steps")
        arguments = tuple(f"--{name}={getattr(options, name)}" for name in names)
        rounds = measure_in_turns(__file__, list(CONTENDERS), options.rounds, arguments)
        unit = f"seconds per step of {options.batch_size} x {options.seq_length}"
        print_report("train_step", rounds, unit, smaller_is_better=True)
        return
    step = CONTENDERS[options.contender](*batch(options.batch_size, options.seq_length))
    for _ in range(2):  # tracing, then warm caches
        step()
    seconds = []
    for _ in range(options.steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    print(statistics.median(seconds))


if __name__ == "__main__":
    main()

"""Times one fixed-shape training step of BERT BASE here and in three peers.

Each contender takes real steps (forward, backward, clipping at global norm 1, its own Adam with
weight decay, dropout 0.1) of a two-class classifier on the same random batch, in a process of its
own; the processes take turns. TensorFlow's run as graphs, with ``--xla`` compiled (which is slower
on CPU), PyTorch's op by op, as transformers does, with its fused kernels for attention and AdamW.
In the same turns the machine's rate of multiplying matrices is measured; how much of it a step
reaches, and on a CPU which operations take this project's time, is said below the table; those
shares of all kinds of operations are the JSON's ``kernel_shares`` (null where they are not known).
"""

import argparse
import collections
import json
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np
from harness import add_device, choose_device, last_lines_in_turns, print_report
from pytorch_peer import make_step, note_on_mkl

VOCAB_SIZE = 30522
NUM_LAYERS, HIDDEN_SIZE, INTERMEDIATE_SIZE = 12, 768, 3072
# m, k, n of the product that gives the rate: of a step's own size, or what keeps a GPU busy.
MATRICES = {"cpu": (1024, HIDDEN_SIZE, INTERMEDIATE_SIZE), "gpu": (8192, 8192, 8192)}

# What all contenders call them.
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def step_flops(batch_size: int, seq_length: int, num_queries: int) -> float:
    """Floating-point operations of a step's matrix products: 2 for each multiply-add.

    Those of the layers; the backward pass has two products for each of the forward pass.

    Args:
        batch_size: rows.
        seq_length: tokens of a row.
        num_queries: how many of them the last layer computes new vectors of; it makes keys and
            values of all.
    """
    keys_and_values = 2 * HIDDEN_SIZE**2
    others = 2 * HIDDEN_SIZE**2 + 2 * HIDDEN_SIZE * INTERMEDIATE_SIZE + 2 * seq_length * HIDDEN_SIZE
    of_row = NUM_LAYERS * seq_length * keys_and_values
    of_row += ((NUM_LAYERS - 1) * seq_length + num_queries) * others
    return 3.0 * 2 * batch_size * of_row


def batch(batch_size: int, seq_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Random ids int32 [batch_size, seq_length] and labels int32 [batch_size]."""
    random = np.random.default_rng(0)
    ids = random.integers(1000, VOCAB_SIZE, (batch_size, seq_length), dtype=np.int32)
    return ids, random.integers(0, 2, batch_size, dtype=np.int32)


def bert_tf_step(
    ids: np.ndarray, labels: np.ndarray, precision: str, xla: bool
) -> Callable[[], float]:
    """This project."""
    import tensorflow as tf

    import bert_tf
    from bert_tf.losses import Loss, examples_weight, single_label_loss
    from bert_tf.training import TrainStep

    model = bert_tf.BertClassifier(
        bert_tf.BertConfig(vocab_size=VOCAB_SIZE, type_vocab_size=2),
        num_labels=2,
        dtype=POLICIES[precision],
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
    function = tf.function(step, jit_compile=xla)
    return lambda: float(function(features)["loss"])


def keras_hub_step(
    ids: np.ndarray, labels: np.ndarray, precision: str, xla: bool
) -> Callable[[], float]:
    """keras-hub's BertTextClassifier under Keras' own training step."""
    import keras
    import keras_hub

    keras.config.set_dtype_policy(POLICIES[precision])
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=VOCAB_SIZE,
        num_layers=NUM_LAYERS,
        num_heads=12,
        hidden_dim=HIDDEN_SIZE,
        intermediate_dim=INTERMEDIATE_SIZE,
        dropout=0.1,
        max_sequence_length=512,
    )
    model = keras_hub.models.BertTextClassifier(
        backbone, num_classes=2, preprocessor=None, dropout=0.1
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(5e-5, weight_decay=0.01, global_clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=xla,
    )
    inputs = {
        "token_ids": ids,
        "padding_mask": np.ones_like(ids),
        "segment_ids": np.zeros_like(ids),
    }
    return lambda: float(np.ravel(model.train_on_batch(inputs, labels))[0])


def model_garden_step(
    ids: np.ndarray, labels: np.ndarray, precision: str, xla: bool
) -> Callable[[], float]:
    """Model Garden's BertEncoderV2 and BertClassifier with its AdamWeightDecay."""
    import tensorflow as tf
    import tf_keras
    from official.modeling.optimization.legacy_adamw import AdamWeightDecay
    from official.nlp.modeling import models, networks

    tf_keras.mixed_precision.set_global_policy(POLICIES[precision])
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

    @tf.function(jit_compile=xla)
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = loss_function(targets, model(inputs, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        gradients, _ = tf.clip_by_global_norm(gradients, 1.0)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    return lambda: float(step())


def pytorch_step(
    ids: np.ndarray, labels: np.ndarray, precision: str, xla: bool
) -> Callable[[], float]:
    """PyTorch's BertForSequenceClassification, of transformers, with the fused AdamW."""
    import torch
    import transformers

    torch.set_num_threads(os.cpu_count() or 1)
    config = transformers.BertConfig(hidden_act="gelu_pytorch_tanh", num_labels=2)
    step = make_step(transformers.BertForSequenceClassification(config), 5e-5, 1000, precision)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": labels}
    batch = {name: torch.tensor(values).long() for name, values in inputs.items()}
    return lambda: float(step(batch).item())


CONTENDERS = {
    "bert_tf": bert_tf_step,
    "keras_hub": keras_hub_step,
    "model_garden": model_garden_step,
    "pytorch": pytorch_step,
}


def product(device: str, precision: str) -> Callable[[], float]:
    """One product of the device's MATRICES in TensorFlow; returns a value of it."""
    import tensorflow as tf

    m, k, n = MATRICES[device]
    random = np.random.default_rng(0)
    a, b = (tf.constant(random.normal(size=shape), precision) for shape in ((m, k), (k, n)))
    multiply = tf.function(lambda: tf.matmul(a, b))
    return lambda: float(multiply()[0, 0])


def median_seconds(call: Callable[[], object], times: int) -> float:
    """Of one call."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def kernel_shares(step: Callable[[], float]) -> dict[str, float]:
    """Kind of operation -> its share of the time that all kernels of a step take."""
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    with tempfile.TemporaryDirectory() as folder:
        options = tf.profiler.experimental.ProfilerOptions(
            host_tracer_level=2, python_tracer_level=0
        )
        with tf.profiler.experimental.Profile(folder, options):
            step()
        [path] = pathlib.Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(path.read_bytes())
    taken: collections.Counter[str] = collections.Counter()
    for plane in space.planes:
        names = {number: found.name for number, found in plane.event_metadata.items()}
        for line in plane.lines:
            for event in line.events:
                # A kernel's event has the node's name and its kind, "bert/…:MatMul"; that of what
                # runs the graph has a double colon.
                node, _, kind = names[event.metadata_id].rpartition(":")
                if node and not node.endswith(":") and kind.lstrip("_")[:1].isupper():
                    taken[kind] += event.duration_ps
    return {kind: ps / taken.total() for kind, ps in taken.most_common()}


def report(lines: dict[str, list[str]], options: argparse.Namespace) -> None:
    """Prints the table, and what of the machine's rate a step reaches."""
    seconds = {name: [json.loads(line)["seconds"] for line in lines[name]] for name in CONTENDERS}
    unit = f"seconds per step of {options.batch_size} x {options.seq_length}, {options.precision}"
    unit += ", XLA" * options.xla
    shares = json.loads(lines["bert_tf"][-1])["shares"]
    print_report("train_step", seconds, unit, smaller_is_better=True, kernel_shares=shares)
    products = [json.loads(line)["seconds"] for line in lines["product"]]
    m, k, n = MATRICES[options.device]
    rate = 2.0 * m * k * n / statistics.median(products)
    print(f"the machine multiplies {m} x {k} and {k} x {n} at {rate / 1e9:.0f} GFLOP/s")
    for name, found in seconds.items():
        num_queries = 1 if name == "bert_tf" else options.seq_length
        flops = step_flops(options.batch_size, options.seq_length, num_queries)
        reached = flops / statistics.median(found)
        print(f"  {name:24} {reached / 1e9:8.0f} GFLOP/s in its step, {reached / rate:.0%} of that")
    if shares:
        most = [f"{kind} {share:.1%}" for kind, share in list(shares.items())[:12]]
        print(f"where bert_tf's step goes (of its kernels' time): {', '.join(most)}")
    note_on_mkl()


def main() -> None:
    """Parses the arguments and runs one contender, or all of them in turns."""
    parser = argparse.ArgumentParser(prog="tools/bench train_step", description=__doc__)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--seq_length", type=int, default=128)
    parser.add_argument("--precision", choices=POLICIES, default="float32")
    parser.add_argument("--xla", action="store_true", help="compile the step")
    add_device(parser)
    parser.add_argument("--steps", type=int, default=5, help="timed steps in each round")
    parser.add_argument("--rounds", type=int, default=3)
    names = [*CONTENDERS, "product"]
    parser.add_argument("--contender", choices=names, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender is None:
        choose_device(options.device)
        given = ("batch_size", "seq_length", "precision", "device", "steps")
        arguments = tuple(f"--{name}={getattr(options, name)}" for name in given)
        arguments += ("--xla",) * options.xla
        report(last_lines_in_turns(__file__, names, options.rounds, arguments), options)
        return
    if options.contender == "product":
        call, times = product(options.device, options.precision), 50
    else:
        inputs = batch(options.batch_size, options.seq_length)
        call = CONTENDERS[options.contender](*inputs, options.precision, options.xla)
        times = options.steps
    for _ in range(2):  # tracing, then warm caches
        call()
    found: dict[str, object] = {"seconds": median_seconds(call, times)}
    if options.contender == "bert_tf":
        # Within XLA's program, and on a GPU, kernels are not events of the host.
        on_host = options.device == "cpu" and not options.xla
        found["shares"] = kernel_shares(call) if on_host else None
    print(json.dumps(found))


if __name__ == "__main__":
    main()

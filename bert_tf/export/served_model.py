"""Takes functions of named tensors, returns a module that can be saved; next: the tasks' graphs.

What a task exports is a ServedModel: named functions and what goes with them. They become the
signatures of a SavedModel, with one more, ``examples``, made from the first: it takes the same
texts as serialized ``tf.train.Example``, and pairs beside single texts where PAIRS takes some.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from bert_tf import run_folder
from bert_tf.config import BertConfig
from bert_tf.modeling import BertModel
from bert_tf.tasks.feature_runner import Measure
from bert_tf.tokenization import Vocabulary

Tensors = dict[str, tf.Tensor]
Arrays = dict[str, np.ndarray]
# Takes inputs by name, returns outputs by name.
Run = Callable[[Arrays], Arrays]

DEFAULT = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
TOKENS = "tokens"
PAIRS = "pairs"
EXAMPLES = "examples"

EXTRA = "assets.extra"  # the folder of what a server does not read, but for the warm-up


class Signature(NamedTuple):
    """A function of a served model.

    Attributes:
        inputs: dtype and shape of each argument, the first axis being the batch.
        function: takes them by name, returns tensors by name.
    """

    inputs: Mapping[str, tf.TensorSpec]
    function: Callable[[Tensors], Tensors]


@dataclasses.dataclass(frozen=True)
class ServedModel:
    """What a task exports.

    Attributes:
        task: of those of Predictor.
        config: the model's architecture.
        vocabulary: its word pieces.
        signatures: by name; DEFAULT takes texts. The function of PAIRS also takes ``is_pair``,
            bool [B], which examples are pairs (default: all); the others' ``text_b`` is ``""``.
        sample: for some of them, what a request may hold: for each input one example's value. The
            requests that warm a server up are made of it, and what conversions are tried on.
        rows_of: takes the inputs of DEFAULT, returns those of TOKENS that show them.
        settings: what the functions were made with, as resolved, by the names of the flags that
            set it, if any does; the model card has them.
        files: what else travels with it, by name.
        measure_on: reads a file of labelled examples, returns what takes the computation of
            outputs of TOKENS' inputs and returns the task's metrics. None if the task has no such
            measure.
    """

    task: str
    config: BertConfig
    vocabulary: Vocabulary
    signatures: Mapping[str, Signature]
    sample: Mapping[str, Mapping[str, Any]]
    rows_of: Callable[[Tensors], Tensors]
    settings: Mapping[str, Any]
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    measure_on: Callable[[str], Callable[[Run], dict[str, float]]] | None = None


def versions(export_dir: pathlib.Path) -> dict[int, pathlib.Path]:
    """The folders of a model's versions by their numbers, as a server reads them."""
    named = export_dir.glob("[0-9]*")
    return {int(item.name): item for item in named if item.name.isdecimal()}


def texts(*names: str) -> dict[str, tf.TensorSpec]:
    """Inputs of one string for each example."""
    return {name: tf.TensorSpec([None], tf.string, name) for name in names}


def rows(*names: str, windows: bool = False) -> dict[str, tf.TensorSpec]:
    """Inputs int32 [B, S] (or [B, C, S]); without names, those of BertModel."""
    shape = [None] * (3 if windows else 2)
    names = names or ("input_ids", "input_mask", "segment_ids")
    return {name: tf.TensorSpec(shape, tf.int32, name) for name in names}


def longer(value: Any, times: int) -> Any:
    """A sample's value, a text or several, with each text so many times."""
    if isinstance(value, list):
        return [longer(part, times) for part in value]
    return " ".join([value] * times)


def measuring(
    measure_on: Callable[[str], Measure], part: Callable[[Arrays], np.ndarray]
) -> Callable[[str], Callable[[Run], dict[str, float]]]:
    """A served model's ``measure_on``.

    Args:
        measure_on: the task's, of its model.
        part: what the task measures by, of the outputs of TOKENS.
    """

    def on(dev_file: str) -> Callable[[Run], dict[str, float]]:
        measure = measure_on(dev_file)
        return lambda run: measure(lambda inputs: part(run(inputs)))

    return on


def label_file(labels: Sequence[str]) -> dict[str, str]:
    """The file of a model's labels, if it has any."""
    return {run_folder.LABELS: "".join(f"{label}\n" for label in labels)} if labels else {}


def merge_projections(model: Any) -> None:
    """Makes a model's forward pass cheaper; it cannot be trained after that."""
    for layer in (model, *model.layers):
        if isinstance(layer, BertModel):
            layer.merge_projections()


def saveable(
    signatures: Mapping[str, Signature], batch_size: int | None
) -> tuple[tf.Module, dict[str, Any]]:
    """Traces a model's functions.

    Args:
        signatures: by name.
        batch_size: of every request; None for any.

    Returns:
        A module that holds the weights that the functions use, each once, and nothing else, and
        the traced functions by name. What a session loads (as TF Serving does) must be variables
        of such a module: Keras's own are not found there.
    """
    traced = {name: trace(signature, batch_size) for name, signature in signatures.items()}
    module = tf.Module(name="served_model")
    weights = {id(v): v for function in traced.values() for v in function.variables}
    module.weights = list(weights.values())
    return module, traced


def trace(signature: Signature, batch_size: int | None) -> Any:
    """A signature's function as a graph, for any batch size or for one."""
    specs = {
        name: tf.TensorSpec([batch_size, *spec.shape[1:]], spec.dtype, name)
        for name, spec in signature.inputs.items()
    }

    def function(**inputs: tf.Tensor) -> Tensors:
        return signature.function(inputs)

    return tf.function(function, autograph=False).get_concrete_function(**specs)


def of_examples(signature: Signature) -> Signature:
    """The same on serialized ``tf.train.Example`` that have its inputs as features.

    Each must have those that are one text; a list that is missing is empty.
    """
    features = {
        name: tf.io.FixedLenFeature([], spec.dtype)
        if spec.shape.rank == 1
        else tf.io.FixedLenSequenceFeature([], spec.dtype, allow_missing=True)
        for name, spec in signature.inputs.items()
    }

    def function(inputs: Tensors) -> Tensors:
        return signature.function(tf.io.parse_example(inputs[EXAMPLES], features))

    return Signature(texts(EXAMPLES), function)


def pairs_and_examples(pairs: Signature, batch_size: int | None) -> tuple[Signature, Signature]:
    """PAIRS, and the same on serialized ``tf.train.Example`` of which ``text_b`` may be missing.

    One without it is a single text; one with ``""`` is a pair, as it is for PAIRS.

    Args:
        pairs: whose function is traced, once for both.
        batch_size: of every request; None for any.
    """
    is_pair = {"is_pair": tf.TensorSpec([None], tf.bool, "is_pair")}
    mixed = trace(Signature({**pairs.inputs, **is_pair}, pairs.function), batch_size)
    features = {
        "text": tf.io.FixedLenFeature([], tf.string),
        "text_b": tf.io.RaggedFeature(tf.string),
    }

    def of_pairs(inputs: Tensors) -> Tensors:
        return dict(mixed(**inputs, is_pair=tf.ones_like(inputs["text"], tf.bool)))

    def of_serialized(inputs: Tensors) -> Tensors:
        parsed = tf.io.parse_example(inputs[EXAMPLES], features)
        counts = parsed["text_b"].row_lengths()
        tf.debugging.assert_less_equal(counts, tf.ones_like(counts), "text_b: more than one value")
        second = parsed["text_b"].to_tensor("", shape=[None, 1])[:, 0]
        second = tf.ensure_shape(second, parsed["text"].shape)
        return dict(mixed(text=parsed["text"], text_b=second, is_pair=counts > 0))

    return Signature(pairs.inputs, of_pairs), Signature(texts(EXAMPLES), of_serialized)

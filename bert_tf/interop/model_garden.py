"""Takes a model of TensorFlow Model Garden, returns it in the original's terms; next: conversion.

Model Garden (tf-models-official) keeps BERT in object-based checkpoints: a graph of objects, whose
edges are the attributes of its BertEncoder, and the tensors at its leaves under names that depend
on how the graph was walked. So weights are found along the edges here, not by their names. The
reverse way needs no object of Model Garden's either, only the same edges.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

from bert_tf.checkpoint import DATA_SUFFIX, OBJECT_GRAPH, READ_ERRORS, CheckpointError
from bert_tf.config import BertConfig, lower_case_of
from bert_tf.errors import InputError, listed
from bert_tf.interop.json_file import read_json
from bert_tf.interop.keras_shapes import from_keras, keras_shape, to_keras
from bert_tf.interop.original_model import (
    OriginalModel,
    Tokenizer,
    counted,
    differences,
    find_prefix,
    refuse,
    shapes_of,
    surplus_layers,
    weights_of,
    write_vocabulary,
)
from bert_tf.interop.weights import Names, expand
from bert_tf.run_folder import BERT_CONFIG, CHECKPOINT, VOCAB, read_run_config, write_text
from bert_tf.tokenization import Vocabulary

# The attributes of official.nlp.modeling: networks.BertEncoder and BertEncoderV2 have the same.
_LAYER = "encoder/_transformer_layers/{layer}"
_ATTENTION = f"{_LAYER}/_attention_layer"
_NEXT_SENTENCE = "model/classification_heads/0"
NAMES = Names(
    {
        "bert/embeddings/LayerNorm": "encoder/_embedding_norm_layer",
        "bert/encoder/layer_{layer}/attention/self/query": f"{_ATTENTION}/_query_dense",
        "bert/encoder/layer_{layer}/attention/self/key": f"{_ATTENTION}/_key_dense",
        "bert/encoder/layer_{layer}/attention/self/value": f"{_ATTENTION}/_value_dense",
        "bert/encoder/layer_{layer}/attention/output/dense": (f"{_ATTENTION}/_output_dense"),
        "bert/encoder/layer_{layer}/attention/output/LayerNorm": f"{_LAYER}/_attention_layer_norm",
        "bert/encoder/layer_{layer}/intermediate/dense": f"{_LAYER}/_intermediate_dense",
        "bert/encoder/layer_{layer}/output/dense": f"{_LAYER}/_output_dense",
        "bert/encoder/layer_{layer}/output/LayerNorm": f"{_LAYER}/_output_layer_norm",
        "bert/pooler/dense": "encoder/_pooler_layer",
        "cls/predictions/transform/dense": "masked_lm/dense",
        "cls/predictions/transform/LayerNorm": "masked_lm/layer_norm",
    },
    {word: word for word in ("kernel", "bias", "gamma", "beta")},
    "/",
    {
        "bert/embeddings/word_embeddings": "encoder/_embedding_layer/embeddings",
        "bert/embeddings/position_embeddings": (
            "encoder/_position_embedding_layer/_position_embeddings"
        ),
        "bert/embeddings/token_type_embeddings": "encoder/_type_embedding_layer/embeddings",
        "cls/predictions/output_bias": "masked_lm/bias",
        "cls/seq_relationship/output_weights": f"{_NEXT_SENTENCE}/out_proj/kernel",
        "cls/seq_relationship/output_bias": f"{_NEXT_SENTENCE}/out_proj/bias",
    },
)

_HEADS = ("masked_lm", "next_sentence")
_PARTS = ("embeddings", "layer", "pooler", *_HEADS)
# Its names of activations that are ours; its gelu is the tanh form.
ACTIVATIONS = ("gelu", "relu", "tanh", "linear")

# Edges to the same thing in checkpoints of different makings: Model Garden's converter (where it
# converts a pretraining model, the item "encoder" is all of that) and trainer, and a script that
# saves the encoder itself.
_ENCODERS = ("encoder", "encoder/encoder_network", "model/encoder_network", "model", "")
_MASKED_LMS = ("masked_lm", "model/masked_lm")
_POOLER_OF_HEAD = "next_sentence.pooler_dense"
_KEY_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_TRAINING_STATE = re.compile(r"^(optimizer|save_counter|global_step|train_loss)\b|OPTIMIZER_SLOT")

# A key of params.yaml -> ours.
_PARAMS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "hidden_activation": "hidden_act",
    "dropout_rate": "hidden_dropout_prob",
    "attention_dropout_rate": "attention_probs_dropout_prob",
    "max_position_embeddings": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
    "initializer_range": "initializer_range",
}


class ObjectGraph:
    """An object-based checkpoint.

    Args:
        prefix: the path without ``.index``.

    Attributes:
        path: the prefix.
        keys: of all its tensors.

    Raises:
        CheckpointError: if it cannot be read.
    """

    def __init__(self, prefix: str) -> None:
        self.path = prefix
        graph = trackable_object_graph_pb2.TrackableObjectGraph()
        try:
            self._reader = tf.train.load_checkpoint(prefix)
            self._shapes = self._reader.get_variable_to_shape_map()
            graph.ParseFromString(self._reader.get_tensor(OBJECT_GRAPH))
        except READ_ERRORS as error:
            raise self._damaged(error) from error
        self._edges = [
            {child.local_name: child.node_id for child in n.children} for n in graph.nodes
        ]
        self._values = [
            {value.name: value.checkpoint_key for value in node.attributes} for node in graph.nodes
        ]
        self.keys = sorted(set(self._shapes) - {OBJECT_GRAPH})

    def node(self, path: str) -> int | None:
        """The number of the object at the end of some edges, such as ``encoder/_pooler_layer``."""
        node: int | None = 0
        for edge in filter(None, path.split("/")):
            node = None if node is None else self._edges[node].get(edge)
        return node

    def edges(self, path: str) -> dict[str, int]:
        """The edges that begin there, and the numbers of the objects that they lead to."""
        node = self.node(path)
        return {} if node is None else self._edges[node]

    def key(self, path: str) -> str | None:
        """The key of the variable at the end of some edges."""
        node = self.node(path)
        return None if node is None else self._values[node].get("VARIABLE_VALUE")

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return tuple(self._shapes[key])

    def read(self, key: str) -> np.ndarray:
        """A tensor as float32.

        Raises:
            CheckpointError: if it cannot be read.
        """
        try:
            return np.asarray(self._reader.get_tensor(key), np.float32)
        except READ_ERRORS as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> CheckpointError:
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        return CheckpointError(
            f"{self.path}{DATA_SUFFIX}: cannot read it; the file is missing, cut short or damaged "
            f"({reason[0]}). Copy or download it again"
        )


def read_model_garden(source: pathlib.Path) -> OriginalModel:
    """Reads a folder of Model Garden's: bert_config.json or params.yaml, vocab.txt, a checkpoint.

    Raises:
        InputError: if a file is missing or damaged, a tensor is missing or misshapen, or the model
            is one that BertModel does not compute.
    """
    graph = ObjectGraph(find_prefix(source))
    config = _read_config(source)
    vocabulary = Vocabulary(source / VOCAB)
    places = _places(graph)

    def path(name: str) -> str:
        theirs = NAMES[name]
        start = next(start for start in places if theirs.startswith(start))
        return places[start] + theirs.removeprefix(start)

    keys = {
        weight.name: key
        for weight in expand(_PARTS, config.num_hidden_layers)
        if (key := graph.key(path(weight.name))) is not None
    }
    weights = weights_of(keys, ("embeddings", "layer", "pooler"), _HEADS, config)
    shapes = shapes_of(weights, config, 0)
    wanted = {path(name): keras_shape(name, shape, config) for name, shape in shapes.items()}
    wrong = differences(wanted, {path(name): graph.shape(key) for name, key in keys.items()})
    layers = graph.edges(path("bert/encoder/layer_0/output/dense/kernel").rsplit("/", 3)[0])
    wrong += surplus_layers(layers, r"(\d+)$", config)
    refuse(source, wrong)
    tensors = {
        name: from_keras(name, graph.read(keys[name]), shape) for name, shape in shapes.items()
    }
    pooler, remarks = _pooler_of_head(graph, tensors)
    used = {*keys.values(), *pooler.values()}
    left = [key for key in graph.keys if key not in used]
    training = [key for key in left if _TRAINING_STATE.search(key)]
    others = [key.removesuffix(_KEY_SUFFIX) for key in left if key not in training]
    return OriginalModel(
        source=source,
        found=f"a checkpoint of TensorFlow Model Garden ({pathlib.Path(graph.path).name})",
        config=config,
        tokenizer=Tokenizer(
            vocabulary.path, vocabulary.pieces, lower_case_of(source.resolve().name)
        ),
        tensors=tensors | {name: graph.read(key) for name, key in pooler.items()},
        remarks=(
            *remarks,
            *counted("of the training's tensors not used", training),
            *counted("tensors not used", others),
        ),
    )


def write_model_garden(model: OriginalModel, folder: pathlib.Path) -> list[str]:
    """Writes bert_config.json, vocab.txt and bert_model.ckpt.*, as its own converter does.

    Its BertEncoder and BertEncoderV2 read the item ``encoder``, its BertPretrainerV2 the items of
    ``checkpoint_items`` or ``model``; what its own classifier reads of a next-sentence head is
    there under its name.

    Args:
        model: what to write.
        folder: where.

    Returns:
        Remarks: what was not carried over, a line each.

    Raises:
        InputError: if it has no such activation, or the model has no pooler.
    """
    if model.config.hidden_act not in ACTIVATIONS:
        raise InputError(
            f"{model.source}: the activation is {model.config.hidden_act}, but Model Garden has "
            f"{', '.join(ACTIVATIONS)}; with --hidden_act=gelu it is written all the same, and "
            "the outputs differ a little"
        )
    model.require_pooler("Model Garden's BertEncoder")
    heads = [head for head in _HEADS if model.has(head)]
    if "masked_lm" not in heads:  # its pretraining model has both or the masked-LM head alone
        heads = []
    tree: dict[str, Any] = {}
    for name in model.names_of(("embeddings", "layer", "pooler", *heads)):
        _put(tree, NAMES[name], to_keras(name, model.tensors[name], model.config))
    root = {name: _object(value) for name, value in tree.items() if name != "model"}
    if heads:
        # The tied table is one variable of two objects.
        root["masked_lm"].embedding_table = root["encoder"]._embedding_layer.embeddings
        edges = {"encoder_network": root["encoder"], "masked_lm": root["masked_lm"]}
        if "next_sentence" in heads:
            head = _object(tree["model"]["classification_heads"]["0"])
            # Its head has a dense layer of its own, which is what the original's pooler is.
            head.dense = root[_POOLER_OF_HEAD] = _object(tree["encoder"]["_pooler_layer"])
            edges["classification_heads"] = tf.train.Checkpoint(**{"0": head})
        root["model"] = tf.train.Checkpoint(**edges)
    write_text(folder / BERT_CONFIG, model.config.to_json_string())
    write_vocabulary(model.tokenizer, folder / VOCAB)
    tf.train.Checkpoint(**root).write(str(folder / CHECKPOINT))
    remarks = model.not_carried([h for h in model.heads if h not in heads], "Model Garden")
    if model.labels:
        remarks.append(f"the labels' names have no place there: {listed(model.labels)}")
    return remarks


def _places(graph: ObjectGraph) -> dict[str, str]:
    """Where in the graph the names of `NAMES` begin.

    Raises:
        InputError: if there is no encoder.
    """
    encoder = next((path for path in _ENCODERS if "_embedding_layer" in graph.edges(path)), None)
    if encoder is None:
        raise InputError(
            f"{graph.path}: an object-based checkpoint, but not one of Model Garden's BertEncoder, "
            f"as nothing in it is called _embedding_layer; it has {listed(graph.keys)}"
        )
    masked_lm = next((path for path in _MASKED_LMS if graph.node(path) is not None), "masked_lm")
    heads = "model/classification_heads"
    dense = graph.node(_POOLER_OF_HEAD)
    numbers = [
        number
        for number in graph.edges(heads)
        if dense is not None and graph.node(f"{heads}/{number}/dense") == dense
    ]
    # Another head than that of the next sentence is none of the original's.
    next_sentence = f"{heads}/{numbers[0]}" if numbers else "model/no next-sentence head"
    return {"encoder": encoder, "masked_lm": masked_lm, _NEXT_SENTENCE: next_sentence}


def _pooler_of_head(
    graph: ObjectGraph, tensors: Mapping[str, np.ndarray]
) -> tuple[dict[str, str], list[str]]:
    """The dense layer of the next-sentence head, where it is to be the pooler.

    In Model Garden's pretraining the head has a dense layer of its own, and that of the encoder is
    not trained. The original has one layer for both.

    Returns:
        Name -> key of the weights to take instead of the encoder's, and remarks.
    """
    words = ("kernel", "bias")
    keys = {f"bert/pooler/dense/{word}": graph.key(f"{_POOLER_OF_HEAD}/{word}") for word in words}
    found = {name: key for name, key in keys.items() if key is not None}
    if len(found) < len(keys):
        return {}, []
    if all(np.array_equal(tensors[name], graph.read(key)) for name, key in found.items()):
        return found, []
    return found, [
        f"the pooler is {_POOLER_OF_HEAD}, with which its next-sentence head was trained; "
        "the encoder's own, which is another, is not used"
    ]


def _read_config(source: pathlib.Path) -> BertConfig:
    """What bert_config.json says, or else params.yaml.

    Raises:
        InputError: if there is neither, or the model is not one of the original's kind.
    """
    path = source / BERT_CONFIG
    if path.is_file():
        values = read_json(path)
        # Its BertConfig writes these, and the original's does not know them.
        values.pop("backward_compatible", None)
        width = values.pop("embedding_size", None)
        _require_one_width(path, width, values.get("hidden_size"))
        return BertConfig.from_dict(values, source=str(path))
    path = source / "params.yaml"
    if not path.is_file():
        raise InputError(
            f"{source}: has neither {BERT_CONFIG} nor params.yaml, which say what the model is like"
        )
    params = read_run_config(path)
    try:
        model = params["task"]["model"]
        kind = model["encoder"]["type"]
        values = dict(model["encoder"][kind])
        known = {ours: values[theirs] for theirs, ours in _PARAMS.items()}
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path}: expected task.model.encoder with a type, and the settings of an encoder of "
            f"that type, {', '.join(_PARAMS)}"
        ) from error
    activation = model.get("mlm_activation", known["hidden_act"])
    for what, value, wanted in (
        ("encoder.type", kind, ("bert", "bert_v2")),
        ("norm_first", values.get("norm_first"), (False, None)),
        ("output_range", values.get("output_range"), (None,)),
        ("mlm_activation", activation, (known["hidden_act"],)),
        ("hidden_activation", known["hidden_act"], ACTIVATIONS),
    ):
        if value not in wanted:
            raise InputError(
                f"{path}: {what} is {value!r}; a model of the original's kind has "
                f"{' or '.join(map(repr, wanted))} and cannot stand in for this one"
            )
    _require_one_width(path, values.get("embedding_size"), known["hidden_size"])
    return BertConfig.from_dict(known, source=str(path))


def _require_one_width(path: pathlib.Path, embedding: Any, hidden: Any) -> None:
    if embedding not in (None, hidden):
        raise InputError(
            f"{path}: embedding_size is {embedding!r}, but hidden_size is {hidden!r}; in the "
            "original they are one"
        )


def _put(tree: dict[str, Any], path: str, value: np.ndarray) -> None:
    """Puts a value at the end of some edges."""
    *edges, last = path.split("/")
    for edge in edges:
        tree = tree.setdefault(edge, {})
    tree[last] = value


def _object(tree: Mapping[str, Any]) -> Any:
    """A tree of arrays as objects with variables, each edge an attribute."""
    return tf.train.Checkpoint(
        **{
            edge: _object(value) if isinstance(value, dict) else tf.Variable(value)
            for edge, value in tree.items()
        }
    )

"""Takes a preset of keras-hub, returns the model in the original's terms; next: conversion.

A preset is the folder that ``save_to_preset`` writes: config.json is the backbone, task.json the
model around it, if any. keras-hub itself reads and writes its weights here.
"""

import math
import os
import pathlib
import re
from collections.abc import Iterable
from typing import Any

import h5py
import numpy as np

from bert_tf.config import BertConfig
from bert_tf.errors import InputError, listed
from bert_tf.interop.json_file import Json, read_json
from bert_tf.interop.keras_shapes import from_keras, to_keras
from bert_tf.interop.original_model import (
    OriginalModel,
    Tokenizer,
    shapes_of,
)
from bert_tf.interop.weights import Names, expand
from bert_tf.output_file import reserve
from bert_tf.tokenization import Vocabulary

# The attributes of keras_hub.models: a task's own, and those of its backbone.
_LAYER = "backbone/transformer_layers/{layer}"
_ATTENTION = f"{_LAYER}/_self_attention_layer"
NAMES = Names(
    {
        "bert/embeddings/LayerNorm": "backbone/embeddings_layer_norm",
        "bert/encoder/layer_{layer}/attention/self/query": f"{_ATTENTION}/query_dense",
        "bert/encoder/layer_{layer}/attention/self/key": f"{_ATTENTION}/key_dense",
        "bert/encoder/layer_{layer}/attention/self/value": f"{_ATTENTION}/value_dense",
        "bert/encoder/layer_{layer}/attention/output/dense": f"{_ATTENTION}/output_dense",
        "bert/encoder/layer_{layer}/attention/output/LayerNorm": (
            f"{_LAYER}/_self_attention_layer_norm"
        ),
        "bert/encoder/layer_{layer}/intermediate/dense": (
            f"{_LAYER}/_feedforward_intermediate_dense"
        ),
        "bert/encoder/layer_{layer}/output/dense": f"{_LAYER}/_feedforward_output_dense",
        "bert/encoder/layer_{layer}/output/LayerNorm": f"{_LAYER}/_feedforward_layer_norm",
        "bert/pooler/dense": "backbone/pooled_dense",
        "cls/predictions/transform/dense": "masked_lm_head/_intermediate_dense",
        "cls/predictions/transform/LayerNorm": "masked_lm_head/_intermediate_layer_norm",
    },
    {word: word for word in ("kernel", "bias", "gamma", "beta")},
    "/",
    {
        "bert/embeddings/word_embeddings": "backbone/token_embedding/embeddings",
        "bert/embeddings/position_embeddings": "backbone/position_embedding/position_embeddings",
        "bert/embeddings/token_type_embeddings": "backbone/segment_embedding/embeddings",
        "cls/predictions/output_bias": "masked_lm_head/_bias",
        "output_weights": "output_dense/kernel",
        "output_bias": "output_dense/bias",
    },
)
# A key of the backbone's configuration -> ours.
_CONFIG = {
    "vocabulary_size": "vocab_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "hidden_dim": "hidden_size",
    "intermediate_dim": "intermediate_size",
    "dropout": "hidden_dropout_prob",
    "max_sequence_length": "max_position_embeddings",
    "num_segments": "type_vocab_size",
}
# Its tasks that are known here -> the head that they have.
_TASKS = {"BertTextClassifier": "classifier", "BertMaskedLM": "masked_lm"}
_DTYPES = ("float32", "float16", "bfloat16", "mixed_float16", "mixed_bfloat16")
_VOCABULARY = pathlib.Path("assets", "tokenizer", "vocabulary.txt")
_SPECIAL_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

# More than what HDF5 has beside a variable's values.
_BYTES_PER_VARIABLE = 4096

# What BertMaskedLM computes otherwise than the original, and no preset can tell it not to.
_MASKED_LM = (
    "keras-hub's masked-LM head has the erf form of gelu and a LayerNorm epsilon of 1e-5 between "
    "encoder and logits, the original has the tanh form and 1e-12: the weights are the same, the "
    "masked-LM logits differ a little"
)


def read_keras_hub(source: pathlib.Path) -> OriginalModel:
    """Reads a preset of BertBackbone, BertTextClassifier or BertMaskedLM.

    Raises:
        InputError: if a file is missing or damaged, or the model is one that BertModel does not
            compute.
    """
    backbone = _object(source / "config.json", ("BertBackbone",))
    config = _read_config(source / "config.json", backbone)
    task_path = source / "task.json"
    task = _object(task_path, None) if task_path.is_file() else {}
    name = str(task.get("class_name", "BertBackbone"))
    if name in _TASKS and _sizes(task["config"].get("backbone")) != _sizes(backbone):
        raise InputError(
            f"{task_path}: its backbone is of other sizes than that of config.json; take the two "
            "files from one preset"
        )
    remarks = []
    task_type = None
    if name == "BertTextClassifier" and task["config"].get("activation") not in (None, "linear"):
        activation = task["config"]["activation"]
        if activation != "softmax":
            raise InputError(
                f"{task_path}: activation is {activation!r}; the outputs of the original's "
                "classifier are logits, and 'linear' or 'softmax' is understood here"
            )
        remarks.append("the classifier's softmax is not part of the model here: it gives logits")
        task_type = "single_label"
    tokenizer, tokenizer_remarks = _read_tokenizer(source)
    remarks += tokenizer_remarks
    model = _load(source, name)
    parts = ["embeddings", "layer", "pooler"]
    if name in _TASKS:
        parts.append(_TASKS[name])
    elif task:
        remarks.append(f"of {name}, which the original has no counterpart of, the encoder alone")
    if name == "BertMaskedLM":
        remarks.append(_MASKED_LM)
    weights = expand(parts, config.num_hidden_layers)
    num_labels = model.num_classes if name == "BertTextClassifier" else 0
    shapes = shapes_of(weights, config, num_labels)
    return OriginalModel(
        source=source,
        found=f"a preset of keras-hub ({name})",
        config=config,
        tokenizer=tokenizer,
        tensors={
            name: from_keras(name, np.asarray(_variable(model, name), np.float32), shape)
            for name, shape in shapes.items()
        },
        use="texts" if num_labels else None,
        task_type=task_type,
        remarks=tuple(remarks),
    )


def write_keras_hub(model: OriginalModel, folder: pathlib.Path) -> list[str]:
    """Writes a preset, of BertTextClassifier or BertMaskedLM if the model has such a head.

    Args:
        model: what to write.
        folder: where.

    Returns:
        Remarks: what was not carried over, a line each.

    Raises:
        InputError: if keras-hub's BERT computes something else, or it is not known whether the
            model lower-cases.
    """
    config = model.config
    if config.hidden_act != "gelu":
        raise InputError(
            f"{model.source}: the activation is {config.hidden_act}, but keras-hub's BERT has the "
            "tanh form of gelu and no other; with --hidden_act=gelu it is written all the same, "
            "and the outputs differ a little"
        )
    model.require_pooler("keras-hub's BertBackbone")
    missing = [piece for piece in _SPECIAL_PIECES if piece not in model.tokenizer.pieces]
    if missing:
        raise InputError(
            f"{model.tokenizer.path}: has no piece {listed(missing)}, without which keras-hub's "
            "BertTokenizer does not work"
        )
    do_lower_case = model.do_lower_case
    is_classifier = model.has("classifier") and model.use in (None, "texts")
    head = "classifier" if is_classifier else "masked_lm" if model.has("masked_lm") else None

    keras_hub = _import()
    tokenizer = keras_hub.models.BertTokenizer(
        model.tokenizer.pieces,
        lowercase=do_lower_case,
        strip_accents=do_lower_case,  # the original does both or neither
    )
    backbone = keras_hub.models.BertBackbone(
        **{theirs: getattr(config, ours) for theirs, ours in _CONFIG.items()}, dtype="float32"
    )
    arguments = {"sequence_length": config.max_position_embeddings}
    if head == "classifier":
        task = keras_hub.models.BertTextClassifier(
            backbone,
            num_classes=model.num_labels,
            dropout=config.hidden_dropout_prob,
            preprocessor=keras_hub.models.BertTextClassifierPreprocessor(tokenizer, **arguments),
        )
    elif head == "masked_lm":
        task = keras_hub.models.BertMaskedLM(
            backbone,
            preprocessor=keras_hub.models.BertMaskedLMPreprocessor(tokenizer, **arguments),
        )
    else:
        task = None
    parts = ["embeddings", "layer", "pooler", *([head] if head else [])]
    for name in model.names_of(parts):
        _variable(task or backbone, name).assign(to_keras(name, model.tensors[name], config))
    _require_room(folder, (task or backbone).weights)
    (task or backbone).save_to_preset(os.fspath(folder))
    if task is None:
        tokenizer.save_to_preset(os.fspath(folder))

    remarks = []
    for key, kept in (
        ("attention_probs_dropout_prob", config.hidden_dropout_prob),
        ("initializer_range", 0.02),
    ):
        if getattr(config, key) != kept:
            remarks.append(f"{key} is {kept} there, not {getattr(config, key)}; it is for training")
    remarks += model.not_carried([other for other in model.heads if other != head], "keras-hub")
    if head == "masked_lm":
        remarks.append(_MASKED_LM)
    if head == "classifier" and model.use is None:
        remarks.append("nothing says what the classifier labels; taken for one of texts")
    if model.labels:
        remarks.append(f"the labels' names have no place there: {listed(model.labels)}")
    return remarks + model.unsaid("task_type", "pairs")


def _require_room(folder: pathlib.Path, variables: Iterable[Any]) -> None:
    """Checks that files of some variables can be written: on a full disk HDF5 ends the process.

    Args:
        folder: where.
        variables: float32, of any shape.

    Raises:
        OSError: if they cannot.
    """
    size = sum(4 * math.prod(variable.shape) + _BYTES_PER_VARIABLE for variable in variables)
    path = folder / "room"
    with path.open("wb") as file:
        reserve(file, size)
    path.unlink()


def _import() -> Any:
    import keras_hub  # takes seconds

    return keras_hub


def _object(path: pathlib.Path, classes: tuple[str, ...] | None) -> Json:
    """A serialized object of keras-hub's own, of one of some classes."""
    values = read_json(path)
    name, module = values.get("class_name"), str(values.get("module", ""))
    registered = values.get("registered_name")
    if (
        not isinstance(values.get("config"), dict)
        or not module.startswith(("keras_hub.", "keras_nlp."))
        or registered not in (None, name, f"keras_hub>{name}", f"keras_nlp>{name}")
        or (classes and name not in classes)
    ):
        raise InputError(
            f"{path}: is of the class {module}.{name}; expected {' or '.join(classes or _TASKS)} "
            "of keras-hub, and only that can be read here"
        )
    return values


def _read_config(path: pathlib.Path, backbone: Json) -> BertConfig:
    values = backbone["config"]
    dtype = values.get("dtype")
    kind = dtype.get("config", {}).get("name") if isinstance(dtype, dict) else dtype
    if kind not in (None, *_DTYPES) or (
        isinstance(dtype, dict) and dtype.get("class_name") not in ("DTypePolicy", "Policy")
    ):
        raise InputError(
            f"{path}: dtype is {dtype!r}; only {', '.join(_DTYPES)} can be read here, no "
            "quantized weights"
        )
    missing = [key for key in _CONFIG if key not in values]
    if missing:
        raise InputError(f"{path}: the key {missing[0]!r} of config is missing")
    known = {ours: values[theirs] for theirs, ours in _CONFIG.items()}
    return BertConfig.from_dict(
        {
            **known,
            "hidden_act": "gelu",  # in keras_hub's bert_backbone.py the tanh form, always
            "attention_probs_dropout_prob": known["hidden_dropout_prob"],
        },
        source=str(path),
    )


def _sizes(backbone: Any) -> list[Any]:
    values = backbone.get("config") if isinstance(backbone, dict) else None
    return [values.get(key) if isinstance(values, dict) else None for key in _CONFIG]


def _read_tokenizer(source: pathlib.Path) -> tuple[Tokenizer, list[str]]:
    """The word pieces, and remarks on how text is split otherwise than by the original."""
    path = source / "tokenizer.json"
    settings = _object(path, ("BertTokenizer",))["config"]
    lower_case = settings.get("lowercase", False)
    for key, wanted in (
        ("lowercase", bool(lower_case)),
        ("split", True),
        ("split_on_cjk", True),
        ("suffix_indicator", "##"),
        ("oov_token", "[UNK]"),
    ):
        if settings.get(key, wanted) != wanted:
            raise InputError(
                f"{path}: {key} is {settings[key]!r}; the original's tokenizer can only do as with "
                f"{wanted!r}, so the model would get other word pieces"
            )
    remarks = []
    if settings.get("strip_accents", False) != lower_case:
        # So it is in keras-hub's own presets of Google's releases, which were trained without
        # accents, so it is no reason to refuse them.
        remarks.append(
            f"keras-hub's tokenizer has lowercase={lower_case} and strip_accents="
            f"{not lower_case}; the original's strips accents where it lower-cases and not "
            "otherwise, so words with accents become other pieces"
        )
    vocabulary = Vocabulary(source / _VOCABULARY)
    return Tokenizer(vocabulary.path, vocabulary.pieces, lower_case), remarks


def _load(source: pathlib.Path, name: str) -> Any:
    """The preset as keras-hub reads it, in float32: a task that is known here, or the backbone."""
    if name in _TASKS and not (source / "task.weights.h5").is_file():
        # keras-hub would begin the head anew, without a word.
        raise InputError(
            f"{source}: task.json says {name}, but there is no task.weights.h5, which has its "
            "head; copy it there, or take task.json away to convert the encoder alone"
        )
    models = _import().models
    try:
        if name in _TASKS:
            model = getattr(models, name).from_preset(
                os.fspath(source), preprocessor=None, dtype="float32"
            )
        else:
            model = models.BertBackbone.from_preset(os.fspath(source), dtype="float32")
        found = sum(_count_weights(path) for path in source.glob("model*.weights.h5"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"{source}: keras-hub cannot read the preset: {reason[0]} Save it anew with "
            "save_to_preset, or copy it again"
        ) from error
    wanted = len(getattr(model, "backbone", model).weights)
    if found != wanted:  # keras-hub passes over layers that are too many
        raise InputError(
            f"{source}: the files of the backbone's weights have {found}, but a BertBackbone of "
            f"the sizes in config.json has {wanted}; take all files from one preset"
        )
    return model


def _count_weights(path: pathlib.Path) -> int:
    """How many weights a file of Keras's has, without the state of an optimizer or of dropout."""
    names: list[str] = []
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
        )
    return sum(not re.search(r"^optimizer\b|seed_generator", name) for name in names)


def _variable(model: Any, name: str) -> Any:
    """The variable of a task or backbone that holds a weight of the original."""
    at = model
    for edge in NAMES[name].split("/"):
        if edge == "backbone" and not hasattr(at, "backbone"):
            continue  # it is the backbone
        at = at[int(edge)] if isinstance(at, list) else getattr(at, edge)
    return at

"""Takes a Hugging Face BERT folder, returns the model in the original's terms; next: conversion.

A folder is read only if the result computes what the source computes, from text to logits.
"""

import pathlib
import re
from collections.abc import Sequence

import numpy as np

from bert_tf.interop.huggingface_folder import ModelConfig, Tensors, read_tokenizer
from bert_tf.interop.huggingface_names import NAMES, TIED, is_transposed
from bert_tf.interop.original_model import (
    OriginalModel,
    counted,
    differences,
    refuse,
    shapes_of,
    surplus_layers,
    weights_of,
)
from bert_tf.interop.weights import HEADS, PARTS
from bert_tf.tag_schemes import OUTSIDE

# Classes of transformers that have no pooler; any other must bring its weights.
WITHOUT_POOLER = (
    "BertForMaskedLM",
    "BertForQuestionAnswering",
    "BertForTokenClassification",
    "BertLMHeadModel",
)
# What the classes with a classifier label.
_USES = {
    "BertForSequenceClassification": "texts",
    "BertForTokenClassification": "tokens",
    "BertForMultipleChoice": "choices",
}


def read_huggingface(source: pathlib.Path) -> OriginalModel:
    """Reads a Hugging Face BERT folder.

    Args:
        source: has config.json, vocab.txt or tokenizer.json, and model.safetensors or its shards;
            float16 and bfloat16 weights become float32.

    Raises:
        InputError: if a file is missing or damaged, a tensor is missing or misshapen, or the model
            is one that BertModel does not compute.
    """
    model = ModelConfig(source)
    config = model.bert_config
    tokenizer = read_tokenizer(source)
    tensors = Tensors(source)
    there = [
        weight.name
        for part in ("pooler", *HEADS)
        for weight in PARTS[part]
        if NAMES[weight.name] in tensors
    ]
    always = ["embeddings", "layer"]
    optional = ["pooler", *HEADS]
    if model.architecture not in WITHOUT_POOLER:
        always.append(optional.pop(0))
    weights = weights_of(there, always, optional, config)
    num_labels = (*tensors.shapes.get("classifier.weight", ()), 0)[0]
    wanted = {
        NAMES[name]: shape[::-1] if is_transposed(name) else shape
        for name, shape in shapes_of(weights, config, num_labels).items()
    }
    wrong = differences(wanted, tensors.shapes)
    wrong += surplus_layers(tensors.shapes, r"bert\.encoder\.layer\.(\d+)\.", config)
    for copy, original in TIED.items():
        if copy in tensors and not np.array_equal(tensors.read(copy), tensors.read(original)):
            wrong.append(f"{copy} differs from {original}; in the original they are one")
    refuse(source, wrong)
    values = {weight.name: tensors.read(NAMES[weight.name]) for weight in weights}
    pooler = [weight.name for weight in PARTS["pooler"] if weight.name not in values]
    labels = model.labels(num_labels)
    use = _USES.get(model.architecture or "")
    others = _other_tags(labels) if use == "tokens" else []
    return OriginalModel(
        source=source,
        found=f"a Hugging Face folder ({model.architecture or 'its class is not named'})",
        config=config,
        tokenizer=tokenizer,
        tensors={name: v.T if is_transposed(name) else v for name, v in values.items()},
        labels=labels,
        use=use,
        task_type=model.task_type(),
        tag_scheme="none" if others else None,
        remarks=(
            *counted(
                "labels that IOB2 does not have, so words get all of them as they are, and no "
                "entities are made of them",
                others,
            ),
            *counted("weights that the source's architecture does not have", pooler),
            *counted("tensors not used", tensors.names_other_than([*wanted, *TIED])),
            *counted(
                "added pieces that transformers finds in a text, and the original's tokenizer does "
                "not",
                tokenizer.added,
            ),
            *counted("keys of config.json not carried over", model.unused_keys),
        ),
    )


def _other_tags(labels: Sequence[str]) -> list[str]:
    """If labels are tags of entities, those that IOB2 does not have, or not among the others.

    Those of IOB1 and BIOES are such: without a `B-` of its type, an `I-` can never come in IOB2.
    """
    if not any(re.match("[BIESLUM]-.", label) for label in labels):
        return []
    return [
        label
        for label in labels
        if label != OUTSIDE
        and not label.startswith("B-")
        and not (label.startswith("I-") and f"B{label[1:]}" in labels)
    ]

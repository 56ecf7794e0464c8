"""Takes a model in the original's terms, returns a Hugging Face folder; next: conversion."""

import pathlib
import shutil

import numpy as np
import safetensors.numpy

from bert_tf.interop.huggingface_names import ACTIVATIONS, NAMES, PROBLEM_TYPES, is_transposed
from bert_tf.interop.original_model import OriginalModel, counted, write_vocabulary
from bert_tf.run_folder import VOCAB, write_json

# What the classifier labels -> the class of transformers.
_CLASSIFIERS = {
    "texts": "BertForSequenceClassification",
    "tokens": "BertForTokenClassification",
    "choices": "BertForMultipleChoice",
}
# A class of transformers -> what it has beside embeddings and layers; the first that has all of a
# model's heads is the model's, or else the first that has its classifier or its span.
_CLASSES = {
    "BertModel": ("pooler",),
    "BertForSequenceClassification": ("pooler", "classifier"),
    "BertForTokenClassification": ("classifier",),
    "BertForMultipleChoice": ("pooler", "classifier"),
    "BertForQuestionAnswering": ("span",),
    "BertForMaskedLM": ("masked_lm",),
    "BertForNextSentencePrediction": ("pooler", "next_sentence"),
    "BertForPreTraining": ("pooler", "masked_lm", "next_sentence"),
}


def write_huggingface(model: OriginalModel, folder: pathlib.Path) -> list[str]:
    """Writes config.json, vocab.txt, tokenizer_config.json and model.safetensors.

    All of the model's weights are written, those too that the class named in config.json does not
    use, so nothing is lost on the way back.

    Args:
        model: what to write.
        folder: where.

    Returns:
        Remarks: what the class does not use, or was not known, a line each.

    Raises:
        InputError: if it is not known whether the model lower-cases.
    """
    do_lower_case = model.do_lower_case
    architecture, remarks = _class_of(model)
    write_json(folder / "config.json", _config(model, architecture))
    write_vocabulary(model.tokenizer, folder / VOCAB)
    write_json(
        folder / "tokenizer_config.json",
        {
            "do_lower_case": do_lower_case,
            "model_max_length": model.config.max_position_embeddings,
            "strip_accents": None,  # as do_lower_case has it
            "tokenize_chinese_chars": True,
            "tokenizer_class": "BertTokenizer",
        },
    )
    tensors = {
        # As transformers writes the encoder alone.
        NAMES[name].removeprefix("bert." if architecture == "BertModel" else ""):
        # A view would be written in its memory's order.
        np.ascontiguousarray(value.T if is_transposed(name) else value)
        for name, value in model.tensors.items()
    }
    # transformers refuses a file that does not say for which library it is.
    weights = folder / "model.safetensors"
    safetensors.numpy.save_file(tensors, weights, metadata={"format": "pt"})
    shutil.copymode(folder / "config.json", weights)  # it is written for its owner's eyes alone
    return remarks + model.unsaid("pairs", "tag_scheme", "version_2_with_negative")


def _class_of(model: OriginalModel) -> tuple[str, list[str]]:
    """The class of transformers that has the model's heads, and remarks on what it leaves out."""
    remarks = []
    if model.has("classifier"):
        use = model.use
        if use is None:
            # The original's only classifier is that of texts, on the pooler's output.
            use = "texts" if model.has("pooler") else "tokens"
            remarks.append(f"nothing says what the classifier labels; taken for one of {use}")
        architecture = _CLASSIFIERS[use]
    elif model.has("span"):
        architecture = "BertForQuestionAnswering"
    else:
        heads = set(model.heads)
        architecture = next(name for name, parts in _CLASSES.items() if heads <= {*parts})
    if "pooler" in _CLASSES[architecture]:
        model.require_pooler(architecture)
    unused = [part for part in ("pooler", *model.heads) if part not in _CLASSES[architecture]]
    names = [name for name in model.names_of(unused) if name in model.tensors]
    remarks += counted(f"weights in the file that {architecture} does not use", names)
    return architecture, remarks


def _config(model: OriginalModel, architecture: str) -> dict[str, object]:
    config = {
        **model.config.to_dict(),
        "architectures": [architecture],
        "model_type": "bert",
        "hidden_act": next(
            theirs for theirs, ours in ACTIVATIONS.items() if ours == model.config.hidden_act
        ),
        "layer_norm_eps": 1e-12,
        "position_embedding_type": "absolute",
    }
    if "[PAD]" in model.tokenizer.pieces:
        config["pad_token_id"] = model.tokenizer.pieces.index("[PAD]")
    if architecture == "BertForSequenceClassification" and model.task_type is not None:
        config["problem_type"] = PROBLEM_TYPES[model.task_type]
    if model.num_labels:
        labels = model.labels or [f"LABEL_{i}" for i in range(model.num_labels)]
        config["id2label"] = {str(i): label for i, label in enumerate(labels)}
        config["label2id"] = {label: i for i, label in enumerate(labels)}
    return dict(sorted(config.items()))

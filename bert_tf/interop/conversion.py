"""Takes a folder of weights, returns one of another library's format; next: default_checkpoint."""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from safetensors import SafetensorError

from bert_tf.checkpoint import is_object_based
from bert_tf.config import CHECKPOINT_FORMATS, BertConfig, lower_case_of
from bert_tf.errors import InputError, reason
from bert_tf.interop.huggingface import read_huggingface
from bert_tf.interop.huggingface_export import write_huggingface
from bert_tf.interop.json_file import read_json
from bert_tf.interop.keras_hub import read_keras_hub, write_keras_hub
from bert_tf.interop.model_garden import read_model_garden, write_model_garden
from bert_tf.interop.original_model import (
    OriginalModel,
    copy_original,
    find_prefix,
    read_original,
    write_original,
)
from bert_tf.output_file import whole_folder
from bert_tf.run_folder import BERT_CONFIG, CHECKPOINT

Path = str | os.PathLike[str]

_READERS: dict[str, Callable[[pathlib.Path], OriginalModel]] = {
    "original": read_original,
    "huggingface": read_huggingface,
    "keras_hub": read_keras_hub,
    "model_garden": read_model_garden,
}
_WRITERS: dict[str, Callable[[OriginalModel, pathlib.Path], list[str]]] = {
    "original": write_original,
    "huggingface": write_huggingface,
    "keras_hub": write_keras_hub,
    "model_garden": write_model_garden,
}
# The formats that have no place for the casing; the name of the folder may tell it.
_WITHOUT_CASING = ("original", "model_garden")
# What the caller may say of a model -> what the model has a head of then.
_SAID_OF = {
    "task_type": "texts",
    "pairs": "texts",
    "tag_scheme": "tokens",
    "version_2_with_negative": "questions",
}


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What a folder became.

    Attributes:
        model: the source, in the original's terms.
        target: the folder that was made.
        to_format: its format, of CHECKPOINT_FORMATS.
        config: as written; its ``hidden_act`` is another than the source's only if the caller
            asked for it.
        remarks: what was not carried over, a line each.
    """

    model: OriginalModel
    target: pathlib.Path
    to_format: str
    config: BertConfig
    remarks: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            f"{self.model.source}: found {self.model.found}",
            f"{self.target}: converted to the format {self.to_format}, "
            f"{self.config.num_hidden_layers} layers of width {self.config.hidden_size}, heads: "
            f"{', '.join(self.model.heads) or 'none'}",
        ]
        given, lower_case = self.model.config.hidden_act, self.model.tokenizer.do_lower_case
        if self.config.hidden_act != given:
            lines.append(
                f"  hidden_act is {self.config.hidden_act}, as asked for; the source has {given}, "
                "so the outputs differ a little from the source's"
            )
        if self.to_format in _WITHOUT_CASING and lower_case_of(self.target.resolve().name) is None:
            if lower_case is None:
                lines.append(
                    "  the source does not say whether to lower-case: give --do_lower_case"
                )
            else:
                lines.append(f"  use it with --do_lower_case={str(lower_case).lower()}")
        return "\n".join([*lines, *(f"  {remark}" for remark in self.remarks)])


def convert(
    source: Path,
    target: Path,
    to_format: str = "original",
    *,
    hidden_act: str | None = None,
    do_lower_case: bool | None = None,
    task_type: str | None = None,
    pairs: bool | None = None,
    tag_scheme: str | None = None,
    version_2_with_negative: bool | None = None,
) -> Conversion:
    """Converts a folder of weights, whole or not at all.

    Args:
        source: a folder of any of CHECKPOINT_FORMATS; which one is seen from its files.
        target: the folder to make. It may exist if it is empty.
        to_format: of CHECKPOINT_FORMATS, another than the source's unless ``hidden_act`` is.
        hidden_act: an activation of BertConfig to write instead of the source's, such as ``gelu``,
            the one that the original code has.
        do_lower_case: whether the model lower-cases, where the source does not say.
        task_type: of a classifier of texts, where the source does not say: ``single_label``,
            ``multi_label`` or ``regression``.
        pairs: whether a classifier of texts takes pairs, where the source does not say.
        tag_scheme: of a tagger of entities: ``iob2``, or ``none`` for words to get their labels as
            they are, whatever the ones before.
        version_2_with_negative: whether a model that answers questions may find no answer, where
            the source does not say.

    Returns:
        What was converted and what was not.

    Raises:
        InputError: if a file is missing or damaged, a tensor is missing or misshapen, the format
            cannot hold the model, or the target is not empty or cannot be written.
    """
    source, target = pathlib.Path(source), pathlib.Path(target)
    _require_new(target)
    if to_format not in CHECKPOINT_FORMATS:
        raise InputError(
            f"--to_format must be one of {', '.join(CHECKPOINT_FORMATS)}, but is {to_format!r}"
        )
    from_format = recognise(source)
    if from_format == to_format and hidden_act is None:
        others = [name for name in CHECKPOINT_FORMATS if name != from_format]
        raise InputError(
            f"{source}: is of the format {from_format} already; give --to_format, one of "
            f"{', '.join(others)}"
        )
    model = _READERS[from_format](source)
    if from_format == to_format and hidden_act == model.config.hidden_act:
        raise InputError(
            f"{source}: is of the format {from_format} already, with the hidden_act {hidden_act}; "
            "there is nothing to convert"
        )
    is_copy = from_format == to_format == "original"
    if model.own and not is_copy:
        raise InputError(
            f"{source}: has {model.own}, which no other format has, and without it the model "
            "predicts something else; convert one that was trained without"
        )
    write = copy_original if is_copy else _WRITERS[to_format]
    model = _with_casing(model, do_lower_case)
    for name, given in (
        ("task_type", task_type),
        ("pairs", pairs),
        ("tag_scheme", tag_scheme),
        ("version_2_with_negative", version_2_with_negative),
    ):
        if given is not None:
            model = _with_said(model, name, given)
    _check_outputs(model)
    _check_vocabulary(model)
    if to_format in _WITHOUT_CASING:
        _check_name(model, target)
    config = dataclasses.replace(model.config, hidden_act=hidden_act or model.config.hidden_act)
    remarks = [] if is_copy else [*model.remarks]
    with whole_folder(target) as folder:
        try:
            remarks += write(dataclasses.replace(model, config=config), folder)
        except (tf.errors.OpError, SafetensorError) as error:  # their words for a full disk
            raise InputError(f"{target}: cannot write it: {reason(error)}") from error
    return Conversion(model, target, to_format, config, tuple(remarks))


def recognise(source: pathlib.Path) -> str:
    """The format of a folder, by its files.

    Returns:
        One of CHECKPOINT_FORMATS.

    Raises:
        InputError: if it has the files of none of them, or of several.
    """
    if not source.is_dir():
        raise InputError(f"{source}: there is no such folder; --from takes a folder of weights")
    found = []
    if (source / "config.json").is_file():
        found.append("keras_hub" if _is_keras(source / "config.json") else "huggingface")
    if any(source.glob("*.index")):
        found.append("model_garden" if is_object_based(find_prefix(source)) else "original")
    if not found:
        raise InputError(
            f"{source}: holds no weights that are known here. Expected {BERT_CONFIG}, vocab.txt "
            f"and {CHECKPOINT}.* (the original, Model Garden), or config.json, vocab.txt and "
            "model.safetensors (Hugging Face), or config.json, model.weights.h5 and assets/ "
            "(keras-hub)"
        )
    if len(found) > 1:
        raise InputError(
            f"{source}: holds weights of two formats, {' and '.join(found)}; copy those that are "
            "meant to a folder of their own"
        )
    return found[0]


def _is_keras(path: pathlib.Path) -> bool:
    """Whether a config.json is a serialized Keras object; a damaged one is left to its reader."""
    try:
        values = read_json(path)
    except InputError:
        return False
    return "class_name" in values and "config" in values


def _with_casing(model: OriginalModel, do_lower_case: bool | None) -> OriginalModel:
    if do_lower_case is None:
        return model
    _check_agreement(model, "do_lower_case", model.tokenizer.do_lower_case, do_lower_case)
    tokenizer = model.tokenizer._replace(do_lower_case=do_lower_case)
    return dataclasses.replace(model, tokenizer=tokenizer)


def _with_said(model: OriginalModel, name: str, given: bool | str) -> OriginalModel:
    """The model with an attribute that the caller says, called as its flag.

    Raises:
        InputError: if the attribute is one of other models, or the source says something else.
    """
    use = _SAID_OF[name]
    if use == "questions":
        fits = model.has("span")
    else:
        fits = model.has("classifier") and model.use in (None, use)
    if not fits:
        raise InputError(
            f"--{name}: it is for a head of {use}, and {model.source} has none; leave it out"
        )
    _check_agreement(model, name, getattr(model, name), given)
    said: dict[str, Any] = {name: given}
    return dataclasses.replace(model, **said)


def _check_agreement(
    model: OriginalModel, flag: str, found: bool | str | None, given: bool | str
) -> None:
    if found not in (None, given):
        raise InputError(
            f"--{flag}={str(given).lower()} does not fit {model.source}, which says "
            f"{str(found).lower()}"
        )


def _check_outputs(model: OriginalModel) -> None:
    if model.task_type == "regression" and model.num_labels > 1:
        raise InputError(
            f"{model.source}: a regression has one output here, but the classifier has "
            f"{model.num_labels}"
        )


def _check_vocabulary(model: OriginalModel) -> None:
    if len(model.tokenizer.pieces) != model.config.vocab_size:
        raise InputError(
            f"{model.tokenizer.path}: has {len(model.tokenizer.pieces)} word pieces, but "
            f"vocab_size is {model.config.vocab_size} in the configuration; use the vocabulary "
            "that the model was trained with"
        )


def _check_name(model: OriginalModel, target: pathlib.Path) -> None:
    """Compares the casing with what the target's name stands for."""
    named, lower_case = lower_case_of(target.resolve().name), model.tokenizer.do_lower_case
    if None not in (named, lower_case) and named != lower_case:
        raise InputError(
            f"{target}: a folder of this name stands for do_lower_case={str(named).lower()}, but "
            f"the source's tokenizer has {str(lower_case).lower()}; give another name"
        )


def _require_new(target: pathlib.Path) -> None:
    try:
        new = not target.exists() or (target.is_dir() and not any(target.iterdir()))
    except OSError as error:
        raise InputError(f"{target}: cannot write there: {error.strerror}") from error
    if not new:
        raise InputError(f"{target}: exists and is not an empty folder; give a new one")

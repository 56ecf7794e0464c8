"""Takes a Hugging Face folder, returns its settings, pieces and tensors; next: huggingface.

What this project has no counterpart for, and what would change the outputs, is refused here.
"""

import dataclasses
import pathlib
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from bert_tf.config import UNUSED_KEYS, BertConfig
from bert_tf.errors import InputError
from bert_tf.interop.huggingface_names import ACTIVATIONS, PROBLEM_TYPES, TIED
from bert_tf.interop.json_file import Json, read_json
from bert_tf.interop.original_model import Tokenizer
from bert_tf.run_folder import LABELS, VOCAB
from bert_tf.tokenization import Vocabulary

# Keys of config.json that change what a model computes, with the one value that is understood.
_ONE_VALUE: Json = {
    "model_type": "bert",
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "pruned_heads": {},
    "quantization_config": None,
    "auto_map": None,  # the model is Python code of the folder's own
}
# Keys that say nothing about what a BERT computes.
_WITHOUT_EFFECT = (
    "_name_or_path",
    "architectures",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "label2id",
    "num_labels",
    "pad_token_id",
    "problem_type",  # see ModelConfig.task_type
    "tie_word_embeddings",  # what is tied is compared
    "torch_dtype",
    "transformers_version",
    "use_cache",
)
# These have the same default in BertConfig as in transformers, and no effect on the outputs.
_OPTIONAL = ("hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range")

# Classes whose word pieces are those of BERT; the last two take everything from tokenizer.json.
_TOKENIZERS = (
    "BertTokenizer",
    "DistilBertTokenizer",
    "ElectraTokenizer",
    "PreTrainedTokenizer",
    "TokenizersBackend",
)
_STEPS = {"normalizer": "BertNormalizer", "pre_tokenizer": "BertPreTokenizer", "model": "WordPiece"}


class ModelConfig:
    """The config.json of a folder.

    Args:
        source: the folder.

    Attributes:
        path: of the file.
        bert_config: what it says, in this project's terms.
        architecture: the class that wrote the folder, such as ``BertForMaskedLM``, if it says so.
        unused_keys: those with a value that was not carried over.
    """

    def __init__(self, source: pathlib.Path) -> None:
        self.path = source / "config.json"
        self._values = read_json(self.path)
        self.bert_config = self._read()
        architectures = self._values.get("architectures")
        if not isinstance(architectures, list):
            architectures = []
        self.architecture = str(architectures[0]) if architectures else None
        used = {*self.bert_config.to_dict(), *_ONE_VALUE, *_WITHOUT_EFFECT}
        self.unused_keys = tuple(
            key
            for key, value in sorted(self._values.items())
            if key not in used and value is not None and not key.startswith(UNUSED_KEYS)
        )

    def _read(self) -> BertConfig:
        values = self._values
        if "model_type" not in values:
            raise InputError(f"{self.path}: the key 'model_type' is missing; it must be 'bert'")
        for key, wanted in _ONE_VALUE.items():
            value = values.get(key)
            if value is not None and value != wanted:
                raise InputError(
                    f"{self.path}: {key} is {value!r}; a model of the original's kind has "
                    f"{'none' if wanted is None else repr(wanted)} and cannot stand in for this one"
                )
        names = [field.name for field in dataclasses.fields(BertConfig)]
        for name in names:
            if name not in values and name not in _OPTIONAL:
                raise InputError(f"{self.path}: the key {name!r} is missing")
        activation = values["hidden_act"]
        if not isinstance(activation, str) or activation not in ACTIVATIONS:
            raise InputError(
                f"{self.path}: hidden_act must be one of {', '.join(ACTIVATIONS)}, but is "
                f"{activation!r}"
            )
        known = {name: values[name] for name in names if name in values}
        known["hidden_act"] = ACTIVATIONS[activation]
        return BertConfig.from_dict(known, source=str(self.path))

    def task_type(self) -> str | None:
        """The task type of a classifier of texts, if the file says it.

        Raises:
            InputError: if it is none of transformers'.
        """
        named = self._values.get("problem_type")
        if named is None:
            return None
        for ours, theirs in PROBLEM_TYPES.items():
            if theirs == named:
                return ours
        raise InputError(
            f"{self.path}: problem_type must be one of {', '.join(PROBLEM_TYPES.values())}, but is "
            f"{named!r}"
        )

    def labels(self, num_labels: int) -> tuple[str, ...]:
        """The names of a classifier's outputs in their order; none if there are no classes.

        Args:
            num_labels: rows of ``classifier.weight``; with one, it is a regression or the like.

        Raises:
            InputError: if the names do not fit, or cannot be lines of labels.txt.
        """
        if num_labels < 2:
            return ()
        # The default of transformers, which it leaves out of config.json.
        names = self._values.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
        if not isinstance(names, dict) or set(names) != {str(i) for i in range(num_labels)}:
            raise InputError(
                f"{self.path}: id2label must name the labels 0 to {num_labels - 1}, the rows of "
                f"classifier.weight, but is {names!r}"
            )
        labels = tuple(str(names[str(i)]).strip() for i in range(num_labels))
        for label in labels:
            if len(label.splitlines()) != 1 or labels.count(label) > 1:
                raise InputError(
                    f"{self.path}: id2label has the label {label!r}; each must be one line of text "
                    f"and must be there once, as they go to {LABELS}"
                )
        return labels


def read_tokenizer(source: pathlib.Path) -> Tokenizer:
    """Reads the vocabulary and the casing of a folder.

    Raises:
        InputError: if a file is missing or damaged, or text is split in another way than BERT's.
    """
    settings_path, full_path = source / "tokenizer_config.json", source / "tokenizer.json"
    settings = read_json(settings_path) if settings_path.exists() else {}
    steps = _read_steps(full_path) if full_path.exists() else {}
    kind = settings.get("tokenizer_class")
    if kind is not None and str(kind).removesuffix("Fast") not in _TOKENIZERS:
        raise InputError(
            f"{settings_path}: tokenizer_class is {kind!r}, which does not split text as BERT does"
        )
    normalizer = steps.get("normalizer", {})
    # Of the two files, transformers lets tokenizer_config.json have the say.
    lower_case = settings.get("do_lower_case")
    if lower_case is None:
        lower_case = normalizer.get("lowercase")
    if not isinstance(lower_case, bool | None):
        raise InputError(
            f"{settings_path}: do_lower_case must be true or false, but is {lower_case!r}"
        )
    for path, values, key, wanted in (
        (settings_path, settings, "do_basic_tokenize", True),
        (settings_path, settings, "tokenize_chinese_chars", True),
        (settings_path, settings, "strip_accents", lower_case),
        (full_path, normalizer, "clean_text", True),
        (full_path, normalizer, "handle_chinese_chars", True),
        (full_path, normalizer, "strip_accents", lower_case),
    ):
        if values.get(key) is not None and values[key] is not wanted:
            raise InputError(
                f"{path}: {key} is {values[key]!r}; the original's tokenizer can only do as with "
                f"{wanted!r} here, so the model would get other word pieces"
            )
    # Tokens that were added after training are not in vocab.txt, but all are in tokenizer.json.
    has_all = not (steps and (source / "added_tokens.json").exists())
    if (source / VOCAB).exists() and has_all:
        return Tokenizer(source / VOCAB, Vocabulary(source / VOCAB).pieces, lower_case)
    if not steps:
        raise InputError(f"{source}: has neither {VOCAB} nor tokenizer.json, which list the pieces")
    pieces = _read_pieces(full_path, steps)
    added = [piece for piece in pieces if piece not in steps["model"]["vocab"]]
    return Tokenizer(full_path, pieces, lower_case, tuple(added))


def _read_steps(path: pathlib.Path) -> Json:
    """The steps of tokenizer.json, which must be those of BERT, and its added tokens."""
    full = read_json(path)
    for step, wanted in _STEPS.items():
        values = full.get(step)
        found = values.get("type", "WordPiece") if isinstance(values, dict) else None
        if found != wanted:
            raise InputError(f"{path}: {step}.type is {found!r}; expected {wanted!r}, as in BERT")
    return full


def _read_pieces(path: pathlib.Path, steps: Json) -> list[str]:
    """The pieces of tokenizer.json in the order of their ids."""
    try:
        ids = dict(steps["model"]["vocab"])
        # Tokens that were added after training are listed here only.
        ids |= {token["content"]: token["id"] for token in steps.get("added_tokens") or []}
        pieces = sorted(ids, key=ids.__getitem__)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: expected model.vocab, an object of word pieces and their ids, and "
            "added_tokens, a list of objects with content and id"
        ) from error
    for wanted, piece in enumerate(pieces):
        if ids[piece] != wanted:
            raise InputError(
                f"{path}: the piece {piece!r} has the id {ids[piece]}, where {wanted} comes next; "
                "ids must run from 0 without a gap"
            )
    return pieces


class Tensors:
    """The tensors of a folder's safetensors files.

    Args:
        source: the folder.

    Attributes:
        shapes: name -> shape; the names are those that transformers writes at present, and begin
            with ``bert.`` for the encoder even where the file, of an encoder alone, leaves it out.
    """

    def __init__(self, source: pathlib.Path) -> None:
        self._files: dict[str, tuple[pathlib.Path, Any, str]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        found = [
            (path, file, name)
            for path in _weight_files(source)
            for file in [_open(path)]
            for name in file.keys()  # noqa: SIM118 - not a dict
        ]
        bare = "bert.embeddings.word_embeddings.weight" not in {name for _, _, name in found}
        for path, file, name in found:
            # Files converted from the original long ago still have its two words.
            known = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
            known = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", known)
            if bare and known.startswith(("embeddings.", "encoder.", "pooler.")):
                known = f"bert.{known}"
            self._files[known] = (path, file, name)
            self.shapes[known] = tuple(file.get_slice(name).get_shape())
        for copy, original in TIED.items():
            if copy in self and original not in self:
                self._files[original] = self._files[copy]
                self.shapes[original] = self.shapes[copy]

    def __contains__(self, name: str) -> bool:
        return name in self.shapes

    def names_other_than(self, names: Iterable[str]) -> tuple[str, ...]:
        """What all tensors but these are called in the files."""
        used = set(names)
        return tuple(name for known, (*_, name) in self._files.items() if known not in used)

    def read(self, name: str) -> np.ndarray:
        """A tensor's values, as float32.

        Raises:
            InputError: if they are none of float32, float16 and bfloat16.
        """
        path, file, name_in_file = self._files[name]
        kind = file.get_slice(name_in_file).get_dtype()
        if kind not in ("F32", "F16", "BF16"):
            raise InputError(
                f"{path}: the tensor {name_in_file} is of type {kind}; expected F32, F16 or BF16"
            )
        return np.asarray(file.get_tensor(name_in_file), np.float32)


def _weight_files(source: pathlib.Path) -> list[pathlib.Path]:
    """The one file of the weights, or all its shards."""
    path = source / "model.safetensors"
    index = source / "model.safetensors.index.json"
    if path.exists() or not index.exists():
        if not path.exists() and (source / "pytorch_model.bin").exists():
            raise InputError(
                f"{source}: has pytorch_model.bin but no model.safetensors; a .bin file can run "
                "code when it is read: let transformers save the model as safetensors first"
            )
        return [path]
    shards = read_json(index).get("weight_map")
    if (
        not isinstance(shards, dict)
        or not shards
        or any(not isinstance(s, str) or pathlib.PurePath(s).name != s for s in shards.values())
    ):
        raise InputError(
            f"{index}: weight_map must be an object of tensors and the names of their files, "
            "which lie in the same folder"
        )
    return sorted({source / shard for shard in shards.values()})


def _open(path: pathlib.Path) -> Any:
    try:
        return safe_open(path, framework="numpy")
    except (OSError, SafetensorError) as error:
        what = (
            f"it is not whole, or damaged ({error})" if path.exists() else "there is no such file"
        )
        raise InputError(f"{path}: cannot read the weights: {what}; download it again") from error

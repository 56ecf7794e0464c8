"""Takes a Hugging Face BERT folder, returns one of the original's layout; next: default_checkpoint.

A folder is converted only if the result computes what the source computes, from text to logits.
"""

import dataclasses
import os
import pathlib
import re
import shutil

import numpy as np

from bert_tf.checkpoint import write_tensors
from bert_tf.config import BertConfig, lower_case_of
from bert_tf.errors import InputError, listed
from bert_tf.interop.huggingface_folder import ModelConfig, Tensors, Tokenizer, read_tokenizer
from bert_tf.interop.huggingface_names import HEADS, PARTS, TIED, Weight, expand
from bert_tf.output_file import whole_folder
from bert_tf.run_folder import BERT_CONFIG, CHECKPOINT, LABELS, VOCAB, write_text
from bert_tf.tokenization import Vocabulary

Path = str | os.PathLike[str]

# Classes of transformers that have no pooler; any other must bring its weights.
WITHOUT_POOLER = (
    "BertForMaskedLM",
    "BertForQuestionAnswering",
    "BertForTokenClassification",
    "BertLMHeadModel",
)


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What a Hugging Face folder became.

    Attributes:
        target: the folder of the original's layout.
        config: its bert_config.json.
        hidden_act: the source's activation, in this project's terms; ``config.hidden_act`` is
            another one only if the caller asked for it.
        heads: which of HEADS the folder has.
        labels: of the classifier, in the order of their ids; empty for a regression and the like.
        do_lower_case: whether the tokenizer lower-cases; None if the source does not say.
        missing: weights of BertModel that the source's architecture does not have.
        unused_tensors: tensors of the source that have no counterpart.
        unused_keys: keys of config.json that were not carried over.
    """

    target: pathlib.Path
    config: BertConfig
    hidden_act: str
    heads: tuple[str, ...]
    labels: tuple[str, ...]
    do_lower_case: bool | None
    missing: tuple[str, ...]
    unused_tensors: tuple[str, ...]
    unused_keys: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            f"{self.target}: converted, {self.config.num_hidden_layers} layers of width "
            f"{self.config.hidden_size}, heads: {', '.join(self.heads) or 'none'}"
        ]
        if self.config.hidden_act != self.hidden_act:
            lines.append(
                f"  hidden_act is {self.config.hidden_act}, as asked for; the source has "
                f"{self.hidden_act}, so the outputs differ a little from the source's"
            )
        if self.do_lower_case is None:
            lines.append("  the source does not say whether to lower-case: give --do_lower_case")
        elif lower_case_of(self.target.resolve().name) is None:
            lines.append(f"  use it with --do_lower_case={str(self.do_lower_case).lower()}")
        for what, names in (
            ("weights that the source's architecture does not have", self.missing),
            ("tensors not used", self.unused_tensors),
            ("keys of config.json not carried over", self.unused_keys),
        ):
            if names:
                lines.append(f"  {len(names)} {what}: {listed(names)}")
        return "\n".join(lines)


def convert_huggingface(source: Path, target: Path, *, hidden_act: str | None = None) -> Conversion:
    """Converts a Hugging Face BERT folder, whole or not at all.

    Args:
        source: has config.json, vocab.txt or tokenizer.json, and model.safetensors or its shards;
            float16 and bfloat16 weights become float32.
        target: the folder to make: bert_config.json, vocab.txt, bert_model.ckpt.* and, for a
            classifier, labels.txt. It may exist if it is empty.
        hidden_act: an activation of BertConfig to write instead of the source's, such as ``gelu``,
            the one that the original code has.

    Returns:
        What was converted and what was not.

    Raises:
        InputError: if a file is missing or damaged, a tensor is missing or misshapen, the model is
            one that BertModel does not compute, or the target is not empty or cannot be written.
    """
    source, target = pathlib.Path(source), pathlib.Path(target)
    _require_new(target)
    model = ModelConfig(source)
    config = model.bert_config
    tokenizer = read_tokenizer(source)
    _check_tokenizer(tokenizer, config, model.path, target)
    tensors = Tensors(source)

    def has(part: str) -> bool:
        return any(weight.theirs in tensors for weight in PARTS[part])

    heads = tuple(head for head in HEADS if has(head))
    pooler = ("pooler",) if has("pooler") or model.architecture not in WITHOUT_POOLER else ()
    weights = expand(("embeddings", "layer", *pooler, *heads), config.num_hidden_layers)
    num_labels = (*tensors.shapes.get("classifier.weight", ()), 0)[0]
    _check_tensors(source, tensors, weights, config, num_labels)

    result = Conversion(
        target=target,
        config=dataclasses.replace(config, hidden_act=hidden_act or config.hidden_act),
        hidden_act=config.hidden_act,
        heads=heads,
        labels=model.labels(num_labels),
        do_lower_case=tokenizer.do_lower_case,
        missing=() if pooler else tuple(weight.name for weight in PARTS["pooler"]),
        unused_tensors=tensors.names_other_than([*(w.theirs for w in weights), *TIED]),
        unused_keys=model.unused_keys,
    )
    with whole_folder(target) as folder:
        write_text(folder / BERT_CONFIG, result.config.to_json_string())
        _write_vocabulary(folder / VOCAB, tokenizer)
        if result.labels:
            write_text(folder / LABELS, "".join(f"{label}\n" for label in result.labels))
        values = {weight: tensors.read(weight.theirs) for weight in weights}
        write_tensors(
            {weight.name: v.T if weight.transposed else v for weight, v in values.items()},
            folder / CHECKPOINT,
        )
    return result


def _check_tokenizer(
    tokenizer: Tokenizer, config: BertConfig, config_path: pathlib.Path, target: pathlib.Path
) -> None:
    """Compares the vocabulary with the configuration, and the casing with the target's name."""
    if len(tokenizer.pieces) != config.vocab_size:
        raise InputError(
            f"{tokenizer.path}: has {len(tokenizer.pieces)} word pieces, but vocab_size is "
            f"{config.vocab_size} in {config_path}; use the vocabulary that the model was trained "
            "with"
        )
    named = lower_case_of(target.resolve().name)
    if None not in (named, tokenizer.do_lower_case) and named != tokenizer.do_lower_case:
        raise InputError(
            f"{target}: a folder of this name stands for do_lower_case={str(named).lower()}, but "
            f"the source's tokenizer has {str(tokenizer.do_lower_case).lower()}; give another name"
        )


def _check_tensors(
    source: pathlib.Path,
    tensors: Tensors,
    weights: list[Weight],
    config: BertConfig,
    num_labels: int,
) -> None:
    """Compares names, shapes and tied values, and reports what is wrong together."""
    sizes = {**config.to_dict(), "num_labels": num_labels}
    wrong = []
    missing = [weight.theirs for weight in weights if weight.theirs not in tensors]
    if missing:
        wrong.append(f"{len(missing)} tensors are missing: {listed(missing)}")
    for weight in weights:
        shape = tuple(sizes[axis] if isinstance(axis, str) else axis for axis in weight.shape)
        if weight.transposed:
            shape = shape[::-1]
        found = tensors.shapes.get(weight.theirs, shape)
        if found != shape:
            wrong.append(
                f"{weight.theirs} is {list(found)}, but by config.json it must be {list(shape)}"
            )
    layers = {
        int(match.group(1))
        for name in tensors.shapes
        if (match := re.match(r"bert\.encoder\.layer\.(\d+)\.", name))
    }
    if max(layers, default=0) >= config.num_hidden_layers:
        wrong.append(
            f"there are {max(layers) + 1} layers, but num_hidden_layers is "
            f"{config.num_hidden_layers} in config.json"
        )
    for copy, original in TIED.items():
        if copy in tensors and not np.array_equal(tensors.read(copy), tensors.read(original)):
            wrong.append(f"{copy} differs from {original}; in the original they are one")
    if wrong:
        more = f"; and {len(wrong) - 6} more such" if len(wrong) > 6 else ""
        raise InputError(
            f"{source}: the weights are not those of a BERT with this config.json: "
            f"{'; '.join(wrong[:6])}{more}"
        )


def _write_vocabulary(path: pathlib.Path, tokenizer: Tokenizer) -> None:
    if tokenizer.path.name == VOCAB:
        shutil.copyfile(tokenizer.path, path)
        return
    write_text(path, "".join(f"{piece}\n" for piece in tokenizer.pieces))
    try:
        written = Vocabulary(path).pieces
    except InputError as error:
        message = str(error).replace(str(path), VOCAB)  # the file will be gone
        raise InputError(f"{tokenizer.path}: does not make a {VOCAB}: {message}") from error
    if written != tokenizer.pieces:
        raise InputError(
            f"{tokenizer.path}: has a word piece with white space at its ends or a line break in "
            f"it, which {VOCAB} cannot hold"
        )


def _require_new(target: pathlib.Path) -> None:
    try:
        new = not target.exists() or (target.is_dir() and not any(target.iterdir()))
    except OSError as error:
        raise InputError(f"{target}: cannot write there: {error.strerror}") from error
    if not new:
        raise InputError(f"{target}: exists and is not an empty folder; give a new one")

"""Takes a folder of the original's layout, returns a model in its terms; next: huggingface_names.

Every format is read into an OriginalModel and written from one, so no two of them need to know of
each other.
"""

import dataclasses
import glob
import pathlib
import re
import shutil
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import yaml

from bert_tf.checkpoint import Checkpoint, is_training_state, write_tensors
from bert_tf.config import BertConfig
from bert_tf.errors import InputError, listed
from bert_tf.interop.weights import HEADS, PARTS, Weight, expand
from bert_tf.run_folder import (
    BERT_CONFIG,
    CHECKPOINT,
    LABELS,
    MODEL_FILES,
    NULL_THRESHOLD,
    RUN_CONFIG,
    VOCAB,
    lower_case_of_checkpoint,
    read_run_config,
    write_text,
)
from bert_tf.tasks.classification_data import read_label_file
from bert_tf.tasks.glue import find_task
from bert_tf.tasks.tagging_data import are_entities
from bert_tf.tokenization import Vocabulary

# What the classifier of a run's folder labels, by the command that trained it.
USES = {"run_classifier": "texts", "run_tagger": "tokens", "run_multiple_choice": "choices"}
# What other formats cannot hold and the outputs depend on: where its names begin -> what it is.
_OWN = {
    "crf/": "a CRF over the tags (--crf)",
    "window_pooling/": "a learned pooling of a long text's windows (--window_pooling=attention)",
}


class Tokenizer(NamedTuple):
    """What a folder says of its word pieces.

    Attributes:
        path: of the file that lists them: one a line if its name ends in ``.txt``.
        pieces: in the order of their ids.
        do_lower_case: None if the folder does not say.
        added: those of the pieces that its own tokenizer finds in a text before it splits it.
    """

    path: pathlib.Path
    pieces: list[str]
    do_lower_case: bool | None
    added: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class OriginalModel:
    """A model in the original's terms.

    Attributes:
        source: the folder that it was read from.
        found: what the folder holds, in words.
        config: its bert_config.json.
        tokenizer: its word pieces.
        tensors: name in a checkpoint of the original -> float32 values; see `PARTS`.
        labels: of the classifier, in the order of their ids; empty if they have no names.
        use: what the classifier labels: ``texts``, ``tokens`` or ``choices``; None if there is no
            classifier, or the folder does not say.
        task_type: of a classifier of texts: ``single_label``, ``multi_label`` or ``regression``;
            None if the folder does not say.
        pairs: of a classifier of texts: whether it takes pairs; None if the folder does not say.
        tag_scheme: of a tagger: ``iob2``, or ``none`` if its labels are to be taken as they are;
            None if the folder does not say, or there are no entities among them.
        version_2_with_negative: of question answering: whether there may be no answer; None if the
            folder does not say.
        own: what it has that no other format can hold and its outputs depend on, in words.
        remarks: what the folder has that is not here, a line each.
    """

    source: pathlib.Path
    found: str
    config: BertConfig
    tokenizer: Tokenizer
    tensors: Mapping[str, np.ndarray]
    labels: tuple[str, ...] = ()
    use: str | None = None
    task_type: str | None = None
    pairs: bool | None = None
    tag_scheme: str | None = None
    version_2_with_negative: bool | None = None
    own: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def heads(self) -> tuple[str, ...]:
        """Which of HEADS it has."""
        return tuple(head for head in HEADS if self.has(head))

    @property
    def num_labels(self) -> int:
        """Outputs of the classifier; 0 without one."""
        return len(self.tensors.get("output_bias", ()))

    @property
    def likely_task_type(self) -> str:
        """What a classifier of texts is, or is taken for: with one output, a regression."""
        return self.task_type or ("regression" if self.num_labels == 1 else "single_label")

    @property
    def do_lower_case(self) -> bool:
        """Whether it lower-cases, for formats that must say so.

        Raises:
            InputError: if that is not known.
        """
        if self.tokenizer.do_lower_case is None:
            raise InputError(
                f"{self.source}: nothing there says whether the model lower-cases; give "
                "--do_lower_case=true for an uncased model, --do_lower_case=false for a cased one"
            )
        return self.tokenizer.do_lower_case

    def has(self, part: str) -> bool:
        """Whether it has a part of `PARTS`."""
        return any(weight.name in self.tensors for weight in PARTS[part])

    def names_of(self, parts: Iterable[str]) -> tuple[str, ...]:
        """The names of the tensors of some parts."""
        return tuple(weight.name for weight in expand(parts, self.config.num_hidden_layers))

    def not_carried(self, parts: Iterable[str], where: str) -> list[str]:
        """A remark on the parts that a format has no place for, if there are such."""
        return counted(f"weights that {where} has no place for", self.names_of(parts))

    def unsaid(self, *names: str) -> list[str]:
        """Remarks on what a format has no place for, of what flags say on the way in.

        Args:
            names: attributes that are called as their flags.
        """
        values = {name: getattr(self, name) for name in names}
        return [
            f"--{name}{'' if value is True else f'={value}'} has no place there; give it on the "
            "way back"
            for name, value in values.items()
            if value not in (None, False, "iob2", "single_label")  # what it is taken for
        ]

    def require_pooler(self, where: str) -> None:
        """Checks that there is a pooler, for formats that have one in any case.

        Raises:
            InputError: if there is none.
        """
        if not self.has("pooler"):
            raise InputError(
                f"{self.source}: has no pooler (bert/pooler/dense), but {where} always has one; "
                "convert a checkpoint that still has its pooler"
            )


def read_original(source: pathlib.Path) -> OriginalModel:
    """Reads a folder of the original's layout: a released one, or a run's.

    Raises:
        InputError: if a file is missing or damaged, or a tensor is missing or misshapen.
    """
    checkpoint = Checkpoint(find_prefix(source))
    config_path = source / BERT_CONFIG
    config = BertConfig.from_json_file(config_path)
    vocabulary = Vocabulary(source / VOCAB)
    checkpoint.check_config(config, str(config_path))
    own = [
        what
        for start, what in _OWN.items()
        if any(name.startswith(start) for name in checkpoint.shapes)
    ]
    found = {
        weight.name: checkpoint.shapes[name]
        for part in PARTS
        for weight in expand([part], config.num_hidden_layers)
        if (name := checkpoint.name_in_file(weight.name)) in checkpoint.shapes
    }
    weights = weights_of(found, ("embeddings", "layer"), ("pooler", *HEADS), config)
    num_labels = found.get("output_weights", (0,))[0]
    refuse(source, differences(shapes_of(weights, config, num_labels), found))
    in_file = [checkpoint.name_in_file(weight.name) for weight in weights]
    left = [name for name in checkpoint.shapes if name not in in_file]
    labels_path = source / LABELS
    labels = read_label_file(labels_path) if labels_path.is_file() else ()
    if labels and len(labels) != num_labels:
        raise InputError(
            f"{labels_path}: has {len(labels)} labels, but the checkpoint's classifier has "
            f"{num_labels} outputs; give the file that the model was trained with"
        )
    run = read_run_config(source / RUN_CONFIG) if (source / RUN_CONFIG).is_file() else {}
    remarks = [
        *counted("of the optimizer's tensors not used", filter(is_training_state, left)),
        *counted("tensors not used", (name for name in left if not is_training_state(name))),
    ]
    if run.get("long_text", "head") != "head":
        remarks.append(
            f"--long_text={run['long_text']} is not carried over: of a long text, the head is shown"
        )
    if run.get("doc_context"):
        remarks.append("--doc_context is not carried over: sentences are shown without any around")
    if (source / NULL_THRESHOLD).is_file():
        remarks.append(f"{NULL_THRESHOLD}, from where on there is no answer, is not carried over")
    use = USES.get(str(run.get("command")))
    return OriginalModel(
        source=source,
        found=f"a folder of the original's layout ({pathlib.Path(checkpoint.path).name})",
        config=config,
        tokenizer=Tokenizer(
            vocabulary.path, vocabulary.pieces, lower_case_of_checkpoint(checkpoint.path)
        ),
        tensors={
            weight.name: value.numpy()
            for weight, value in zip(weights, checkpoint.read(in_file), strict=True)
        },
        labels=labels,
        use=use,
        task_type=_task_type_of(run) if use == "texts" else None,
        pairs=_has_pairs(run) if use == "texts" else None,
        tag_scheme=_tag_scheme_of(run, labels) if use == "tokens" else None,
        version_2_with_negative=(
            bool(run.get("version_2_with_negative")) if run.get("command") == "run_squad" else None
        ),
        own=" and ".join(own),
        remarks=tuple(remarks),
    )


def write_original(model: OriginalModel, folder: pathlib.Path) -> list[str]:
    """Writes bert_config.json, vocab.txt and bert_model.ckpt.*.

    With a head that was trained for a task, also what makes the folder one that predicts:
    run_config.yaml and, for a classifier, labels.txt.

    Args:
        model: what to write.
        folder: where.

    Returns:
        Remarks: what was not carried over, a line each.

    Raises:
        InputError: if the vocabulary cannot be a vocab.txt.
    """
    write_text(folder / BERT_CONFIG, model.config.to_json_string())
    write_vocabulary(model.tokenizer, folder / VOCAB)
    if model.labels:
        write_text(folder / LABELS, "".join(f"{label}\n" for label in model.labels))
    write_tensors(model.tensors, folder / CHECKPOINT)
    run = _run_of(model)
    if run:
        write_text(folder / RUN_CONFIG, yaml.safe_dump(run, sort_keys=False))
    return _assumed(model)


def copy_original(model: OriginalModel, folder: pathlib.Path) -> list[str]:
    """Copies a folder that ``read_original`` read, and all that makes it a run's.

    Args:
        model: what to copy; its configuration is written, all else is its source's.
        folder: where.

    Returns:
        No remarks: nothing is left out.
    """
    prefix = pathlib.Path(find_prefix(model.source))
    for path in prefix.parent.glob(f"{glob.escape(prefix.name)}.*"):
        shutil.copyfile(path, folder / f"{CHECKPOINT}{path.name.removeprefix(prefix.name)}")
    for name in (RUN_CONFIG, *MODEL_FILES):
        if (model.source / name).is_file():
            shutil.copyfile(model.source / name, folder / name)
    write_text(folder / BERT_CONFIG, model.config.to_json_string())
    return []


def _task_type_of(run: Mapping[str, Any]) -> str:
    """The task type of a run's classifier of texts."""
    if run.get("task_name") is not None:
        return find_task(run["task_name"]).task_type
    return str(run.get("task_type", "single_label"))


def _has_pairs(run: Mapping[str, Any]) -> bool:
    """Whether a run's classifier of texts takes pairs."""
    if run.get("task_name") is not None:
        return find_task(run["task_name"]).has_pairs
    return run.get("text_b_column") is not None


def _tag_scheme_of(run: Mapping[str, Any], labels: Iterable[str]) -> str | None:
    """The scheme of a run's labels: a run has entities in IOB2, however its files write them."""
    if not are_entities(labels):
        return None
    return "none" if run.get("tag_scheme") == "none" else "iob2"


def _assumed(model: OriginalModel) -> list[str]:
    """Remarks on what a model is taken for, where that is not known."""
    remarks = []
    is_regression = model.use == "texts" and model.likely_task_type == "regression"
    if model.use in ("texts", "tokens") and not model.labels and not is_regression:
        remarks.append(
            f"there are no names for the {model.num_labels} labels; put a {LABELS} there, one a "
            "line, before predicting"
        )
    if model.use == "texts" and model.task_type is None:
        remarks.append(
            "nothing says the task type of the classifier; taken for "
            f"{model.likely_task_type}, with --task_type it is another"
        )
    if model.use == "texts" and model.pairs is None:
        remarks.append(
            "nothing says whether the classifier takes pairs of texts; taken for one of single "
            "texts, with --pairs it is one of pairs"
        )
    if model.use == "tokens" and model.tag_scheme is None and are_entities(model.labels):
        remarks.append(
            "nothing says in which scheme the tags are; taken for IOB2, with --tag_scheme=none "
            "words get them as they are"
        )
    if model.has("span") and model.version_2_with_negative is None:
        remarks.append(
            "nothing says whether there may be no answer; taken for a model that always gives one, "
            "with --version_2_with_negative it need not"
        )
    return remarks


def _run_of(model: OriginalModel) -> dict[str, Any]:
    """What the run that trained a model's head would have stored; empty if that is not known."""
    commands = {use: command for command, use in USES.items()}
    command = "run_squad" if model.has("span") else commands.get(model.use or "")
    if command is None:
        return {}
    # Not what it was trained with, but what it takes.
    longest = min(model.config.max_position_embeddings, 512)
    run = {
        "command": command,
        "do_train": True,
        "output_dir": str(model.source),  # where the model is from
        "max_seq_length": longest,
    }
    if command == "run_squad":
        run["train_file"] = str(model.source)  # what it was trained on is not known
        run["max_query_length"] = min(longest // 2, 64)
        run["version_2_with_negative"] = bool(model.version_2_with_negative)
    if model.tokenizer.do_lower_case is not None:
        run["do_lower_case"] = model.tokenizer.do_lower_case
    if model.use == "texts":
        run["task_type"] = model.likely_task_type
        if model.pairs:
            run["text_b_column"] = "text_b"  # any name: what it was called is not known
    if model.use == "tokens" and model.tag_scheme == "none":
        run["tag_scheme"] = "none"
    return run


def write_vocabulary(tokenizer: Tokenizer, path: pathlib.Path) -> None:
    """Writes a vocab.txt.

    Raises:
        InputError: if the pieces cannot be the lines of one.
    """
    if tokenizer.path.suffix == ".txt":
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


def find_prefix(folder: pathlib.Path) -> str:
    """The prefix of a folder's checkpoint: bert_model.ckpt, the only one, or the newest.

    Raises:
        InputError: if there is none, or none of several is known to be the newest.
    """
    prefixes = sorted(str(path.with_suffix("")) for path in folder.glob("*.index"))
    usual = str(folder / CHECKPOINT)
    if usual in prefixes or not prefixes:
        return usual
    if len(prefixes) == 1:
        return prefixes[0]
    newest = tf.train.latest_checkpoint(str(folder))
    if newest is None:
        raise InputError(
            f"{folder}: has several checkpoints ({listed(prefixes)}) and no file called "
            f"'checkpoint' that says which is the newest; leave one there, or call it {CHECKPOINT}"
        )
    return str(newest)


def weights_of(
    found: Iterable[str], always: Iterable[str], optional: Iterable[str], config: BertConfig
) -> list[Weight]:
    """The rows of the parts that a model must have, and of those of which it has anything."""
    found = set(found)
    there = [part for part in optional if found & {weight.name for weight in PARTS[part]}]
    return expand((*always, *there), config.num_hidden_layers)


def shapes_of(
    weights: Iterable[Weight], config: BertConfig, num_labels: int
) -> dict[str, tuple[int, ...]]:
    """Name -> shape in a checkpoint of the original."""
    sizes = {**config.to_dict(), "num_labels": num_labels}
    return {
        weight.name: tuple(sizes[axis] if isinstance(axis, str) else axis for axis in weight.shape)
        for weight in weights
    }


def differences(
    wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """What is wrong with the shapes of tensors, a clause each."""
    missing = [name for name in wanted if name not in found]
    wrong = [f"{len(missing)} tensors are missing: {listed(missing)}"] if missing else []
    for name, shape in wanted.items():
        if found.get(name, shape) != shape:
            wrong.append(
                f"{name} is {list(found[name])}, but by the configuration it must be {list(shape)}"
            )
    return wrong


def surplus_layers(found: Iterable[str], pattern: str, config: BertConfig) -> list[str]:
    """A clause if there are tensors of more layers than there should be.

    Args:
        found: names of tensors.
        pattern: what the names of a layer's tensors begin with; its group is the layer's number.
        config: has the number of layers.
    """
    layers = [int(match.group(1)) for name in found if (match := re.match(pattern, name))]
    if max(layers, default=0) < config.num_hidden_layers:
        return []
    return [
        f"there are {max(layers) + 1} layers, but num_hidden_layers is {config.num_hidden_layers} "
        "in the configuration"
    ]


def refuse(source: pathlib.Path, wrong: list[str]) -> None:
    """Raises an InputError if anything is wrong with a folder's tensors."""
    if wrong:
        more = f"; and {len(wrong) - 6} more such" if len(wrong) > 6 else ""
        raise InputError(
            f"{source}: the weights are not those of a BERT with this configuration: "
            f"{'; '.join(wrong[:6])}{more}"
        )


def counted(what: str, names: Iterable[str]) -> list[str]:
    """A remark on some names, if there are any: ``2 tensors not used: a, b``."""
    names = list(names)
    return [f"{len(names)} {what}: {listed(names)}"] if names else []

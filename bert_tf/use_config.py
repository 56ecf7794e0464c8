"""Takes nothing, returns the settings of commands that use a trained model; next: cli."""

import dataclasses
import itertools
from typing import Any

from bert_tf.config import POOLINGS, ModelFiles, setting
from bert_tf.errors import InputError

# What a model can compute in, by the runtime that it is exported for.
PRECISIONS = {
    "tensorflow": ("float32", "bfloat16", "float16"),
    "litert": ("float32", "float16", "int8"),
    "onnx": ("float32", "int8"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedModel(ModelFiles):
    """A trained model, and what it is to say."""

    model_dir: str | None = setting(
        None, "The output_dir of a finished training run; or a released checkpoint, with task."
    )
    task: str | None = setting(
        None,
        "classification: labels; tagging: words with tags, and entities; multiple_choice: one of "
        "the choices; question_answering: answers to questions about contexts; fill_mask: the "
        "likeliest pieces for each [MASK], and for a pair how likely the second text follows the "
        "first; features: one vector; similarity: of a pair, the cosine of the two texts' vectors. "
        "By default what the run trained.",
        choices=(
            "classification",
            "tagging",
            "multiple_choice",
            "question_answering",
            "fill_mask",
            "features",
            "similarity",
        ),
    )
    top_k: int | None = setting(
        None, "fill_mask: pieces for each [MASK]; question_answering: answers; 5 by default."
    )
    pooling: str | None = setting(
        None,
        "features, similarity: what a text's vector is: that of [CLS] (cls), or the mean (the "
        "default) or the max over its pieces.",
        choices=POOLINGS,
    )
    layer: int | None = setting(
        None, "features, similarity: the layer that is read, by default -1, the last."
    )
    normalize: bool | None = setting(
        None, "features: whether vectors get length 1; by default not."
    )

    def __post_init__(self) -> None:
        files = [
            field.name
            for field in dataclasses.fields(ModelFiles)
            if field.name != "do_lower_case" and getattr(self, field.name) is not None
        ]
        if self.model_dir is None and not files:
            raise InputError(
                "--model_dir is missing: give the output_dir of a finished run, or with "
                "--task=fill_mask, features or similarity a released --checkpoint"
            )
        if self.model_dir is not None and files:
            raise InputError(f"give --model_dir or --{files[0]}, not both")
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"--top_k must be at least 1, but is {self.top_k}")

    def model(self) -> str | ModelFiles:
        """What a task's loader takes."""
        if self.model_dir is not None:
            return self.model_dir
        names = (field.name for field in dataclasses.fields(ModelFiles))
        return ModelFiles(**{name: getattr(self, name) for name in names})

    def options(self) -> dict[str, Any]:
        """The task's own, as far as they are given."""
        names = ["top_k", "pooling", "layer", "normalize"]
        if self.model_dir is not None:
            names.append("do_lower_case")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction(TrainedModel):
    """The settings of ``bert-tf predict``."""

    input_file: str | None = setting(None, "A file with one text per line.")
    batch_size: int = setting(32, "Texts that go through the model at once.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 1:
            raise InputError(f"--batch_size must be at least 1, but is {self.batch_size}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export(TrainedModel):
    """The settings of ``bert-tf export``."""

    export_dir: str | None = setting(
        None, "Where the model's versions are; the new one becomes export_dir/version."
    )
    version: int | None = setting(
        None, "The version's number; by default one more than the highest that is there."
    )
    runtime: str = setting(
        "tensorflow",
        "tensorflow: a SavedModel for TF Serving, texts in; litert, onnx: one file for that "
        "runtime, ids of word pieces in (onnx needs the extra of this name).",
        choices=tuple(PRECISIONS),
    )
    precision: str = setting(
        "float32",
        "What the model computes in and its weights are stored in; the scores are float32. "
        + "; ".join(f"{name}: {', '.join(those)}" for name, those in PRECISIONS.items())
        + ".",
        choices=tuple(dict.fromkeys(itertools.chain(*PRECISIONS.values()))),
    )
    max_seq_length: int | None = setting(
        None, "Longest row in word pieces; by default what the model was trained with."
    )
    dev_file: str | None = setting(
        None,
        "litert, onnx: labelled examples in the form of the task's dev file (of run_squad's "
        "predict_file), to measure what the conversion changes.",
    )
    fixed_length: bool = setting(
        False, "Pad every row to max_seq_length, instead of a batch to its own longest row."
    )
    batch_size: int | None = setting(
        None, "Examples of every request, where it is to be the same for all; any by default."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.export_dir is None:
            raise InputError("--export_dir is missing: give the folder of the model's versions")
        precisions = PRECISIONS[self.runtime]
        if self.precision not in precisions:
            raise InputError(
                f"--precision={self.precision}: --runtime={self.runtime} has "
                f"{', '.join(precisions)}"
            )
        if self.dev_file is not None and self.runtime == "tensorflow":
            raise InputError(
                "--dev_file: it is for conversions to another --runtime; here nothing is changed"
            )
        if self.runtime != "tensorflow" and (self.batch_size or self.fixed_length):
            flag = "batch_size" if self.batch_size else "fixed_length"
            raise InputError(
                f"--{flag}: with --runtime={self.runtime} the shapes are those of what is fed"
            )
        for name in ("version", "max_seq_length", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name} must be at least 1, but is {value}")

    def changes(self) -> dict[str, Any]:
        """Arguments of the tasks' loaders: what is to differ from how the model was trained."""
        dtype = self.precision if self.runtime == "tensorflow" else "float32"
        given = {"dtype": dtype, "max_seq_length": self.max_seq_length}
        return {name: value for name, value in given.items() if value is not None}

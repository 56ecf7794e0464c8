"""Takes bert_config.json and run settings, returns frozen dataclasses; next: tokenization."""

import dataclasses
import json
import math
import pathlib
import re
from typing import Any

from bert_tf.errors import InputError

# Keys that copies of the released configurations carry and that no code ever read.
UNUSED_KEYS = ("directionality", "pooler_")

HIDDEN_ACTS = ("gelu", "gelu_erf", "linear", "relu", "tanh")


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """The architecture, with the keys and defaults of ``bert_config.json``."""

    vocab_size: int  # rows of the word embeddings, equal to the lines of vocab.txt
    hidden_size: int = 768  # width of the encoder
    num_hidden_layers: int = 12
    num_attention_heads: int = 12  # must divide hidden_size
    intermediate_size: int = 3072  # width of the feed-forward layers
    hidden_act: str = "gelu"  # the tanh form, as in the original; gelu_erf is Hugging Face's "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512  # longest sequence
    type_vocab_size: int = 16  # segments; 2 in every released model
    initializer_range: float = 0.02  # standard deviation of new weights

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is float and type(value) is int:
                value = float(value)
                object.__setattr__(self, field.name, value)
            if type(value) is not field.type:
                wanted = getattr(field.type, "__name__", field.type)
                raise InputError(f"{field.name} must be of type {wanted}, but is {value!r}")
            if field.type is int and value < 1:
                raise InputError(f"{field.name} must be at least 1, but is {value}")
            if field.name.endswith("dropout_prob") and not 0.0 <= value < 1.0:
                raise InputError(f"{field.name} must lie in [0, 1), but is {value}")
        if not self.initializer_range > 0.0:  # false for NaN too
            raise InputError(f"initializer_range must be positive, but is {self.initializer_range}")
        if self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}"
            )
        if self.hidden_act not in HIDDEN_ACTS:
            raise InputError(
                f"hidden_act must be one of {', '.join(HIDDEN_ACTS)}, but is {self.hidden_act!r}"
            )

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "BertConfig") -> "BertConfig":
        """Builds a configuration from the JSON's keys.

        Args:
            values: the keys of ``bert_config.json``.
            source: what to call the values in an error, usually the file's path.

        Raises:
            InputError: for an unknown or missing key, a wrong type or a value out of range.
        """
        if "model_type" in values or "architectures" in values:
            raise InputError(
                f"{source}: this is a Hugging Face configuration; convert the folder first with "
                "bert-tf convert_checkpoint --from FOLDER --to FOLDER"
            )
        fields = [field.name for field in dataclasses.fields(cls)]
        known = {key: value for key, value in values.items() if not key.startswith(UNUSED_KEYS)}
        unknown = sorted(set(known) - set(fields))
        if unknown:
            raise InputError(
                f"{source}: unknown key {unknown[0]!r}; the keys are {', '.join(fields)}"
            )
        if "vocab_size" not in known:
            raise InputError(f"{source}: the key 'vocab_size' is missing")
        try:
            return cls(**known)
        except InputError as error:
            raise InputError(f"{source}: {error}") from error

    @classmethod
    def from_json_file(cls, path: str | pathlib.Path) -> "BertConfig":
        """Reads ``bert_config.json``.

        Raises:
            InputError: if the file cannot be read, is not JSON, or holds a wrong value.
        """
        try:
            values = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: cannot read bert_config.json: {error.strerror}") from error
        except ValueError as error:
            raise InputError(f"{path}: not a JSON file: {error}") from error
        if not isinstance(values, dict):
            raise InputError(f"{path}: expected a JSON object, but found {type(values).__name__}")
        return cls.from_dict(values, source=str(path))

    def to_dict(self) -> dict[str, Any]:
        """The keys and values of ``bert_config.json``."""
        return dataclasses.asdict(self)

    def to_json_string(self) -> str:
        """The content of ``bert_config.json``, keys sorted as the original writes them."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"


def setting(default: Any, help: str, **metadata: Any) -> Any:
    """A field of a run's configuration, which is also a flag of its command.

    Args:
        default: the value when the flag is not given.
        help: what ``--help`` says.
        metadata: ``choices``, the allowed values; ``flag``, the flag's name if it is another;
            ``unimportant=True`` for what does not change the weights that a run computes;
            ``stored=False`` for what ``run_config.yaml`` does not repeat.
    """
    return dataclasses.field(default=default, metadata={"help": help, **metadata})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """Where a command finds the model that it starts from."""

    checkpoint: str | None = setting(
        None,
        "A released checkpoint's folder, or its name in checkpoints/ or the download cache; sets "
        "the next four flags.",
    )
    vocab_file: str | None = setting(None, "vocab.txt that the checkpoint was trained on.")
    bert_config_file: str | None = setting(None, "bert_config.json of the checkpoint.")
    init_checkpoint: str | None = setting(None, "Initial weights, a path up to and with .ckpt.")
    do_lower_case: bool | None = setting(
        None, "Whether to lower-case; true for uncased checkpoints (the default), false for cased."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTuning(ModelFiles):
    """The settings that every fine-tuning command shares."""

    output_dir: str | None = setting(
        None, "Where the run's files go: new or empty, or an unfinished run.", unimportant=True
    )
    max_seq_length: int = setting(128, "Longest input in word pieces, [CLS] and [SEP] included.")
    fixed_length: bool = setting(
        False, "Pad every batch to max_seq_length, instead of to its own longest row."
    )
    do_train: bool = setting(False, "Whether to train.", unimportant=True)
    do_eval: bool = setting(False, "Whether to evaluate on the dev set.", unimportant=True)
    do_predict: bool = setting(False, "Whether to predict the test set.", unimportant=True)
    train_batch_size: int = setting(32, "Examples in a training step.")
    eval_batch_size: int = setting(32, "Examples in an evaluation batch.", unimportant=True)
    predict_batch_size: int = setting(32, "Examples in a prediction batch.", unimportant=True)
    learning_rate: float = setting(5e-5, "Adam's rate at the start of the decay.")
    num_train_epochs: float = setting(3.0, "Passes over the training set.")
    warmup_proportion: float = setting(0.1, "Share of the steps in which the rate rises.")
    weight_decay_rate: float = setting(0.01, "Decoupled weight decay.")
    bias_correction: bool = setting(
        False, "Adam with bias correction: not the original, but stabler on small data sets."
    )
    seed: int = setting(12345, "Of new weights, of the order of examples and of dropout.")
    num_seeds: int = setting(
        1, "Train this many runs, with seeds seed, seed + 1, …; report mean, deviation and best."
    )
    log_steps: int = setting(10, "How often a step is logged.", unimportant=True)
    save_checkpoints_steps: int = setting(
        1000, "How often the run can be resumed from.", unimportant=True
    )
    overwrite: bool = setting(
        False,
        "Whether to replace another run in output_dir, or its results.",
        unimportant=True,
        stored=False,
    )
    iterations_per_loop: int = setting(
        1000, "Steps between two looks of the host, on TPU only.", unimportant=True
    )
    use_tpu: bool = setting(False, "Whether to use a TPU; not supported yet.", unimportant=True)
    tpu_name: str | None = setting(None, "As in the original; with use_tpu.", unimportant=True)
    tpu_zone: str | None = setting(None, "As in the original; with use_tpu.", unimportant=True)
    gcp_project: str | None = setting(None, "As in the original; with use_tpu.", unimportant=True)
    master: str | None = setting(None, "As in the original; with use_tpu.", unimportant=True)
    num_tpu_cores: int = setting(8, "As in the original; with use_tpu.", unimportant=True)

    def __post_init__(self) -> None:
        if not (self.do_train or self.do_eval or self.do_predict):
            raise InputError("give at least one of --do_train, --do_eval and --do_predict")
        if not self.output_dir:
            raise InputError("--output_dir is missing: give a folder for the run's files")
        if self.use_tpu:
            raise InputError("--use_tpu: this version does not train on TPUs yet")
        for name in (
            "train_batch_size",
            "eval_batch_size",
            "predict_batch_size",
            "num_seeds",
            "log_steps",
            "save_checkpoints_steps",
        ):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} must be at least 1, but is {getattr(self, name)}")
        for name in ("learning_rate", "num_train_epochs"):
            if not 0.0 < getattr(self, name) < math.inf:  # NaN is neither
                raise InputError(f"--{name} must be positive, but is {getattr(self, name)}")
        if not 0.0 <= self.weight_decay_rate < math.inf:
            raise InputError(
                f"--weight_decay_rate must not be negative, but is {self.weight_decay_rate}"
            )
        if not 0.0 <= self.warmup_proportion <= 1.0:
            raise InputError(
                f"--warmup_proportion must lie in [0, 1], but is {self.warmup_proportion}"
            )
        if self.seed < 0:
            raise InputError(f"--seed must not be negative, but is {self.seed}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification(FineTuning):
    """The settings of ``bert-tf run_classifier``."""

    task_name: str | None = setting(
        None,
        "cola, sst-2, mrpc, sts-b, qqp, mnli, qnli, rte, wnli, ax, xnli, goemotions, sick, "
        "sick_entailment; without it, the task is your own files, described by the next flags.",
    )
    data_dir: str | None = setting(None, "Folder of the task's files (train.tsv, dev.tsv, …).")
    train_file: str | None = setting(None, "Training file, instead of data_dir's.")
    dev_file: str | None = setting(
        None, "File to evaluate on, instead of data_dir's.", unimportant=True
    )
    test_file: str | None = setting(
        None, "File to predict, instead of data_dir's.", unimportant=True
    )
    task_type: str = setting(
        "single_label",
        "Own files: single_label, multi_label or regression.",
        choices=("single_label", "multi_label", "regression"),
    )
    text_column: str = setting("text", "Own files: column of the text, a name or number from 0.")
    text_b_column: str | None = setting(None, "Own files: column of the second text, for pairs.")
    label_column: str = setting("label", "Own files: column of the label.")
    has_header: bool = setting(True, "Own files: whether the first line names the columns.")
    labels: str | None = setting(
        None,
        "Own files: the labels, separated by commas; by default those of labels.txt or of "
        "the training file, sorted.",
    )
    label_separator: str = setting(",", "Own files: what separates several labels of a text.")


def unimportant_settings(configuration: type) -> frozenset[str]:
    """The names of the settings that do not change what a run computes."""
    return frozenset(
        field.name
        for field in dataclasses.fields(configuration)
        if field.metadata.get("unimportant")
    )


def stored_settings(configuration: Any) -> dict[str, Any]:
    """What ``run_config.yaml`` holds of a run's configuration."""
    return {
        field.name: getattr(configuration, field.name)
        for field in dataclasses.fields(configuration)
        if field.metadata.get("stored", True)
    }


def lower_case_of(name: str) -> bool | None:
    """Whether the folder name of a released checkpoint says that it lower-cases, else None.

    Source: validate_case_matches_checkpoint in tokenization.py of google-research/bert.
    """
    if re.search(r"(^|_)uncased_L-|^multilingual_L-|^chinese_L-", name):
        return True
    if re.search(r"(^|_)cased_L-", name):
        return False
    return None

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

# The flags that say what a training command is to do.
JOBS = ("do_train", "do_eval", "do_predict")

# What can make one vector of a text's.
POOLINGS = ("cls", "mean", "max")

# How the windows of a long text become one.
WINDOW_POOLINGS = ("mean", "max", "attention")

# What folders of weights there are, and convert_checkpoint turns into each other.
CHECKPOINT_FORMATS = ("original", "huggingface", "keras_hub", "model_garden")

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
class ModelUse(ModelFiles):
    """A model, and how much of an input it is to see."""

    max_seq_length: int = setting(128, "Longest input in word pieces, [CLS] and [SEP] included.")

    def _check_at_least_1(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name} must be at least 1, but is {value}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Devices:
    """What a run computes on, and in which precision."""

    precision: str = setting(
        "float32",
        "What the model computes in; weights, losses and the optimizer are float32 in any case. "
        "bfloat16 where the device has it; float16, with a loss scale, where it has that only.",
        choices=("float32", "bfloat16", "float16"),
    )
    xla: bool = setting(
        False,
        "Whether a training step is compiled by XLA, before the first step, once for each length "
        "of a batch; see fixed_length. On a TPU it is so in any case.",
    )
    strategy: str = setting(
        "auto",
        "one_device; mirrored, all GPUs of this machine or num_devices; multi_worker, the machines "
        "of worker_hosts or TF_CONFIG; tpu, those of this machine. auto: whatever there is, a TPU "
        "only with use_tpu.",
        choices=("auto", "one_device", "mirrored", "multi_worker", "tpu"),
        unimportant=True,
    )
    num_devices: int | None = setting(
        None,
        "Replicas on this machine: GPUs, by default all of them; without any, parts of the CPU.",
        unimportant=True,
    )
    worker_hosts: str | None = setting(
        None,
        "multi_worker: HOST:PORT of each worker, separated by commas, the same on all. The first "
        "one writes the files; all of them read its output_dir.",
        unimportant=True,
    )
    worker_index: int | None = setting(
        None,
        "multi_worker: which of worker_hosts this process is, from 0.",
        unimportant=True,
        stored=False,
    )
    worker_timeout: int = setting(
        300, "multi_worker: seconds in which all workers must have come up.", unimportant=True
    )
    collectives: str = setting(
        "auto",
        "multi_worker: how sums travel.",
        choices=("auto", "ring", "nccl"),
        unimportant=True,
    )
    use_tpu: bool = setting(False, "As in the original: strategy=tpu.", unimportant=True)
    tpu: str | None = setting(
        None, "local, the TPU of the machine that this runs on: strategy=tpu.", unimportant=True
    )
    tpu_name: str | None = setting(None, "As in the original: the same as tpu.", unimportant=True)
    tpu_zone: str | None = setting(None, "As in the original; not needed.", unimportant=True)
    gcp_project: str | None = setting(None, "As in the original; not needed.", unimportant=True)
    master: str | None = setting(None, "As in the original; not needed.", unimportant=True)
    num_tpu_cores: int = setting(8, "As in the original; not needed.", unimportant=True)

    @property
    def on_tpu(self) -> bool:
        """Whether the run uses a TPU."""
        return self.strategy == "tpu" or self.use_tpu or bool(self.tpu or self.tpu_name)

    def _check_devices(self) -> None:
        for name in ("num_devices", "worker_timeout"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name} must be at least 1, but is {value}")
        if self.strategy == "one_device" and (self.num_devices or 1) > 1:
            raise InputError(
                f"--strategy=one_device and --num_devices={self.num_devices}: give one of them"
            )
        if self.on_tpu and self.strategy not in ("auto", "tpu"):
            raise InputError(f"--strategy={self.strategy} and a TPU: give one of them")
        for name in ("tpu", "tpu_name"):
            value = getattr(self, name)
            if value not in (None, "local"):
                raise InputError(
                    f"--{name}={value}: a TPU is used from its own machine (TPU VM); run the "
                    f"command there, with --{name}=local"
                )
        if self.on_tpu and self.precision == "float16":
            raise InputError("--precision=float16: a TPU has bfloat16; give that")
        for name in ("worker_hosts", "worker_index"):
            if getattr(self, name) is not None and self.strategy not in ("auto", "multi_worker"):
                raise InputError(
                    f"--{name}: it is for --strategy=multi_worker, not {self.strategy}"
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training(Devices, ModelUse):
    """The settings that every command which trains a model shares."""

    output_dir: str | None = setting(
        None, "Where the run's files go: new or empty, or an unfinished run.", unimportant=True
    )
    do_train: bool = setting(False, "Whether to train.", unimportant=True)
    do_eval: bool = setting(False, "Whether to evaluate on the dev set.", unimportant=True)
    train_batch_size: int = setting(32, "Examples in a training step.")
    micro_batch_size: int | None = setting(
        None,
        "Examples that go through the model at once, a divisor of train_batch_size; saves memory.",
    )
    pack_examples: bool = setting(
        False,
        "Show several examples in one row of max_seq_length while training, each as if it were "
        "alone: for fixed shapes (XLA, TPU) without work on padding. Not for run_multiple_choice.",
    )
    recompute: bool = setting(
        False,
        "Compute each layer's activations again in the backward pass instead of keeping them: far "
        "less memory for more time; the weights are the same but for rounding.",
        unimportant=True,
    )
    eval_batch_size: int = setting(32, "Examples in an evaluation batch.", unimportant=True)
    learning_rate: float = setting(5e-5, "Adam's rate at the start of the decay.")
    weight_decay_rate: float = setting(0.01, "Decoupled weight decay.")
    seed: int = setting(12345, "Of new weights, of the order of examples and of dropout.")
    log_steps: int = setting(10, "How often a step is logged.", unimportant=True)
    save_checkpoints_steps: int = setting(
        1000, "How often the run can be resumed from.", unimportant=True
    )
    keep_checkpoint_max: int = setting(
        2,
        "How many of the last points to resume from are kept; where one turns out damaged, the run "
        "goes on from the one before.",
        unimportant=True,
    )
    overwrite: bool = setting(
        False,
        "Whether to replace another run in output_dir, or its results.",
        unimportant=True,
        stored=False,
    )
    iterations_per_loop: int = setting(
        1000,
        "Taken as the original takes it, and not needed: the host looks in every few seconds.",
        unimportant=True,
    )

    def __post_init__(self) -> None:
        jobs = [name for name in JOBS if hasattr(self, name)]
        if not any(getattr(self, name) for name in jobs):
            *most, last = (f"--{name}" for name in jobs)
            raise InputError(f"give at least one of {', '.join(most)} and {last}")
        if not self.output_dir:
            raise InputError("--output_dir is missing: give a folder for the run's files")
        self._check_devices()
        self._check_at_least_1(
            "train_batch_size",
            "micro_batch_size",
            "eval_batch_size",
            "log_steps",
            "save_checkpoints_steps",
            "keep_checkpoint_max",
        )
        if self.train_batch_size % (self.micro_batch_size or 1):
            raise InputError(
                f"--micro_batch_size={self.micro_batch_size} does not divide "
                f"--train_batch_size={self.train_batch_size}; give a divisor of it"
            )
        self._check_positive("learning_rate")
        if not 0.0 <= self.weight_decay_rate < math.inf:
            raise InputError(
                f"--weight_decay_rate must not be negative, but is {self.weight_decay_rate}"
            )
        if not 0 <= self.seed < 1 << 32:
            raise InputError(f"--seed must lie in 0 to 2**32 - 1, but is {self.seed}")

    def _refuse_packing(self, why: str) -> None:
        if self.pack_examples:
            raise InputError(f"--pack_examples: {why}; leave it out")

    def _check_positive(self, name: str) -> None:
        value = getattr(self, name)
        if not 0.0 < value < math.inf:  # NaN is neither
            raise InputError(f"--{name} must be positive, but is {value}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTuning(Training):
    """The settings that every fine-tuning command shares."""

    fixed_length: bool = setting(
        False, "Pad every batch to max_seq_length, instead of to its own longest row."
    )
    do_predict: bool = setting(False, "Whether to predict the test set.", unimportant=True)
    predict_batch_size: int = setting(32, "Examples in a prediction batch.", unimportant=True)
    num_train_epochs: float = setting(3.0, "Passes over the training set.")
    warmup_proportion: float = setting(0.1, "Share of the steps in which the rate rises.")
    bias_correction: bool = setting(
        False, "Adam with bias correction: not the original, but stabler on small data sets."
    )
    eval_steps: int | None = setting(
        None,
        "While training, evaluate on the dev set of do_eval every so many steps, and after the "
        "last. The best model so far is kept in best/ (with num_seeds in each seed's folder): that "
        "with the highest F1 of entities (run_tagger) or answers (run_squad), else MCC (cola), "
        "Pearson correlation (regression), F1 (multi_label) or accuracy.",
        unimportant=True,
    )
    num_seeds: int = setting(
        1, "Train this many runs, with seeds seed, seed + 1, …; report mean, deviation and best."
    )

    @property
    def padded_length(self) -> int | None:
        """What every batch is padded to; None for its own longest row."""
        return self.max_seq_length if self.fixed_length or self.on_tpu else None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_at_least_1("predict_batch_size", "eval_steps", "num_seeds")
        if self.eval_steps and self.do_train and not self.do_eval:
            raise InputError(
                f"--eval_steps={self.eval_steps}: evaluation while training is that of --do_eval; "
                "give that too"
            )
        self._check_positive("num_train_epochs")
        if not 0.0 <= self.warmup_proportion <= 1.0:
            raise InputError(
                f"--warmup_proportion must lie in [0, 1], but is {self.warmup_proportion}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitFiles:
    """Where the examples of a task with three splits are."""

    data_dir: str | None = setting(None, "Folder of the task's files (train.…, dev.…, test.…).")
    train_file: str | None = setting(None, "Training file, instead of data_dir's.")
    dev_file: str | None = setting(
        None, "File to evaluate on, instead of data_dir's.", unimportant=True
    )
    test_file: str | None = setting(
        None, "File to predict, instead of data_dir's.", unimportant=True
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification(SplitFiles, FineTuning):
    """The settings of ``bert-tf run_classifier``."""

    task_name: str | None = setting(
        None,
        "cola, sst-2, mrpc, sts-b, qqp, mnli, qnli, rte, wnli, ax, xnli, goemotions, sick, "
        "sick_entailment; without it, the task is your own files, described by the next flags.",
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
    long_text: str = setting(
        "head",
        "What is shown of a text longer than max_seq_length: its head, its tail, both (head_tail: "
        "128 and 382 pieces of 510), or all of it, in windows.",
        choices=("head", "tail", "head_tail", "windows"),
    )
    window_stride: int | None = setting(
        None, "Windows: pieces between the starts of two; by default they do not overlap."
    )
    max_windows: int = setting(8, "Windows: most of a text; what is beyond them is not shown.")
    window_pooling: str = setting(
        "mean", "Windows: how their vectors become one.", choices=WINDOW_POOLINGS
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_at_least_1("window_stride", "max_windows")
        for name in ("window_stride", "max_windows", "window_pooling"):
            if self.long_text != "windows" and getattr(self, name) != getattr(Classification, name):
                raise InputError(
                    f"--{name}={getattr(self, name)}: it is for windows; give --long_text=windows "
                    "too"
                )
        if self.long_text == "windows":
            self._refuse_packing("with --long_text=windows an example has rows of its own")
        if self.long_text != "head" and self.max_seq_length < 3:
            raise InputError(
                f"--max_seq_length={self.max_seq_length} leaves no room beside [CLS] and [SEP]; "
                "give 3 or more"
            )
        if self.window_stride is not None and self.window_stride > self.max_seq_length - 2:
            raise InputError(
                f"--window_stride={self.window_stride} would leave pieces out between windows of "
                f"{self.max_seq_length - 2} pieces (--max_seq_length without [CLS] and [SEP])"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tagging(SplitFiles, FineTuning):
    """The settings of ``bert-tf run_tagger``."""

    tag_column: str | None = setting(
        None,
        "Where the tag is: of columns the number, from 0 (by default the last); in CoNLL-U upos "
        "(the default), xpos, …; in JSONL the key (tags).",
    )
    tag_scheme: str = setting(
        "auto",
        "How entities are written: iob1, iob2 or bioes; none for tags that are no entities, such "
        "as parts of speech; auto to see by the tags.",
        choices=("auto", "iob1", "iob2", "bioes", "none"),
    )
    crf: bool = setting(False, "Whether the labels of a sentence depend on each other (CRF).")
    doc_context: bool = setting(
        False, "Fill rows up to max_seq_length with the sentences around, of the same document."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultipleChoice(SplitFiles, FineTuning):
    """The settings of ``bert-tf run_multiple_choice``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_packing("the choices of a question have rows of their own")


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuestionAnswering(FineTuning):
    """The settings of ``bert-tf run_squad``."""

    train_file: str | None = setting(None, "Questions to train on, JSON in the form of SQuAD.")
    predict_file: str | None = setting(
        None, "Questions to answer or to evaluate on, in the same form."
    )
    max_seq_length: int = setting(
        384, "Longest row in word pieces: question, part of the context, [CLS] and two [SEP]."
    )
    doc_stride: int = setting(
        128, "A context that is too long is shown in parts that start so many pieces apart."
    )
    max_query_length: int = setting(64, "Pieces that are kept of a question.")
    do_eval: bool = setting(
        False,
        "Whether to evaluate on predict_file: exact match and F1. do_predict does so too if all of "
        "its questions have answers.",
        unimportant=True,
    )
    do_predict: bool = setting(
        False, "Whether to answer the questions of predict_file.", unimportant=True
    )
    predict_batch_size: int = setting(8, "Rows in a prediction batch.", unimportant=True)
    n_best_size: int = setting(
        20,
        "Answers in nbest_predictions.json, and starts and ends that they are made of.",
        unimportant=True,
    )
    max_answer_length: int = setting(30, "Longest answer in pieces.", unimportant=True)
    version_2_with_negative: bool = setting(
        False, "Whether there are questions without an answer, as in SQuAD 2.0."
    )
    null_score_diff_threshold: float | None = setting(
        None,
        "No answer is given if its score is so much above the best answer's. By default what is "
        "stored with the model: the run's first evaluation finds it, that with the best F1. (In "
        "the original: 0.0.)",
        unimportant=True,
    )
    answer_text: str = setting(
        "offsets",
        "offsets: an answer is the characters from its first to its last piece; realigned: as the "
        "original finds them without offsets (get_final_text).",
        choices=("offsets", "realigned"),
        unimportant=True,
    )
    verbose_logging: bool = setting(
        False, "Name every question that a warning counts, not the first few.", unimportant=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_at_least_1("doc_stride", "max_query_length", "n_best_size", "max_answer_length")
        if self.max_seq_length < self.max_query_length + 4:
            raise InputError(
                f"--max_seq_length={self.max_seq_length} leaves no room for a context beside a "
                f"question of --max_query_length={self.max_query_length} pieces, [CLS] and two "
                "[SEP]; give a larger one, or a smaller --max_query_length"
            )
        for job, name in (
            ("do_train", "train_file"),
            ("do_eval", "predict_file"),
            ("do_predict", "predict_file"),
        ):
            if getattr(self, job) and not getattr(self, name):
                raise InputError(f"--{name} is missing: --{job} needs questions, give their file")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Masking:
    """What is masked, as the two pretraining commands take it."""

    max_predictions_per_seq: int = setting(20, "Most masked pieces in an instance.")
    masked_lm_prob: float = setting(0.15, "Share of the pieces that are masked.")
    do_whole_word_mask: bool = setting(False, "Mask all pieces of a word, or none.")
    do_span_mask: bool = setting(
        False, "Mask spans of words of random (geometric) lengths, as in SpanBERT."
    )
    span_geometric_p: float = setting(0.2, "Spans: the distribution's parameter.")
    max_span_length: int = setting(10, "Spans: the longest, in words.")

    def __post_init__(self) -> None:
        if self.do_whole_word_mask and self.do_span_mask:
            raise InputError("give --do_whole_word_mask or --do_span_mask, not both")
        for name in ("span_geometric_p", "max_span_length"):
            if getattr(self, name) != getattr(Masking, name) and not self.do_span_mask:
                raise InputError(
                    f"--{name}={getattr(self, name)}: it is for spans; give --do_span_mask too"
                )

    def _refuse_mask_settings(self, advice: str) -> None:
        """For records without masks, or with masks already."""
        for field in dataclasses.fields(Masking):
            value = getattr(self, field.name)
            if field.name != "max_predictions_per_seq" and value != field.default:
                raise InputError(f"--{field.name}={str(value).lower()}: {advice}")

    def _check_room(self, max_seq_length: int) -> None:
        if not 0.0 < self.masked_lm_prob < 1.0:  # NaN is neither
            raise InputError(
                f"--masked_lm_prob must lie between 0 and 1, but is {self.masked_lm_prob}"
            )
        # The rate is met in the longest instances; rounding up is left to the user.
        wanted = int(max_seq_length * self.masked_lm_prob)
        if self.max_predictions_per_seq < wanted:
            raise InputError(
                f"--max_predictions_per_seq={self.max_predictions_per_seq} is too small: "
                f"--masked_lm_prob={self.masked_lm_prob} of --max_seq_length={max_seq_length} are "
                f"{wanted} pieces; give at least that"
            )

    @property
    def mask_unit(self) -> str:
        """What is masked as a whole."""
        if self.do_span_mask:
            return "span"
        return "whole_word" if self.do_whole_word_mask else "token"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainingData(Masking):
    """The settings of ``bert-tf create_pretraining_data``."""

    input_file: str | None = setting(
        None,
        "Text files, plain or gzip: names or globs, separated by commas. One sentence a "
        "line, a blank line between documents.",
    )
    output_file: str | None = setting(
        None, "Where the records go: a name, or several, separated by commas."
    )
    vocab_file: str | None = setting(None, "vocab.txt of the model that is to be trained.")
    do_lower_case: bool = setting(True, "Whether to lower-case; false for cased models.")
    max_seq_length: int = setting(128, "Longest instance in word pieces, [CLS], [SEP] included.")
    random_seed: int = setting(12345, "Of all random choices.")
    dupe_factor: int = setting(10, "How often the text is gone through, masked anew each time.")
    short_seq_prob: float = setting(
        0.1, "Share of the documents that are cut into shorter instances (next_sentence=nsp)."
    )
    next_sentence: str = setting(
        "nsp",
        "nsp: pairs of texts, of which half are random; none: full sentences up to the limit, "
        "across documents, as in RoBERTa.",
        choices=("nsp", "none"),
    )
    masking: str = setting(
        "static",
        "static: the records hold masks; dynamic: they hold none, and run_pretraining "
        "--masking=dynamic masks anew in each epoch.",
        choices=("static", "dynamic"),
    )
    num_shards: int | None = setting(
        None, "Write so many files, called OUTPUT_FILE-00000-of-0000N and so on."
    )
    gzip_compress: bool = setting(
        False, "Whether to compress the records; files called *.gz are compressed in any case."
    )
    num_workers: int | None = setting(
        None,
        "Processes at work; the records do not depend on it. By default one per core.",
        unimportant=True,
    )
    runner: str | None = setting(
        None,
        "Make the same records with Apache Beam (pip install 'bert-tf[beam]'), for a corpus that "
        "is too large for one machine: DirectRunner, DataflowRunner, FlinkRunner, SparkRunner, … A "
        "run that is cut off begins anew then.",
        unimportant=True,
    )
    beam_options: str | None = setting(
        None,
        "With runner: Beam's options, in quotes, such as '--project=p --region=r "
        "--temp_location=gs://b/tmp', or '--direct_num_workers=2 "
        "--direct_running_mode=multi_processing'.",
        unimportant=True,
        stored=False,  # there may be passwords among them
    )
    overwrite: bool = setting(
        False, "Whether to replace files that are there already.", unimportant=True, stored=False
    )

    def __post_init__(self) -> None:
        for name, what in (
            ("input_file", "the text"),
            ("output_file", "where the records go"),
            ("vocab_file", "the vocab.txt of the model that is to be trained"),
        ):
            if not getattr(self, name):
                raise InputError(f"--{name} is missing: give {what}")
        for name in ("num_shards", "num_workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name} must be at least 1, but is {value}")
        if self.random_seed < 0:
            raise InputError(f"--random_seed must not be negative, but is {self.random_seed}")
        if self.beam_options and not self.runner:
            raise InputError("--beam_options: there is no --runner; give one, or leave this out")
        if self.num_workers and self.runner:
            raise InputError(
                f"--num_workers={self.num_workers}: --runner={self.runner} has workers of its own; "
                "give their number in --beam_options, such as --direct_num_workers=2"
            )
        if self.masking == "static":
            self._check_room(self.max_seq_length)
        super().__post_init__()
        if self.masking == "dynamic":
            self._refuse_mask_settings(
                "the records of --masking=dynamic hold no masks; give it to run_pretraining instead"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretraining(Masking, Training):
    """The settings of ``bert-tf run_pretraining``."""

    input_file: str | None = setting(
        None, "TFRecord files, plain or gzip: names or globs, separated by commas."
    )
    eval_input_file: str | None = setting(
        None,
        "Records to evaluate on, which training does not see; by default those of input_file.",
        unimportant=True,
    )
    do_eval: bool = setting(
        False,
        "Whether to evaluate: each record once, in the files' order, up to max_eval_steps batches.",
        unimportant=True,
    )
    eval_batch_size: int = setting(8, "Records in an evaluation batch.", unimportant=True)
    max_eval_steps: int = setting(100, "Most batches of an evaluation.", unimportant=True)
    eval_steps: int | None = setting(
        None,
        "While training, evaluate on eval_input_file every so many steps, and after the last.",
        unimportant=True,
    )
    num_train_steps: int = setting(
        100_000, "Updates in all, with resume_optimizer those of the checkpoint included."
    )
    num_warmup_steps: int = setting(10_000, "Steps in which the rate rises.")
    stop_at_step: int | None = setting(
        None,
        "End after so many updates, on the way to num_train_steps, at which the rate would be 0: "
        "for a first phase, after which a second one goes on with the same schedule.",
        unimportant=True,
    )
    optimizer: str = setting(
        "adamw",
        "adamw, the original's; or lamb, for batches of thousands.",
        choices=("adamw", "lamb"),
    )
    resume_optimizer: bool = setting(
        False,
        "Take the optimizer's state and the number of updates from init_checkpoint too, and go on "
        "from there: for a second phase, with longer sequences.",
    )
    masking: str = setting(
        "static",
        "static: the records hold masks; dynamic: they hold none, and each epoch is masked anew, "
        "as the next flags say. It needs vocab_file.",
        choices=("static", "dynamic"),
    )
    next_sentence: str = setting(
        "nsp",
        "nsp: train the next-sentence head too; none: leave its loss out.",
        choices=("nsp", "none"),
    )

    def __post_init__(self) -> None:
        Training.__post_init__(self)
        Masking.__post_init__(self)
        if not self.input_file and (self.do_train or not self.eval_input_file):
            raise InputError("--input_file is missing: give the files of create_pretraining_data")
        self._check_at_least_1(
            "max_seq_length",
            "max_predictions_per_seq",
            "max_eval_steps",
            "eval_steps",
            "num_train_steps",
            "stop_at_step",
        )
        if self.last_step > self.num_train_steps:
            raise InputError(
                f"--stop_at_step={self.stop_at_step} is more than "
                f"--num_train_steps={self.num_train_steps}; give at most that"
            )
        if self.num_warmup_steps < 0:
            raise InputError(
                f"--num_warmup_steps must not be negative, but is {self.num_warmup_steps}"
            )
        if self.eval_input_file and not (self.do_eval or self.eval_steps):
            raise InputError(
                "--eval_input_file: nothing evaluates on it; give --do_eval, or --eval_steps to "
                "evaluate while training"
            )
        if self.eval_steps and not self.eval_input_file:
            raise InputError(
                "--eval_steps: evaluation while training needs --eval_input_file, records that "
                "training does not see"
            )
        if self.resume_optimizer and not self.init_checkpoint:
            raise InputError(
                "--resume_optimizer: --init_checkpoint is missing; give the checkpoint whose "
                "training is to go on"
            )
        if self.masking == "dynamic":
            self._check_room(self.max_seq_length)
        else:
            self._refuse_mask_settings(
                "the records of --masking=static hold their masks already; give it to "
                "create_pretraining_data instead, or give --masking=dynamic"
            )

    @property
    def last_step(self) -> int:
        """The updates after which the run is finished."""
        return self.num_train_steps if self.stop_at_step is None else self.stop_at_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureExtraction(ModelUse):
    """The settings of ``bert-tf extract_features``."""

    input_file: str | None = setting(
        None, "A file with one text per line, or two with ' ||| ' between them."
    )
    output_file: str | None = setting(
        None, "Where the features go, one JSON object per line; with pooling an .npy."
    )
    layers: str = setting(
        "-1,-2,-3,-4",
        "The layers whose outputs are wanted, separated by commas: -1 is the last, 0 the first.",
    )
    batch_size: int = setting(32, "Rows that go through the model at once.")
    pooling: str | None = setting(
        None,
        "One vector per line instead, of the first layer that layers names: cls, that of [CLS]; "
        "mean or max over the row's pieces, [CLS] and [SEP] included. Written as float32 [number "
        "of lines, hidden_size] to an output_file that ends in .npy.",
        choices=POOLINGS,
    )
    normalize: bool = setting(False, "With pooling: whether vectors get length 1.")
    overwrite: bool = setting(False, "Whether to replace a file that is there already.")
    use_tpu: bool = setting(False, "Whether to use a TPU; not supported yet.")
    master: str | None = setting(None, "As in the original; with use_tpu.")
    num_tpu_cores: int = setting(8, "As in the original; with use_tpu.")
    use_one_hot_embeddings: bool = setting(
        False, "As in the original, where it was faster on a TPU; the results are the same."
    )

    def __post_init__(self) -> None:
        for name, what in (
            ("input_file", "the texts, one per line"),
            ("output_file", "where the features go"),
        ):
            if not getattr(self, name):
                raise InputError(f"--{name} is missing: give {what}")
        if self.use_tpu:
            raise InputError("--use_tpu: this version does not use TPUs yet")
        self._check_at_least_1("batch_size")
        is_array = str(self.output_file).endswith(".npy")
        if self.pooling and not is_array:
            raise InputError(
                f"--output_file {self.output_file}: --pooling={self.pooling} writes an array; give "
                "a name that ends in .npy"
            )
        if is_array and not self.pooling:
            raise InputError(
                f"--output_file {self.output_file}: an array has one vector per line; give "
                "--pooling too, or another name for lines of JSON"
            )
        if self.normalize and not self.pooling:
            raise InputError("--normalize: it is for the vectors of --pooling; give that too")
        _ = self.layer_indexes  # numbers?

    @property
    def layer_indexes(self) -> tuple[int, ...]:
        """The layers that are read: those of ``layers``, or with ``pooling`` the first of them."""
        try:
            indexes = tuple(int(index) for index in self.layers.split(","))
        except ValueError as error:
            raise InputError(
                f"--layers={self.layers}: expected numbers with commas between them, as in -1,-2"
            ) from error
        return indexes[:1] if self.pooling else indexes


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

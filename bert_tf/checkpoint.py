"""Takes checkpoints of the original, returns loaded weights and a report; next: metrics.

A checkpoint is addressed by its prefix, the path without ``.index``. ``variable.path`` is the
variable's name in the file, so nothing is mapped and nothing reshaped.
"""

import contextlib
import dataclasses
import fnmatch
import logging
import os
import pathlib
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bert_tf import run_folder
from bert_tf.config import BertConfig
from bert_tf.errors import InputError, listed, reason
from bert_tf.modeling import BertModel
from bert_tf.optimization import AdamWeightDecay, LossScale
from bert_tf.replicas import agreed

logger = logging.getLogger(__name__)

SLOTS = ("adam_m", "adam_v")
WORD_EMBEDDINGS = "/embeddings/word_embeddings"
DATA_SUFFIX = ".data-00000-of-00001"
OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  # what only an object-based checkpoint holds

# What TensorFlow's reader raises, depending on which layer notices the damage.
READ_ERRORS = (tf.errors.OpError, IndexError, NotImplementedError, RuntimeError, ValueError)

Path = str | os.PathLike[str]

_POINT = re.compile(r"ckpt-\d+")  # the name of a resume point


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What became of each variable of the model and each tensor of the file.

    Attributes:
        path: the checkpoint's prefix.
        prefix: what stands before the model's names in the file, such as ``module/``; empty in
            checkpoints of the original.
        scope: what the scope ``bert`` is called in the file, such as ``bert_1``.
        loaded: names of the variables that fit, and, unless the load was refused, now hold the
            file's values.
        missing: variables that the file does not have; they keep their values.
        unused: tensors of the file that nothing asked for.
        misshapen: (name, shape in the model, shape in the file).
    """

    path: str
    prefix: str
    scope: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    misshapen: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    def __str__(self) -> str:
        return self.describe("loaded", "new, missing in the file")

    def describe(self, verb: str, missing: str = "missing in the file") -> str:
        """All of it in words.

        Args:
            verb: what became of the variables that fit.
            missing: what the variables are that the file lacks.
        """
        lines = [f"{self.path}: {len(self.loaded)} variables {verb}"]
        if self.prefix or self.scope != "bert":
            lines.append(f"  names in the file begin with {self.prefix + self.scope!r}, not 'bert'")
        slots = [name for name in self.unused if is_training_state(name)]
        others = [name for name in self.unused if not is_training_state(name)]
        for what, names in (
            (missing, self.missing),
            (
                "of another shape",
                [
                    f"{n}: {_shape(m)} in the model, {_shape(f)} in the file"
                    for n, m, f in self.misshapen
                ],
            ),
            ("in the file but not in the model", others),
        ):
            if names:
                lines.append(f"  {len(names)} {what}: {listed(names)}")
        if slots:
            lines.append(f"  {len(slots)} of the optimizer's variables in the file not used")
        return "\n".join(lines)


class CheckpointError(InputError):
    """A checkpoint that does not fit; ``report`` says what does and what does not."""

    def __init__(self, message: str, report: LoadReport | None = None) -> None:
        super().__init__(message)
        self.report = report


class Checkpoint:
    """An open checkpoint of the original's format.

    Args:
        path: the prefix; its ``.index`` file or a folder with ``bert_model.ckpt`` will do.

    Raises:
        CheckpointError: if there is none, or it is damaged, or of another format.

    Attributes:
        path: the prefix.
        shapes: name -> shape of every tensor in the file.
        prefix: see LoadReport.
        scope: see LoadReport.
    """

    def __init__(self, path: Path) -> None:
        self.path = _find_prefix(path)
        try:
            self._reader = tf.train.load_checkpoint(self.path)
            shapes = self._reader.get_variable_to_shape_map()
        except READ_ERRORS as error:
            raise _unreadable(self.path, error) from error
        if OBJECT_GRAPH in shapes:
            raise CheckpointError(
                f"{self.path}: this is an object-based TensorFlow 2 checkpoint, which has no "
                "variable names; bert-tf reads the original's name-based format. If Model Garden "
                "wrote it, bert-tf convert_checkpoint --from FOLDER --to FOLDER turns it into that"
            )
        self.shapes = {name: tuple(shape) for name, shape in sorted(shapes.items())}
        self.prefix, self.scope = self._find_scope()

    def _find_scope(self) -> tuple[str, str]:
        found = [
            name.removesuffix(WORD_EMBEDDINGS)
            for name in self.shapes
            if name.endswith(WORD_EMBEDDINGS)
        ]
        if not found:
            raise CheckpointError(
                f"{self.path}: not a checkpoint of BERT: none of its {len(self.shapes)} tensors "
                f"is called bert{WORD_EMBEDDINGS}; it has {listed(list(self.shapes))}"
            )
        if "bert" in found:
            return "", "bert"
        if len(found) > 1:
            raise CheckpointError(
                f"{self.path}: holds several encoders, {listed(found)}, and none is called 'bert'"
            )
        prefix, slash, scope = found[0].rpartition("/")
        return prefix + slash, scope

    def name_in_file(self, name: str) -> str:
        """The name that a variable of the model has in this file."""
        first, slash, rest = name.partition("/")
        return self.prefix + (self.scope if first == "bert" else first) + slash + rest

    def read(self, names: Sequence[str]) -> list[tf.Tensor]:
        """Tensors by their names in the file, all in one pass over it.

        Raises:
            CheckpointError: if the values cannot be read.
        """
        dtypes = self._reader.get_variable_to_dtype_map()
        try:
            return tf.raw_ops.RestoreV2(
                prefix=self.path,
                tensor_names=list(names),
                shape_and_slices=[""] * len(names),
                dtypes=[dtypes[name] for name in names],
            )
        except READ_ERRORS as error:
            raise CheckpointError(
                f"{self.path}{DATA_SUFFIX}: cannot read it; the file is missing, cut short or "
                f"damaged ({reason(error)}). Copy or download it again"
            ) from error

    def check_config(
        self,
        config: BertConfig,
        source: str = "the configuration",
        report: LoadReport | None = None,
    ) -> None:
        """Compares a configuration with the file's shapes, before anything is built.

        Args:
            config: what the model is to be built from.
            source: what to call it in the message, usually its file.
            report: what the error carries and its message ends with.

        Raises:
            CheckpointError: naming each key that does not fit.
        """
        scope = self.prefix + self.scope
        layers = [
            int(match.group(1))
            for name in self.shapes
            if (match := re.match(re.escape(scope) + r"/encoder/layer_(\d+)/", name))
        ]
        found = {"num_hidden_layers": max(layers, default=-1) + 1}
        for suffix, axis, key in (
            (WORD_EMBEDDINGS, 0, "vocab_size"),
            (WORD_EMBEDDINGS, 1, "hidden_size"),
            ("/embeddings/token_type_embeddings", 0, "type_vocab_size"),
            ("/embeddings/position_embeddings", 0, "max_position_embeddings"),
            ("/encoder/layer_0/intermediate/dense/kernel", 1, "intermediate_size"),
        ):
            shape = self.shapes.get(scope + suffix)
            if shape is not None and len(shape) > axis:
                found[key] = shape[axis]
        wrong = [
            f"{key} is {getattr(config, key)} there, but {value} in the checkpoint"
            for key, value in found.items()
            if getattr(config, key) != value
        ]
        if wrong:
            raise CheckpointError(
                f"{source} does not belong to the checkpoint {self.path}: {'; '.join(wrong)}"
                + (f"\n{report.describe('fit')}" if report else ""),
                report,
            )


def is_object_based(prefix: str) -> bool:
    """Whether a checkpoint is one of TensorFlow 2's, without variable names.

    Raises:
        CheckpointError: if it cannot be read.
    """
    try:
        return bool(tf.train.load_checkpoint(prefix).has_tensor(OBJECT_GRAPH))
    except READ_ERRORS as error:
        raise _unreadable(prefix, error) from error


def variables_by_name(model: keras.Model) -> dict[str, keras.Variable]:
    """The model's weights under their names in a checkpoint.

    The encoder's scope is ``bert`` whatever the BertModel is called. Any other weight that carries
    the model's own name in its path, such as a classifier's ``output_weights``, loses it: the
    original has no such scope.

    Raises:
        InputError: if two variables would have the same name.
    """
    encoders = [layer for layer in (model, *model.layers) if isinstance(layer, BertModel)]
    scopes = {id(weight): layer.name for layer in encoders for weight in layer.weights}
    named = {}
    for variable in model.weights:
        if id(variable) in scopes:
            name = "bert/" + variable.path.partition(f"{scopes[id(variable)]}/")[2]
        else:
            name = variable.path.removeprefix(f"{model.name}/")
        if name in named:
            raise InputError(
                f"{model.name}: has two variables for {name}; load or save one encoder at a time"
            )
        named[name] = variable
    return named


def load_checkpoint(
    model: keras.Model,
    path: Path,
    *,
    allow_missing: Sequence[str] = (),
    optimizer: AdamWeightDecay | None = None,
) -> LoadReport:
    """Loads a checkpoint of the original's format into a model.

    Args:
        model: BertModel, or a model with one inside.
        path: the checkpoint's prefix (``…/bert_model.ckpt``).
        allow_missing: patterns, as of a shell (``cls/*``, ``output_*``), of the variables that may
            be missing in the file; they keep their initial values.
        optimizer: if given, its slots and its step are loaded too, and must be in the file.

    Returns:
        What was loaded and what was not.

    Raises:
        CheckpointError: if a variable is missing or misshapen, the configuration does not fit, or
            the file cannot be read. The model is left as it was.
    """
    checkpoint = Checkpoint(path)
    wanted = variables_by_name(model)
    if optimizer is not None:
        wanted |= _optimizer_variables(model, optimizer)

    loaded, missing, misshapen, used = {}, [], [], set()
    for name, variable in wanted.items():
        in_file = checkpoint.name_in_file(name)
        shape = checkpoint.shapes.get(in_file)
        if shape is None:
            missing.append(name)
        elif shape != tuple(variable.shape):
            misshapen.append((name, tuple(variable.shape), shape))
            used.add(in_file)
        else:
            loaded[name] = in_file
            used.add(in_file)
    report = LoadReport(
        path=checkpoint.path,
        prefix=checkpoint.prefix,
        scope=checkpoint.scope,
        loaded=tuple(loaded),
        missing=tuple(missing),
        unused=tuple(name for name in checkpoint.shapes if name not in used),
        misshapen=tuple(misshapen),
    )
    forbidden = [
        name
        for name in missing
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in allow_missing)
    ]
    config = getattr(model, "config", None)
    if isinstance(config, BertConfig):  # says best what is wrong, and sees layers left over
        checkpoint.check_config(config, "the model's configuration", report)
    if forbidden or misshapen:
        raise CheckpointError(_refusal(report, forbidden), report)
    for name, value in zip(loaded, checkpoint.read(list(loaded.values())), strict=True):
        wanted[name].assign(tf.cast(value, wanted[name].dtype))
    return report


def save_checkpoint(
    model: keras.Model, path: Path, *, optimizer: AdamWeightDecay | None = None
) -> None:
    """Writes a checkpoint that the original code reads, whole or not at all.

    Args:
        model: BertModel, or a model with one inside; its heads are written too.
        path: the prefix to write to; an existing checkpoint there is replaced.
        optimizer: if given, its slots are written as ``<name>/adam_m`` and ``<name>/adam_v``, and
            its number of updates as ``global_step``.

    Raises:
        InputError: if the files cannot be written.
    """
    variables = variables_by_name(model)
    if optimizer is not None:
        variables |= _optimizer_variables(model, optimizer)
    write_tensors({name: variable.value for name, variable in variables.items()}, path)


def write_tensors(tensors: Mapping[str, tf.Tensor | np.ndarray], path: Path) -> None:
    """Writes named tensors as a checkpoint, whole or not at all."""
    prefix = os.fspath(path)
    temporary = f"{prefix}.{uuid.uuid4().hex[:8]}.tmp"
    names = sorted(tensors)
    try:
        pathlib.Path(prefix).parent.mkdir(parents=True, exist_ok=True)
        tf.raw_ops.SaveV2(
            prefix=temporary,
            tensor_names=names,
            shape_and_slices=[""] * len(names),
            tensors=[tf.convert_to_tensor(tensors[name]) for name in names],
        )
        for suffix in (DATA_SUFFIX, ".index"):
            with pathlib.Path(temporary + suffix).open("rb") as file:
                os.fsync(file.fileno())
        # The index goes last: without it, a reader sees the old checkpoint or none.
        pathlib.Path(prefix + ".index").unlink(missing_ok=True)
        for suffix in (DATA_SUFFIX, ".index"):
            pathlib.Path(temporary + suffix).replace(prefix + suffix)
    except (OSError, tf.errors.OpError) as error:
        raise InputError(f"{prefix}: cannot write the checkpoint: {reason(error)}") from error
    finally:
        for leftover in pathlib.Path(prefix).parent.glob(pathlib.Path(temporary).name + "*"):
            with contextlib.suppress(OSError):
                leftover.unlink()


class ResumePoints(tf.train.CheckpointManager):
    """What a run can go on from: weights, slots and the number of updates; the last few are kept.

    The order of the data and the masks of dropout are functions of (seed, step), so there is
    nothing else to keep. A point that cannot be read does not count, and the one before it does:
    all of a point is read before anything of it is restored.

    Args:
        model: the run's model.
        optimizer: its optimizer, with slots.
        folder: where the files go.
        interval: updates between two of them.
        max_to_keep: how many are kept.
        loss_scale: of the run, if it has one.
        writes: whether this process writes them; else it only reads what another one wrote.

    Raises:
        InputError: if there are points, but none that can be read.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: AdamWeightDecay,
        folder: Path,
        interval: int,
        *,
        max_to_keep: int = 2,
        loss_scale: LossScale | None = None,
        writes: bool = True,
    ) -> None:
        self._writes = writes
        if writes:
            _pass_over_damaged(pathlib.Path(folder))
        agreed(0)  # other workers look at what is left
        state = tf.train.Checkpoint(
            weights=[variable.value for variable in model.weights],
            optimizer=[variable.value for variable in optimizer.variables],
            **({} if loss_scale is None else {"loss_scale": loss_scale.variables}),
        )
        # Made by its first use, by all workers together: they agree on a new variable's value.
        _ = state.save_counter
        super().__init__(
            state,
            os.fspath(folder),
            max_to_keep=max_to_keep,
            step_counter=optimizer.iterations.value,
            checkpoint_interval=interval,
        )
        self._updates = optimizer.iterations.value

    def restore_or_initialize(self) -> str | None:
        """As the base class; what cannot be read is named."""
        try:
            return super().restore_or_initialize()
        except (OSError, tf.errors.OpError) as error:
            raise InputError(
                _cannot_go_on(self.latest_checkpoint or self.directory, reason(error))
            ) from error

    def save(
        self, checkpoint_number: Any = None, check_interval: bool = True, options: Any = None
    ) -> str | None:
        """As the base class, but at the multiples of the interval and never twice at one step.

        The base class saves where ``interval`` updates or more have passed since it last did, which
        depends on when it is asked. What cannot be written leaves the earlier ones as they were.
        """
        done = int(self._updates.numpy())
        if not self._writes:
            return None
        if check_interval and done % self.checkpoint_interval:
            return None
        if (self.latest_checkpoint or "").endswith(f"-{done}"):
            return None
        try:
            return super().save(done, check_interval=False, options=options)
        except (OSError, tf.errors.OpError) as error:
            for leftover in pathlib.Path(self.directory).glob("*_temp"):
                shutil.rmtree(leftover, ignore_errors=True)
            raise InputError(
                f"{self.directory}: cannot write what the run could be resumed from: "
                f"{reason(error)}. Make room, then give the same command again"
            ) from error


def _pass_over_damaged(folder: pathlib.Path) -> None:
    """Makes a folder's newest resume point that can be read its newest, if another one is."""
    state = folder / "checkpoint"
    if not state.exists():
        return
    try:
        found = tf.train.get_checkpoint_state(folder)
        listed = list(found.all_model_checkpoint_paths)[::-1] if found else []
    except ValueError:  # an empty file, or no text
        listed = []
    listed = [point for point in listed if _POINT.fullmatch(pathlib.Path(point).name)]
    on_disk = {str(path.with_suffix("")) for path in folder.glob("*.index")} - set(listed)
    others = [point for point in on_disk if _POINT.fullmatch(pathlib.Path(point).name)]
    points = [*listed, *sorted(others, key=_update_of, reverse=True)]
    damage: dict[str, str] = {}
    for newest in points:
        problem = _damage(newest)
        if problem is None:
            break
        damage[newest] = problem
    else:
        problem = next(iter(damage.values()), "it names no point that is there")
        raise InputError(_cannot_go_on(points[0] if points else str(state), problem))
    for point, problem in damage.items():
        logger.warning("%s: cannot read it, so it does not count: %s", point, problem)
    if newest in listed[:1]:
        return
    logger.warning("going back to %s", newest)
    kept = sorted(
        {point for point in points if _update_of(point) <= _update_of(newest)} - set(damage),
        key=_update_of,
    )
    lines = [f'model_checkpoint_path: "{pathlib.Path(newest).name}"']
    for point in kept:
        lines.append(f'all_model_checkpoint_paths: "{pathlib.Path(point).name}"')
        lines.append("all_model_checkpoint_timestamps: 1.0")  # later than the last line
    run_folder.write_lines(state, [*lines, "last_preserved_timestamp: 0.0"])


def _damage(prefix: str) -> str | None:
    """What is wrong with a checkpoint, if anything: TensorFlow compares each tensor's checksum."""
    try:
        reader = tf.train.load_checkpoint(prefix)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except READ_ERRORS as error:
        return reason(error)
    return None


def _update_of(point: str) -> int:
    """The number of updates in a resume point's name."""
    return int(point.rpartition("-")[2])


def _cannot_go_on(path: str, problem: str) -> str:
    return (
        f"{path}: cannot go on from it: {problem}. Give another folder, or --overwrite to begin "
        "anew"
    )


def _optimizer_variables(
    model: keras.Model, optimizer: AdamWeightDecay
) -> dict[str, keras.Variable]:
    optimizer.build(model.trainable_variables)
    names = {id(variable): name for name, variable in variables_by_name(model).items()}
    variables = {"global_step": optimizer.iterations}
    for variable, m, v in zip(
        model.trainable_variables, optimizer.adam_m, optimizer.adam_v, strict=True
    ):
        for slot, value in zip(SLOTS, (m, v), strict=True):
            variables[f"{names[id(variable)]}/{slot}"] = value
    return variables


def _unreadable(prefix: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{prefix}.index: not a TensorFlow checkpoint, or a damaged one: {reason(error)}"
    )


def _find_prefix(path: Path) -> str:
    prefix = os.fspath(path).removesuffix(".index").removesuffix(DATA_SUFFIX)
    if pathlib.Path(prefix).is_dir():
        prefix = os.path.join(prefix, "bert_model.ckpt")  # noqa: PTH118 - gs:// paths stay strings
    if not tf.io.gfile.exists(prefix + ".index"):
        folder = os.path.dirname(prefix) or "."  # noqa: PTH120
        there = sorted(
            os.path.join(folder, name.removesuffix(".index"))  # noqa: PTH118
            for name in (tf.io.gfile.listdir(folder) if tf.io.gfile.isdir(folder) else [])
            if name.endswith(".index")
        )
        hint = f"; that folder has {listed(there)}" if there else ""
        raise CheckpointError(
            f"{prefix}: no checkpoint: there is no file {prefix}.index{hint}. Give the path up to "
            "and with .ckpt, as in uncased_L-12_H-768_A-12/bert_model.ckpt"
        )
    return prefix


def _refusal(report: LoadReport, forbidden: list[str]) -> str:
    heads = [name for name in forbidden if not name.startswith("bert/")]
    advice = "Is this the right checkpoint for this model?"
    if forbidden and len(heads) == len(forbidden) and not report.misshapen:
        advice = (
            "The checkpoint has no such head: train one, or say which variables may start anew "
            f"with allow_missing={sorted({_pattern(name) for name in heads})}"
        )
    return f"the checkpoint does not fit the model. {advice}\n{report.describe('fit')}"


def _pattern(name: str) -> str:
    return name.partition("/")[0] + "/*" if "/" in name else name


def is_training_state(name: str) -> bool:
    """Whether a name in a checkpoint of the original is one of its optimizer's variables."""
    return name == "global_step" or name.rpartition("/")[2] in SLOTS


def _shape(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(str(size) for size in shape) + "]"

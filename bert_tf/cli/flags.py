"""Takes command-line arguments, returns a run's configuration; next: the commands.

Flags are absl's, as in the original scripts: ``--do_train``, ``--do_train=true`` and
``--nodo_train``, ``--learning_rate=2e-5`` and ``--learning_rate 2e-5``. They are not written down a
second time: each is a field of the configuration's dataclass.
"""

import contextlib
import dataclasses
import logging
import os
import pathlib
import re
import sys
import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

from absl import flags

from bert_tf.config import JOBS, ModelFiles, Training
from bert_tf.errors import InputError

Configuration = TypeVar("Configuration")

# Flags that name files or folders.
_PATHS = re.compile(r"(.*_)?(file|dir|checkpoint|from|to|log|output)")


def parse(
    configuration: type[Configuration], arguments: Sequence[str], usage: str
) -> tuple[Configuration, list[str]]:
    """Parses a command's arguments.

    Defaults are overruled by the settings of the trained model in ``--output_dir``, if it is only
    to be used, those by the YAML file of ``--config``, and that by flags. ``--checkpoint`` stands
    for several settings where it is given, so that it overrules those of the layers below.

    Args:
        configuration: the dataclass whose fields are the flags.
        arguments: those after the command's name.
        usage: what ``--help`` begins with.

    Returns:
        The configuration and the arguments that are no flags.

    Raises:
        InputError: for an unknown flag, a value of the wrong type or one that is not allowed.
        SystemExit: after ``--help``, with status 0.
    """
    values = _define(configuration)
    try:
        positional = values(["bert-tf", *arguments])[1:]
    except flags.Error as error:
        raise InputError(f"{error} See --help for the flags.") from error
    if values["help"].value:
        print(f"{usage}\n\nFlags:\n{_describe(configuration)}")
        raise SystemExit(0)

    given = {
        field.name: values[_flag(field)].value
        for field in dataclasses.fields(configuration)  # type: ignore[arg-type]
        if values[_flag(field)].present
    }
    layers = [given]
    if values["config"].value is not None:
        layers.append(_read_config(configuration, pathlib.Path(values["config"].value)))
    if issubclass(configuration, Training):
        layers.append(_settings_of_trained_folder(configuration, layers))
    if not any(layer.get("runner") for layer in layers):  # Beam has file systems of its own
        for layer in layers:
            _refuse_remote_files(configuration, layer)
    if issubclass(configuration, ModelFiles):
        layers = [_complete_model_files(layer) for layer in layers]
    merged: dict[str, Any] = {}
    for layer in reversed(layers):
        merged |= layer
    if issubclass(configuration, ModelFiles):
        _check_casing(merged)
    return configuration(**merged), positional


def _refuse_remote_files(configuration: type, given: dict[str, Any]) -> None:
    """A bucket's address would be taken for the name of a folder here, and found out late."""
    for field in dataclasses.fields(configuration):
        value = given.get(field.name)
        if isinstance(value, str) and _PATHS.fullmatch(_flag(field)) and "://" in value:
            raise InputError(
                f"--{_flag(field)}={value}: this command reads and writes files of its own machine "
                "only; mount the bucket as a folder (with Cloud Storage FUSE, say) and give that"
            )


def _define(configuration: type) -> flags.FlagValues:
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    flags.DEFINE_bool("help", False, "Show this.", flag_values=values, short_name="h")
    flags.DEFINE_string("config", None, "YAML file of flags.", flag_values=values)
    for field in dataclasses.fields(configuration):
        choices = field.metadata.get("choices")
        define: Any = {
            bool: flags.DEFINE_bool,
            int: flags.DEFINE_integer,
            float: flags.DEFINE_float,
            str: flags.DEFINE_string,
        }[_type(field)]
        arguments: list[Any] = [_flag(field), field.default]
        if choices:
            define = flags.DEFINE_enum
            arguments.append(list(choices))
        define(*arguments, field.metadata["help"], flag_values=values)
    return values


def _type(field: dataclasses.Field[Any]) -> type:
    """The field's type, without ``| None``."""
    if isinstance(field.type, types.UnionType):
        return next(kind for kind in typing.get_args(field.type) if kind is not types.NoneType)
    assert isinstance(field.type, type)
    return field.type


def _flag(field: dataclasses.Field[Any]) -> str:
    return str(field.metadata.get("flag", field.name))


def _describe(configuration: type) -> str:
    lines = ["  --config FILE\n      A YAML file of these names, such as a run's run_config.yaml."]
    for field in dataclasses.fields(configuration):
        kind = _type(field)
        name = _flag(field)
        name = f"--[no]{name}" if kind is bool else f"--{name} {kind.__name__.upper()}"
        default = "" if field.default is None else f" (default: {field.default})"
        lines.append(f"  {name}\n      {field.metadata['help']}{default}")
    return "\n".join(lines)


def _read_config(configuration: type, path: pathlib.Path) -> dict[str, Any]:
    from bert_tf.run_folder import read_run_config

    given = read_run_config(path)
    given.pop("command", None)  # a run's own file says which command it was
    fields = {_flag(field): field for field in dataclasses.fields(configuration)}
    settings = {}
    for name, value in given.items():
        if name not in fields:
            raise InputError(f"{path}: unknown setting {name!r}; see --help for the flags")
        wanted = _type(fields[name])
        # YAML reads 5e-5 as a string, and a column's number as a number.
        if value is not None and {type(value), wanted} <= {int, float, str}:
            with contextlib.suppress(ValueError):
                value = wanted(value) if wanted is not int else value
        if type(value) is not wanted and not (value is None and fields[name].default is None):
            raise InputError(f"{path}: {name} must be of type {wanted.__name__}, but is {value!r}")
        settings[fields[name].name] = value
    return settings


def _settings_of_trained_folder(
    configuration: type, layers: list[dict[str, Any]]
) -> dict[str, Any]:
    """What a trained model's own run was given, when that model is only to be used."""
    given = {**layers[-1], **layers[0]}
    if given.get("do_train") or not given.get("output_dir"):
        return {}
    from bert_tf.run_folder import CHECKPOINT, RUN_CONFIG

    folder = pathlib.Path(given["output_dir"])
    if not (folder / f"{CHECKPOINT}.index").exists() or not (folder / RUN_CONFIG).exists():
        return {}
    stored = _read_config(configuration, folder / RUN_CONFIG)
    return {name: value for name, value in stored.items() if name not in (*JOBS, "output_dir")}


def _complete_model_files(given: dict[str, Any]) -> dict[str, Any]:
    """Adds what ``--checkpoint`` stands for, and the casing that its folder tells."""
    files = {
        "vocab_file": "vocab.txt",
        "bert_config_file": "bert_config.json",
        "init_checkpoint": "bert_model.ckpt",
    }
    missing = [name for name in files if given.get(name) is None]
    if given.get("checkpoint") is not None and missing:
        folder = find_checkpoint(given["checkpoint"])
        given = {**given, **{name: str(folder / files[name]) for name in missing}}
    if given.get("init_checkpoint") is not None and given.get("do_lower_case") is None:
        expected = _casing_of(given["init_checkpoint"])
        if expected is not None:
            given = {**given, "do_lower_case": expected}
    return given


def _check_casing(given: dict[str, Any]) -> None:
    """Compares ``--do_lower_case`` with what the checkpoint's folder tells, as the original."""
    if given.get("init_checkpoint") is None:
        return
    expected = _casing_of(given["init_checkpoint"])
    lower_case = given.setdefault("do_lower_case", True)
    if expected is not None and lower_case != expected:
        raise InputError(
            f"--do_lower_case={str(lower_case).lower()} does not fit the checkpoint "
            f"{given['init_checkpoint']}, which was trained with {str(expected).lower()}"
        )


def _casing_of(checkpoint: str) -> bool | None:
    from bert_tf.run_folder import lower_case_of_checkpoint

    return lower_case_of_checkpoint(checkpoint)


def find_checkpoint(name: str) -> pathlib.Path:
    """The folder of a released checkpoint: itself, or under that name in one of two places.

    Raises:
        InputError: naming the places looked at.
    """
    from bert_tf.released_checkpoints import download_cache, read_releases

    places = [
        pathlib.Path(name),
        pathlib.Path("checkpoints") / name,
        download_cache() / name,
    ]
    for place in places:
        if (place / "bert_config.json").is_file():
            return place
    remedy = "unpack the archive of a checkpoint into one of them"
    if name in read_releases():
        remedy = f"give the command bert-tf download {name} first"
    raise InputError(
        f"--checkpoint {name}: no bert_config.json in any of "
        f"{', '.join(str(place) for place in places)}; {remedy}"
    )


def refuse_positional(arguments: list[str]) -> None:
    """For commands that take flags only.

    Raises:
        InputError: if anything else was given.
    """
    if arguments:
        raise InputError(f"unexpected argument {arguments[0]!r}; this command takes flags only")


def prepare_tensorflow() -> None:
    """Chooses what TensorFlow asks its environment for, and shows this package's notes.

    Its notes on its own build stay off the screen. It multiplies with oneDNN, which TensorFlow's
    builds for x86 have, and leave off on processors without AVX-512.
    """
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    # Without a GPU, TensorFlow calls the missing driver an error; with one, errors are to be seen.
    has_gpu = pathlib.Path("/dev/nvidiactl").exists()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2" if has_gpu else "3")
    show_log()


def show_log() -> None:
    """Shows this package's notes on stderr."""
    logging.basicConfig(stream=sys.stderr, format="%(message)s")
    logging.getLogger("bert_tf").setLevel(logging.INFO)

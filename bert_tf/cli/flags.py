"""Takes command-line arguments, returns a run's configuration; next: the commands.

Flags are absl's, as in the original scripts: ``--do_train``, ``--do_train=true`` and
``--nodo_train``, ``--learning_rate=2e-5`` and ``--learning_rate 2e-5``. They are not written down a
second time: each is a field of the configuration's dataclass.
"""

import dataclasses
import logging
import os
import pathlib
import sys
import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

from absl import flags

from bert_tf.config import ModelFiles, lower_case_of
from bert_tf.errors import InputError

Configuration = TypeVar("Configuration")


def parse(
    configuration: type[Configuration], arguments: Sequence[str], usage: str
) -> tuple[Configuration, list[str]]:
    """Parses a command's arguments.

    Defaults are overruled by the released folder of ``--checkpoint``, that by the YAML file of
    ``--config``, and that by flags.

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
    if values["config"].value is not None:
        given = {**_read_config(configuration, values["config"].value), **given}
    if issubclass(configuration, ModelFiles):
        given = _complete_model_files(given)
    return configuration(**given), positional


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


def _read_config(configuration: type, path: str) -> dict[str, Any]:
    from bert_tf.run_folder import read_run_config

    given = read_run_config(pathlib.Path(path))
    given.pop("command", None)  # a run's own file says which command it was
    fields = {_flag(field): field for field in dataclasses.fields(configuration)}
    for name, value in given.items():
        if name not in fields:
            raise InputError(f"{path}: unknown setting {name!r}; see --help for the flags")
        wanted = _type(fields[name])
        if wanted is float and type(value) is int:
            given[name] = float(value)
        elif type(value) is not wanted and not (value is None and fields[name].default is None):
            raise InputError(f"{path}: {name} must be of type {wanted.__name__}, but is {value!r}")
    return {fields[name].name: value for name, value in given.items()}


def _complete_model_files(given: dict[str, Any]) -> dict[str, Any]:
    """Fills in what ``--checkpoint`` stands for, and the casing that the folder's name tells."""
    if given.get("checkpoint") is not None:
        folder = find_checkpoint(given["checkpoint"])
        given = {
            "vocab_file": str(folder / "vocab.txt"),
            "bert_config_file": str(folder / "bert_config.json"),
            "init_checkpoint": str(folder / "bert_model.ckpt"),
            **given,
        }
    if given.get("init_checkpoint") is not None:
        name = pathlib.Path(given["init_checkpoint"]).resolve().parent.name
        expected = lower_case_of(name)
        lower_case = given.get("do_lower_case")
        if expected is not None and lower_case is not None and lower_case != expected:
            raise InputError(
                f"--do_lower_case={str(lower_case).lower()} does not fit the checkpoint {name}, "
                f"which was trained with {str(expected).lower()}"
            )
        if lower_case is None:
            given = {**given, "do_lower_case": True if expected is None else expected}
    return given


def find_checkpoint(name: str) -> pathlib.Path:
    """The folder of a released checkpoint: itself, or under that name in one of two places.

    Raises:
        InputError: naming the places looked at.
    """
    cache = os.environ.get("BERT_TF_CACHE")
    places = [
        pathlib.Path(name),
        pathlib.Path("checkpoints") / name,
        (pathlib.Path(cache) if cache else pathlib.Path.home() / ".cache" / "bert_tf") / name,
    ]
    for place in places:
        if (place / "bert_config.json").is_file():
            return place
    raise InputError(
        f"--checkpoint {name}: no bert_config.json in any of "
        f"{', '.join(str(place) for place in places)}; unpack the released archive into one of them"
    )


def refuse_positional(arguments: list[str]) -> None:
    """For commands that take flags only.

    Raises:
        InputError: if anything else was given.
    """
    if arguments:
        raise InputError(f"unexpected argument {arguments[0]!r}; this command takes flags only")


def prepare_tensorflow() -> None:
    """Keeps TensorFlow's notes on its own build off the screen, and shows those of this package."""
    # Without a GPU, TensorFlow calls the missing driver an error; with one, errors are to be seen.
    has_gpu = pathlib.Path("/dev/nvidiactl").exists()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2" if has_gpu else "3")
    logging.basicConfig(stream=sys.stderr, format="%(message)s")
    logging.getLogger("bert_tf").setLevel(logging.INFO)

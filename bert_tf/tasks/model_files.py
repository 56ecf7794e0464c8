"""Takes settings or a folder, returns what they say of the model; next: classification."""

import dataclasses
import pathlib
from collections.abc import Iterable
from typing import Any, TypeVar

from bert_tf import run_folder
from bert_tf.checkpoint import Checkpoint
from bert_tf.config import BertConfig, ModelFiles, ModelUse, Training
from bert_tf.errors import InputError
from bert_tf.tokenization import FullTokenizer, Vocabulary

MODEL_SETTINGS = ("vocab_file", "bert_config_file", "init_checkpoint", "do_lower_case")
# What a model cannot be used without, or with, as it was trained.
_SHAPE_SETTINGS = ("crf", "long_text", "window_pooling")

Settings = TypeVar("Settings", bound=Training)


def require_settings(settings: ModelFiles, names: Iterable[str]) -> None:
    """Checks that these of MODEL_SETTINGS are given.

    Raises:
        InputError: naming the flag.
    """
    for name in names:
        if getattr(settings, name) is None:
            raise InputError(
                f"--{name} is missing; give it, or the folder of a released checkpoint with "
                "--checkpoint"
            )


def read_config(settings: ModelUse) -> BertConfig:
    """The model's configuration, which must have room for ``max_seq_length``."""
    config = BertConfig.from_json_file(settings.bert_config_file or "")
    longest_row(config, settings.max_seq_length)
    return config


def longest_row(config: BertConfig, max_seq_length: int | None) -> int:
    """The ``max_seq_length`` that is asked for, or if none is, the most that the model takes.

    Raises:
        InputError: if it is more than that.
    """
    longest = config.max_position_embeddings
    if max_seq_length is not None and max_seq_length > longest:
        raise InputError(
            f"--max_seq_length={max_seq_length} is more than the model's max_position_embeddings, "
            f"{longest}"
        )
    return max_seq_length or longest


def check_vocabulary(vocabulary: Vocabulary, config: BertConfig, settings: ModelFiles) -> None:
    """Checks that a vocabulary and a model belong together.

    Raises:
        InputError: naming both files.
    """
    if len(vocabulary) != config.vocab_size:
        raise InputError(
            f"--vocab_file {vocabulary.path} has {len(vocabulary)} pieces, but "
            f"{settings.bert_config_file} has vocab_size {config.vocab_size}; use the vocab.txt "
            "that the checkpoint was trained on"
        )


def read_model(settings: ModelUse) -> tuple[BertConfig, FullTokenizer]:
    """The configuration and the tokenizer that a command starts from, checked with its checkpoint.

    Raises:
        InputError: if one is missing, or they do not belong together.
    """
    require_settings(settings, ("vocab_file", "bert_config_file", "init_checkpoint"))
    config = read_config(settings)
    tokenizer = FullTokenizer(
        settings.vocab_file or "", do_lower_case=settings.do_lower_case is not False
    )
    check_vocabulary(tokenizer.vocabulary, config, settings)
    Checkpoint(settings.init_checkpoint or "").check_config(config, settings.bert_config_file or "")
    return config, tokenizer


def read_pretrained(
    model: pathlib.Path | ModelFiles, do_lower_case: bool | None = None
) -> tuple[ModelFiles, BertConfig, FullTokenizer]:
    """The files, configuration and tokenizer of any model, whatever it was trained for.

    Args:
        model: the folder of a finished run or of a released checkpoint, or the files.
        do_lower_case: whether to lower-case; by default what the model's files say, or the run or
            the name of the folder that the checkpoint is in, else true.

    Raises:
        InputError: if a file is missing, or they do not belong together.
    """
    if isinstance(model, pathlib.Path):
        model = _files_of(model)
    require_settings(model, ("vocab_file", "bert_config_file", "init_checkpoint"))
    checkpoint = model.init_checkpoint or ""
    told = (do_lower_case, model.do_lower_case, run_folder.lower_case_of_checkpoint(checkpoint))
    tokenizer = FullTokenizer(
        model.vocab_file or "", do_lower_case=next((t for t in told if t is not None), True)
    )
    config = BertConfig.from_json_file(model.bert_config_file or "")
    check_vocabulary(tokenizer.vocabulary, config, model)
    Checkpoint(checkpoint).check_config(config, model.bert_config_file or "")
    return model, config, tokenizer


def _files_of(folder: pathlib.Path) -> ModelFiles:
    """The files of a folder, of a run or of a released checkpoint."""
    for name in (run_folder.BERT_CONFIG, run_folder.VOCAB, f"{run_folder.CHECKPOINT}.index"):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder}: has no {name}; give the folder of a finished run or of a released "
                "checkpoint, or each file by its own flag"
            )
    return ModelFiles(
        vocab_file=str(folder / run_folder.VOCAB),
        bert_config_file=str(folder / run_folder.BERT_CONFIG),
        init_checkpoint=str(folder / run_folder.CHECKPOINT),
    )


def folder_of_run(model: pathlib.Path | ModelFiles, command: str, what: str) -> pathlib.Path:
    """The folder of a model that only a run of some command makes.

    Args:
        model: a folder, or the files of a checkpoint.
        command: which.
        what: what such a model says, and how it comes of a run: "labels are those of".

    Raises:
        InputError: for files, which do not say how they were trained.
    """
    if isinstance(model, ModelFiles):
        raise InputError(f"{what} a finished {command} run: give its folder as --model_dir")
    return model


def read_trained(
    folder: pathlib.Path,
    command: str,
    configuration: type[Settings],
    max_seq_length: int | None = None,
) -> tuple[Settings, BertConfig, FullTokenizer]:
    """The settings, configuration and tokenizer of a finished run, for use by itself.

    That is in float32, whatever the run computed in: where it is used there may be no bfloat16.

    Args:
        folder: of the run.
        command: which made it.
        configuration: of that command.
        max_seq_length: the longest row; by default the run's.

    Raises:
        InputError: if the folder holds no trained model of that command.
    """
    run_folder.require_model(folder)
    settings = settings_of_run(folder, command, configuration)
    config = BertConfig.from_json_file(folder / run_folder.BERT_CONFIG)
    longest = longest_row(config, max_seq_length or settings.max_seq_length)
    settings = dataclasses.replace(settings, precision="float32", max_seq_length=longest)
    tokenizer = FullTokenizer(
        folder / run_folder.VOCAB, do_lower_case=settings.do_lower_case is not False
    )
    return settings, config, tokenizer


def write_model_files(
    folder: pathlib.Path, config: BertConfig, vocabulary: Vocabulary | None
) -> None:
    """Writes what a checkpoint needs beside it to be used."""
    run_folder.write_text(folder / run_folder.BERT_CONFIG, config.to_json_string())
    if vocabulary is not None:
        run_folder.write_lines(folder / run_folder.VOCAB, vocabulary.pieces)


def has_model(settings: Training) -> bool:
    """Whether the output folder has a trained model."""
    folder = pathlib.Path(settings.output_dir or "")
    return (folder / f"{run_folder.CHECKPOINT}.index").exists()


def refuse_unfinished(settings: Training) -> None:
    """Checks, where the output folder has no model, that none is being trained there.

    Raises:
        InputError: if a run there was cut off, as it is its model that would be expected to be
            used.
    """
    folder = pathlib.Path(settings.output_dir or "")
    if run_folder.has_progress(folder):
        raise InputError(
            f"--output_dir {folder}: the run there is not finished; give its command again, with "
            "--do_train, to finish it, or give another folder"
        )


def settings_of_run(folder: pathlib.Path, command: str, configuration: type[Settings]) -> Settings:
    """What a folder's run was given.

    Raises:
        InputError: if it is the folder of another command's run.
    """
    stored: dict[str, Any] = run_folder.read_run_config(folder / run_folder.RUN_CONFIG)
    if stored.pop("command", None) != command:
        raise InputError(f"{folder}: not the folder of a {command} run")
    return configuration(**stored)


def with_trained_model(settings: Settings, stored: Settings) -> Settings:
    """The settings, with the model of the output folder.

    Args:
        settings: the command's; where they name a model's files, they must be the stored ones.
        stored: those of the run that made the folder's model.

    Raises:
        InputError: naming the flag that asks for another model, or for another use of it.
    """
    folder = pathlib.Path(settings.output_dir or "")
    for name in MODEL_SETTINGS:
        given = getattr(settings, name)
        if given is not None and given != getattr(stored, name):
            raise InputError(
                f"--{name}={given}: --output_dir {folder} has a model of its own, which was made "
                f"from {getattr(stored, name)}; leave the flag out, or give another --output_dir"
            )
    for name in _SHAPE_SETTINGS:
        if getattr(settings, name, None) != getattr(stored, name, None):
            raise InputError(
                f"--{name}={getattr(settings, name)}: the model in --output_dir {folder} was "
                f"trained with {getattr(stored, name)}; leave the flag out"
            )
    vocab_file = folder / run_folder.VOCAB
    return dataclasses.replace(
        settings,
        vocab_file=str(vocab_file) if vocab_file.exists() else None,
        bert_config_file=str(folder / run_folder.BERT_CONFIG),
        init_checkpoint=str(folder / run_folder.CHECKPOINT),
        do_lower_case=stored.do_lower_case,
    )


def refuse_results(settings: Training, names: Iterable[str]) -> None:
    """Checks that results are not replaced unasked.

    Args:
        settings: the command's.
        names: of the files that it is to write.

    Raises:
        InputError: naming the file that is there already.
    """
    for name in names:
        if (pathlib.Path(settings.output_dir or "") / name).exists() and not settings.overwrite:
            raise InputError(
                f"--output_dir {settings.output_dir}: {name} is there already; give --overwrite "
                "to replace it"
            )


def refuse_results_of_another_model(settings: Training, names: Iterable[str]) -> None:
    """Checks that a folder in which training begins has no results yet.

    They would be those of the weights that training begins with.

    Args:
        settings: the command's.
        names: of the files with results.

    Raises:
        InputError: naming the file that is there already.
    """
    if not run_folder.has_progress(pathlib.Path(settings.output_dir or "")):
        refuse_results(settings, names)

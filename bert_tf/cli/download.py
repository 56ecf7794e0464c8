"""``bert-tf download``: a checkpoint that Google released, by its name."""

import dataclasses
import pathlib
from collections.abc import Sequence

from bert_tf.cli import flags
from bert_tf.config import lower_case_of, setting
from bert_tf.errors import InputError

USAGE = """usage: bert-tf download NAME [--to=DIR]
       bert-tf download --list

Downloads a released checkpoint, checks and unpacks it, so that --checkpoint=NAME finds it. A
download that was cut off goes on where it ended. Without a network, put the archive into the
folder as NAME.zip; the same command goes on from that."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Download:
    """The settings of ``bert-tf download``."""

    to: str | None = setting(
        None,
        "The folder to make NAME in; by default the download cache, which is $BERT_TF_CACHE or "
        "~/.cache/bert_tf, unless --checkpoint=NAME finds it elsewhere already.",
    )
    list_all: bool = setting(
        False,
        "Show the names, the size of the weights in float32, and which are there already.",
        flag="list",
    )


def run(arguments: Sequence[str]) -> None:
    """Runs the command and prints where the checkpoint is."""
    settings, names = flags.parse(Download, arguments, USAGE)
    from bert_tf import released_checkpoints

    if settings.list_all or not names:
        print(_table(settings.to))
        return
    if len(names) > 1:
        raise InputError(f"unexpected argument {names[1]!r}; give one NAME at a time")
    release = released_checkpoints.find_release(names[0])
    found = _find(release.name, settings.to)
    if found is not None:
        parent = found.parent
    else:
        parent = pathlib.Path(settings.to or released_checkpoints.download_cache())
    there = (parent / release.name).exists()
    flags.prepare_tensorflow()
    from bert_tf.checkpoint_download import obtain

    folder = obtain(release, parent)
    found = _find(release.name, None)
    is_named = found is not None and found.resolve() == folder.resolve()
    print(
        f"{folder}: {'was there already, whole' if there else 'is there now, checked'}; use it "
        f"with --checkpoint={release.name if is_named else folder}"
    )


def _find(name: str, to: str | None) -> pathlib.Path | None:
    """A checkpoint's folder, if it is there: in ``to``, or else where ``--checkpoint`` looks."""
    if to is not None:
        folder = pathlib.Path(to) / name
        return folder if (folder / "bert_config.json").is_file() else None
    try:
        return flags.find_checkpoint(name)
    except InputError:
        return None


def _table(to: str | None) -> str:
    from bert_tf.released_checkpoints import read_releases

    rows = [("name", "parameters", "weights", "vocabulary", "", "where")]
    for name, release in read_releases().items():
        rows.append(
            (
                name,
                f"{release.parameters:,}",
                f"{4 * release.parameters / 1e6:,.1f} MB",  # of float32
                f"{release.vocab_size:,}",
                "uncased" if lower_case_of(name) else "cased",
                str(_find(name, to) or release.url),
            )
        )
    line = "{:29} {:>11} {:>10} {:>10} {:7} {}"
    return "\n".join(line.format(*row) for row in rows)

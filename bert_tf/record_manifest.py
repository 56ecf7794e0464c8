"""Takes the name of a file of records, returns the manifest that lies beside it; next: text_tables.

The manifest of ``RECORDS`` or of ``RECORDS-00000-of-00002`` and so on is ``RECORDS.manifest.json``.
"""

import json
import pathlib
import re
from collections.abc import Iterable
from typing import Any

from bert_tf.errors import InputError
from bert_tf.tokenization import Vocabulary

SUFFIX = ".manifest.json"
# In the work folder: there as long as the run is not finished.
CONFIGURATION = "configuration.json"
_SHARD = re.compile(r"-\d{5}-of-(\d{5})$")


def manifest_path(records: pathlib.Path) -> pathlib.Path:
    """Where the manifest of a file of records is."""
    return records.with_name(_SHARD.sub("", records.name) + SUFFIX)


def work_folder(records: pathlib.Path) -> pathlib.Path:
    """Where a run keeps what is not finished of a file of records."""
    return records.with_name(f".{_SHARD.sub('', records.name)}.work")


def has_unfinished_run(records: pathlib.Path) -> bool:
    """Whether a run that was cut off can go on with a file of records."""
    return (work_folder(records) / CONFIGURATION).exists()


def check_shards(paths: Iterable[pathlib.Path]) -> None:
    """Checks that the files are those of one run of create_pretraining_data, and a finished one.

    Raises:
        InputError: if two of them belong to different numbers of shards, or more are to come.
    """
    first: dict[pathlib.Path, tuple[str, pathlib.Path]] = {}
    for path in paths:
        if has_unfinished_run(path):
            raise InputError(
                f"{path}: create_pretraining_data has not finished with these files; repeat its "
                f"command to finish them (or delete {work_folder(path)})"
            )
        shard = _SHARD.search(path.name)
        if shard is None:
            continue
        count, other = first.setdefault(manifest_path(path), (shard[1], path))
        if count != shard[1]:
            raise InputError(
                f"{other} and {path} are of two runs, with {int(count)} and {int(shard[1])} files; "
                "name those of one only, or delete the others"
            )


def check_manifest(
    records: pathlib.Path,
    *,
    next_sentence: str,
    vocabulary: Vocabulary | None,
    do_lower_case: bool | None,
) -> bool | None:
    """Compares how records were made with how they are to be used, if they have a manifest.

    Args:
        records: a file of records.
        next_sentence: ``nsp`` if the next-sentence labels are to be learned, ``none`` if not.
        vocabulary: of the model, if it is known.
        do_lower_case: whether the model lower-cases, if it is known.

    Returns:
        Whether it does, if it is known now.

    Raises:
        InputError: for a manifest that cannot be read, for records without next-sentence labels
            that are to be learned, and for records of another vocabulary or casing.
    """
    path = manifest_path(records)
    if not path.exists():
        return do_lower_case
    manifest = _read(path)
    if next_sentence == "nsp" and manifest["configuration"]["next_sentence"] == "none":
        raise InputError(
            f"{records}: made with --next_sentence=none, so that there is nothing to learn of next "
            f"sentences (says {path.name}); give --next_sentence=none here too"
        )
    if vocabulary is not None and manifest["vocabulary"]["sha256"] != vocabulary.sha256:
        raise InputError(
            f"{records}: made with another vocabulary of {manifest['vocabulary']['num_pieces']} "
            f"pieces than {vocabulary.path} of {len(vocabulary)} (says {path.name}); give the "
            "vocab.txt that the records were made with, or make them anew"
        )
    lower_case: bool = manifest["configuration"]["do_lower_case"]
    if do_lower_case not in (None, lower_case):
        raise InputError(
            f"{records}: made with --do_lower_case={str(lower_case).lower()} (says {path.name}), "
            f"but here it is {str(do_lower_case).lower()}; give what the model takes, and make the "
            "records anew if it is not theirs"
        )
    return lower_case


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        manifest["configuration"]["next_sentence"], manifest["configuration"]["do_lower_case"]
        manifest["vocabulary"]["sha256"], manifest["vocabulary"]["num_pieces"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not a manifest of create_pretraining_data, or a damaged one ({error}); "
            "delete it, or make the records anew"
        ) from error
    return manifest

"""Takes nothing, returns the checkpoints that Google released and where they lie; next: run_folder.

The list is ``data/released_checkpoints.tsv``: those of the README of google-research/bert. Google
publishes no checksums. ``weights_sha256`` is that of ``bert_model.ckpt.data-00000-of-00001`` where
another project that downloads the same archives has pinned it (NVIDIA's DeepLearningExamples, BERT
for TensorFlow, Apache-2.0); sizes of archives are those that logs of downloads show. Fields that
are not known are empty.
"""

import csv
import dataclasses
import importlib.resources
import os
import pathlib

from bert_tf.errors import InputError, did_you_mean


@dataclasses.dataclass(frozen=True, kw_only=True)
class Release:
    """A released checkpoint.

    Attributes:
        name: what it is called here: its archive's name, but for the BASE model of 2020, whose
            archive is called as that of 2018 is; it begins with ``2020_``.
        url: of the archive.
        archive_bytes: the archive's size, if it is known.
        archive_sha256: the archive's, if it is known; else empty.
        weights_sha256: that of the file of weights inside it, if it is known; else empty.
        vocab_size: as in its bert_config.json, as are the next three.
        hidden_size: see there.
        num_hidden_layers: see there.
        num_attention_heads: see there.
        parameters: of the encoder and the pooler, without the heads it was pretrained with.
    """

    name: str
    url: str
    archive_bytes: int | None
    archive_sha256: str
    weights_sha256: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    parameters: int


def read_releases() -> dict[str, Release]:
    """The released checkpoints by their names, in the order of the list."""
    source = importlib.resources.files("bert_tf") / "data" / "released_checkpoints.tsv"
    releases = {}
    with source.open(encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            numbers = {
                field.name: int(row[field.name]) if row[field.name] else None
                for field in dataclasses.fields(Release)
                if field.type is not str
            }
            releases[row["name"]] = Release(**{**row, **numbers})  # type: ignore[arg-type]
    return releases


def find_release(name: str) -> Release:
    """The released checkpoint of a name.

    Raises:
        InputError: if there is none of that name.
    """
    releases = read_releases()
    if name not in releases:
        raise InputError(
            f"{name}: no released checkpoint has that name{did_you_mean(name, releases)} "
            "bert-tf download --list shows them all"
        )
    return releases[name]


def download_cache() -> pathlib.Path:
    """The folder that holds downloaded checkpoints: ``$BERT_TF_CACHE``, or one in the home."""
    cache = os.environ.get("BERT_TF_CACHE")
    return pathlib.Path(cache) if cache else pathlib.Path.home() / ".cache" / "bert_tf"

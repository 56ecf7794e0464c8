"""Takes a file of texts, returns a file of what the encoder makes of them; next: text_vectors.

Source: extract_features.py of google-research/bert.

Axes: n = number of lines, S = pieces of a row, K = number of layers, H = hidden_size.
"""

import json
import logging
import pathlib
import re
import tempfile
from collections.abc import Sequence
from typing import IO

import numpy as np

from bert_tf.config import FeatureExtraction
from bert_tf.errors import InputError
from bert_tf.input_pipeline import Features, evaluation_plan
from bert_tf.output_file import check_output, reserve, whole_file
from bert_tf.tasks.model_files import read_model
from bert_tf.tasks.task_predictor import TextOrPair
from bert_tf.tasks.text_encoder import TextEncoder, check_layers, load_encoder
from bert_tf.text_tables import read_lines

# Lines of JSON are brought back to their order within so many batches, to bound what waits on disk.
WINDOW = 16

log = logging.getLogger(__name__)


def extract(settings: FeatureExtraction) -> None:
    """Writes ``output_file``, whole or not at all.

    Raises:
        InputError: for whatever is wrong with files or settings, before anything is written.
    """
    config, tokenizer = read_model(settings)
    check_layers(settings.layer_indexes, config, f"--layers={settings.layers}")
    source, path = pathlib.Path(settings.input_file or ""), pathlib.Path(settings.output_file or "")
    texts = [read_text(line) for _, line in read_lines(source)]
    if not texts:
        raise InputError(f"{source}: expected a text on each line, but the file is empty")
    model = load_encoder(config, settings.init_checkpoint or "")
    example = "features.npy" if settings.pooling else "features.jsonl"
    check_output(path, [source], overwrite=settings.overwrite, example=example)
    encoder = TextEncoder(
        model,
        tokenizer,
        settings.max_seq_length,
        settings.layer_indexes,
        settings.pooling,
        settings.normalize,
    )
    features = encoder.features(texts)
    with whole_file(path) as temporary:
        if settings.pooling:
            _write_vectors(temporary, encoder, features, settings.batch_size)
        else:
            _write_lines(temporary, encoder, features, settings)
    log.info(
        "features of %d lines, of which %d were cut to %d pieces, are in %s",
        len(texts), features.texts.num_truncated, settings.max_seq_length, path,
    )  # fmt: skip


def read_text(line: str) -> TextOrPair:
    """A line's text, or two; the last ``|||`` between spaces separates them, as in the original."""
    match = re.match(r"^(.*) \|\|\| (.*)$", line.strip())
    return line if match is None else (match[1], match[2])


def record(number: int, pieces: Sequence[str], layers: Sequence[int], outputs: np.ndarray) -> bytes:
    """A line of JSON in the form of the original.

    Args:
        number: of the text, from 0.
        pieces: S, of its row.
        layers: K.
        outputs: float32 [S, K, H].
    """
    # Equal to Python's round() of each: a float32 times 10**6 is exact in float64.
    values = np.round(outputs.astype(np.float64), 6).tolist()
    features = [
        {
            "token": piece,
            "layers": [
                {"index": layer, "values": vector}
                for layer, vector in zip(layers, vectors, strict=True)
            ],
        }
        for piece, vectors in zip(pieces, values, strict=True)
    ]
    return json.dumps({"linex_index": number, "features": features}).encode() + b"\n"


class LinesInOrder:
    """Writes lines in their order that come in another; what has to wait does so in a file.

    Args:
        file: gets the lines.
        waiting: an empty one.
    """

    def __init__(self, file: IO[bytes], waiting: IO[bytes]) -> None:
        self._file = file
        self._waiting = waiting
        self._places: dict[int, tuple[int, int]] = {}  # number -> offset and size in `waiting`
        self._num_written = 0

    def add(self, number: int, line: bytes) -> None:
        """Takes a line with its number, from 0."""
        self._places[number] = (self._waiting.tell(), len(line))
        self._waiting.write(line)

    def write(self) -> None:
        """Writes what waits, unless a line before some of it has not come yet."""
        if max(self._places) >= self._num_written + len(self._places):
            return
        for _, (offset, size) in sorted(self._places.items()):
            self._waiting.seek(offset)
            self._file.write(self._waiting.read(size))
        self._num_written += len(self._places)
        self._places.clear()
        self._waiting.seek(0)
        self._waiting.truncate()


def _write_lines(
    path: pathlib.Path, encoder: TextEncoder, features: Features, settings: FeatureExtraction
) -> None:
    plan = evaluation_plan(features.lengths, settings.batch_size, WINDOW)
    with path.open("wb") as file, tempfile.TemporaryFile(dir=path.parent) as waiting:
        lines = LinesInOrder(file, waiting)
        for rows, outputs in encoder.by_batch(features, plan, "extracting"):
            for row, values in zip(rows.tolist(), outputs, strict=True):
                pieces = encoder.pieces(features, row)
                lines.add(row, record(row, pieces, settings.layer_indexes, values[: len(pieces)]))
            lines.write()


def _write_vectors(
    path: pathlib.Path, encoder: TextEncoder, features: Features, batch_size: int
) -> None:
    """Not through a map of the file: on a full disk the process would die of a signal."""
    descr = np.lib.format.dtype_to_descr(np.dtype(np.float32))
    shape = (len(features), encoder.vector_size)
    plan = evaluation_plan(features.lengths, batch_size)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": descr, "fortran_order": False, "shape": shape}
        )
        start, row_size = file.tell(), encoder.vector_size * np.float32().nbytes
        reserve(file, start + len(features) * row_size)  # better no room now than after the work
        for rows, values in encoder.by_batch(features, plan, "extracting"):
            for row, vector in zip(rows.tolist(), values.astype(np.float32), strict=True):
                file.seek(start + row * row_size)
                file.write(vector.tobytes())

"""Takes values and pictures of a run's steps, returns what TensorBoard shows; next: training."""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping
from types import TracebackType

import tensorflow as tf

from bert_tf.errors import InputError, reason


class TensorBoardFile:
    """A file of events, ``events.out.tfevents…``.

    Args:
        folder: where it goes; None for no such file.
        suffix: of its name, where a folder has several.

    Raises:
        InputError: if it cannot be written, as each method does.
    """

    def __init__(self, folder: pathlib.Path | None, suffix: str = ".v2") -> None:
        self._folder = folder
        self._writer = tf.summary.create_noop_writer()
        if folder is not None:
            with self._writing():
                self._writer = tf.summary.create_file_writer(str(folder), filename_suffix=suffix)

    def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each named curve."""
        with self._writing(), self._writer.as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(name, value)

    def add_picture(self, step: int, name: str, png: bytes) -> None:
        """Adds a picture."""
        with self._writing(), self._writer.as_default(step=step):
            tf.summary.image(name, tf.io.decode_png(png)[tf.newaxis])

    def close(self) -> None:
        """Writes what is still in memory."""
        with self._writing():
            self._writer.close()

    def __enter__(self) -> "TensorBoardFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Of two errors, the first is the one to tell.
        with contextlib.suppress(*([InputError] if error else [])):
            self.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, tf.errors.OpError) as error:  # a full disk is of several kinds
            raise InputError(
                f"{self._folder}: cannot write TensorBoard's file there: {reason(error)}. Make "
                "room, then the same command goes on"
            ) from error

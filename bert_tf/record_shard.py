"""Takes the parts of a TFRecord file, returns the file, whole or not at all; next: text_tables."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from bert_tf import gzip_parts
from bert_tf.checksum import sha256_of
from bert_tf.gzip_parts import Checksum
from bert_tf.pretraining_records import Statistics
from bert_tf.run_folder import write_json

_COPIED = 1 << 22  # bytes at a time


@dataclasses.dataclass(frozen=True)
class ShardPart:
    """A part of a file, made by one process.

    Attributes:
        shard: the file.
        path: where the part is until the file is put together.
        compress: whether it is a part of a gzip file.
    """

    shard: pathlib.Path
    path: pathlib.Path
    compress: bool

    @property
    def _record(self) -> pathlib.Path:
        return self.path.with_suffix(".json")

    def is_done(self) -> bool:
        """Whether it is there, from a run that was cut off."""
        return self.path.exists()

    def write(self, records: bytes, statistics: Statistics) -> None:
        """Writes framed records and what there is to say of them; they appear together."""
        temporary = self.path.with_suffix(".tmp")
        temporary.write_bytes(gzip_parts.compress(records) if self.compress else records)
        record = {"statistics": statistics.to_json(), "content": vars(Checksum.of(records))}
        self._record.write_text(json.dumps(record))
        temporary.rename(self.path)

    def statistics(self) -> Statistics:
        """What ``write`` was told."""
        return Statistics.from_json(json.loads(self._record.read_text())["statistics"])

    def checksum(self) -> Checksum:
        """Of the records, not compressed."""
        return Checksum(**json.loads(self._record.read_text())["content"])


@dataclasses.dataclass(frozen=True)
class Shard:
    """An output file.

    Attributes:
        path: its final name.
        work: a folder for its parts.
        num_parts: how many.
        compress: whether it is a gzip file.
    """

    path: pathlib.Path
    work: pathlib.Path
    num_parts: int
    compress: bool

    @property
    def _record(self) -> pathlib.Path:
        return self.work / "shard.json"

    def parts(self) -> list[ShardPart]:
        """The parts, in the order of the file."""
        self.work.mkdir(exist_ok=True)
        return [
            ShardPart(self.path, self.work / f"{i:06}.part", self.compress)
            for i in range(self.num_parts)
        ]

    def is_done(self) -> bool:
        """Whether the file has its name, and is the one that was put together."""
        if not self._record.exists() or not self.path.is_file():
            return False
        return bool(sha256_of(self.path) == self.described()["sha256"])

    def join(self) -> None:
        """Puts the file together from its parts, and gives it its name."""
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        parts = self.parts()
        digest = hashlib.sha256()
        try:
            with temporary.open("wb") as file:
                for data in self._content(parts):
                    digest.update(data)
                    file.write(data)
                file.flush()
                os.fsync(file.fileno())
            statistics = [part.statistics() for part in parts]
            total = sum(statistics[1:], statistics[0])
            described = {
                "name": str(self.path),
                "num_records": total.num_records,
                "num_bytes": temporary.stat().st_size,
                "sha256": digest.hexdigest(),
            }
            write_json(self._record, {**described, "statistics": total.to_json()})
            temporary.replace(self.path)
        finally:
            temporary.unlink(missing_ok=True)
        for part in parts:
            part.path.unlink()

    def _content(self, parts: list[ShardPart]) -> Iterator[bytes]:
        if self.compress:
            yield gzip_parts.HEADER
        for part in parts:
            with part.path.open("rb") as source:
                while data := source.read(_COPIED):
                    yield data
        if self.compress:
            yield gzip_parts.footer(sum((part.checksum() for part in parts), Checksum()))

    def described(self) -> dict[str, Any]:
        """What the manifest says of the file."""
        described: dict[str, Any] = json.loads(self._record.read_text())
        del described["statistics"]
        return described

    def statistics(self) -> Statistics:
        """Of the file's records."""
        return Statistics.from_json(json.loads(self._record.read_text())["statistics"])

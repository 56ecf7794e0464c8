"""Tests of bert_tf.record_shard: a file is there as a whole or not at all."""

import errno
import gzip
import hashlib
import json
import pathlib

import numpy as np
import pytest

from bert_tf import record_shard
from bert_tf.pretraining_records import Statistics
from bert_tf.record_shard import Shard

CONTENTS = [b"first " * 1000, b"", b"third", bytes(range(256)) * 50]


@pytest.fixture(params=[False, True], ids=["plain", "gzip"])
def shard(request, tmp_path, monkeypatch):
    monkeypatch.setattr(record_shard, "_COPIED", 7)
    (tmp_path / "out").mkdir()
    return Shard(tmp_path / "out" / "records", tmp_path / "work", len(CONTENTS), request.param)


def statistics_of(number):
    statistics = Statistics.zero(5)
    statistics.lengths[number] = number + 1
    statistics.masks[:] = number, 2, 3
    statistics.num_random_next = number
    statistics.num_truncated, statistics.num_dropped = 1, 10 * number
    return statistics


def write_parts(shard):
    for number, (part, content) in enumerate(zip(shard.parts(), CONTENTS, strict=True)):
        part.write(content, statistics_of(number))


def content_of(shard):
    content = shard.path.read_bytes()
    return gzip.decompress(content) if shard.compress else content


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def equal(first, second):
    return json.dumps(first.to_json()) == json.dumps(second.to_json())


def test_a_part_and_what_is_said_of_it_appear_together(shard):
    part = shard.parts()[1]
    assert not part.is_done()
    part.write(b"content", statistics_of(3))
    assert part.is_done()
    assert equal(part.statistics(), statistics_of(3))
    assert names(shard.work) == ["000001.json", "000001.part"]
    assert [other.is_done() for other in shard.parts()] == [False, True, False, False]


@pytest.mark.parametrize("method", ["write_bytes", "write_text", "rename"])
def test_a_part_that_cannot_be_written_is_not_done(shard, monkeypatch, method):
    part = shard.parts()[0]

    def fail(path, *arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pathlib.Path, method, fail)
    with pytest.raises(OSError, match="No space"):
        part.write(b"content", statistics_of(0))
    monkeypatch.undo()
    assert not part.is_done()
    part.write(b"content", statistics_of(0))
    assert part.is_done() and names(shard.work) == ["000000.json", "000000.part"]


def test_a_file_is_its_parts_in_order(shard):
    write_parts(shard)
    assert not shard.is_done()
    shard.join()
    assert shard.is_done()
    assert content_of(shard) == b"".join(CONTENTS)
    assert names(shard.path.parent) == ["records"]
    assert not list(shard.work.glob("*.part"))
    stored = shard.path.read_bytes()
    assert shard.described() == {
        "name": str(shard.path),
        "num_records": 1 + 2 + 3 + 4,
        "num_bytes": len(stored),
        "sha256": hashlib.sha256(stored).hexdigest(),
    }
    total = shard.statistics()
    assert total.lengths.tolist() == [1, 2, 3, 4, 0, 0]
    assert total.masks.tolist() == [0 + 1 + 2 + 3, 8, 12]
    assert (total.num_random_next, total.num_truncated, total.num_dropped) == (6, 4, 60)


def test_a_file_does_not_depend_on_when_it_was_made(shard, tmp_path):
    write_parts(shard)
    shard.join()
    again = Shard(tmp_path / "again", tmp_path / "other_work", len(CONTENTS), shard.compress)
    write_parts(again)
    again.join()
    assert again.path.read_bytes() == shard.path.read_bytes()


@pytest.mark.parametrize("change", ["gone", "changed", "longer", "folder"])
def test_a_file_that_is_another_by_now_is_not_done(shard, change):
    write_parts(shard)
    shard.join()
    content = shard.path.read_bytes()
    shard.path.unlink()
    if change == "changed":
        shard.path.write_bytes(content[:-1] + b"?")
    elif change == "longer":
        shard.path.write_bytes(content + b"?")
    elif change == "folder":
        shard.path.mkdir()
    assert not shard.is_done()


def test_a_file_that_is_there_already_is_replaced(shard):
    shard.path.write_bytes(b"older")
    write_parts(shard)
    assert not shard.is_done()
    shard.join()
    assert content_of(shard) == b"".join(CONTENTS)


@pytest.mark.parametrize("where", ["read", "write_json", "replace"])
def test_a_file_that_cannot_be_put_together_keeps_its_parts(shard, monkeypatch, where):
    shard.path.write_bytes(b"older")
    write_parts(shard)
    real_replace = pathlib.Path.replace

    def fail(path, target):
        if target != shard.path and where == "replace":
            return real_replace(path, target)
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "read":
        missing = shard.parts()[2].path
        content = missing.read_bytes()
        missing.unlink()
    elif where == "write_json":
        monkeypatch.setattr(record_shard, "write_json", fail)
    else:
        monkeypatch.setattr(pathlib.Path, "replace", fail)
    with pytest.raises(OSError):
        shard.join()
    monkeypatch.undo()
    assert shard.path.read_bytes() == b"older"
    assert names(shard.path.parent) == ["records"]
    assert not shard.is_done()
    if where == "read":
        missing.write_bytes(content)
    monkeypatch.setattr(record_shard, "_COPIED", 1 << 20)
    shard.join()
    assert content_of(shard) == b"".join(CONTENTS)


def test_statistics_survive_their_file():
    statistics = statistics_of(2)
    again = Statistics.from_json(json.loads(json.dumps(statistics.to_json())))
    assert equal(again, statistics)
    assert again.lengths.dtype == again.masks.dtype == np.int64

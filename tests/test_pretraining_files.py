"""Tests of bert_tf.pretraining_files: the same files whoever makes them, whatever interrupts."""

import collections
import gzip
import hashlib
import itertools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from reference_pretraining import (
    documents_of,
    random_documents,
    reference_instances,
    text_of,
    write_vocabulary,
)

from bert_tf import corpus, pretraining_files, text_files
from bert_tf.cli.main import main
from bert_tf.config import PretrainingData, stored_settings
from bert_tf.errors import InputError
from bert_tf.pretraining_files import create
from bert_tf.pretraining_records import RecordMaker
from bert_tf.run_folder import locked
from bert_tf.tfrecord import decode_example, read_records
from bert_tf.tokenization import FullTokenizer

DOCUMENTS = random_documents(0, 60)


@pytest.fixture
def small_sections(monkeypatch):
    """Many sections and parts, for runs in this process."""
    for module in (text_files, corpus):
        monkeypatch.setattr(module, "SECTION_BYTES", 1000)
    monkeypatch.setattr(pretraining_files, "_PART", 30)
    monkeypatch.setattr(pretraining_files, "_PLANNED_PARTS", 4)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in, with a text and a vocabulary."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(text_of(DOCUMENTS))
    write_vocabulary(tmp_path)
    (tmp_path / "out").mkdir()
    return tmp_path


BASE = {
    "input_file": "text.txt",
    "output_file": "out/records",
    "vocab_file": "vocab.txt",
    "max_seq_length": 29,
    "max_predictions_per_seq": 5,
    "dupe_factor": 3,
    "num_workers": 1,
}


def settings_of(**changes):
    return PretrainingData(**{**BASE, **changes})


def flags_of(**changes):
    return [f"--{name}={value}" for name, value in {**BASE, **changes}.items()]


def made(**changes):
    """The content of each file that a run leaves in its folder, but for the manifest."""
    settings = settings_of(**changes)
    create(settings)
    out = pathlib.Path(settings.output_file.split(",")[0]).parent
    contents = {path.name: path.read_bytes() for path in sorted(out.iterdir())}
    del contents[f"{pathlib.Path(re.split(',', settings.output_file)[0]).name}.manifest.json"]
    return contents


def records_in(*contents):
    """The records of files, in order."""
    records = []
    for content in contents:
        path = pathlib.Path("records_in")
        path.write_bytes(content)
        records += read_records(path)
        path.unlink()
    return records


def as_set(records):
    return collections.Counter(records)


# --- the same records ---------------------------------------------------------------------------


@pytest.mark.parametrize("next_sentence", ["nsp", "none"])
def test_records_are_those_of_the_reference_in_random_order(folder, small_sections, next_sentence):
    (content,) = made(next_sentence=next_sentence).values()
    tokenizer = FullTokenizer("vocab.txt")
    text = (folder / "text.txt").read_bytes()
    documents = documents_of([text], tokenizer)
    assert documents == DOCUMENTS
    # A document belongs to the section in which the blank line before it starts, a byte before it.
    sections = [0, *((start - 1) // 1000 for start in document_starts(text)[1:])]
    section_ends = [i for i in range(1, 60) if sections[i] != sections[i - 1]] + [60]
    assert len(section_ends) > 5
    rule = RecordMaker(settings_of(next_sentence=next_sentence)).rule
    expected = reference_instances(documents, rule, section_ends)
    expected.sort(key=lambda instance: instance["order"])
    records = [decode_example(record) for record in records_in(content)]
    assert len(records) == len(expected) > 200
    for record, instance in zip(records, expected, strict=True):
        ids = record["input_ids"].copy()
        used = record["masked_lm_weights"] > 0
        ids[record["masked_lm_positions"][used]] = record["masked_lm_ids"][used]
        length = len(instance["input_ids"])
        assert ids[:length].tolist() == instance["input_ids"]
        assert record["input_mask"].sum() == length
        assert record["segment_ids"][:length].tolist() == instance["segment_ids"]
        assert record["next_sentence_labels"].tolist() == [instance["next_sentence_label"]]


def document_starts(text):
    """Where the first lines of documents start, in bytes."""
    starts, position, after_blank = [], 0, True
    for line in text.split(b"\n"):
        if line and after_blank:
            starts.append(position)
        after_blank = not line
        position += len(line) + 1
    return starts


@pytest.fixture(scope="module")
def large_text(tmp_path_factory):
    """A text of three sections, and its records, made in one process."""
    folder = tmp_path_factory.mktemp("large")
    write_vocabulary(folder)
    text = text_of(random_documents(1, 3700, most_sentences=17, longest=11))
    (folder / "text.txt").write_text(text)
    assert 2 < len(text) / text_files.SECTION_BYTES < 3
    return folder


LARGE = {"max_seq_length": 64, "max_predictions_per_seq": 10, "dupe_factor": 1}


@pytest.mark.parametrize("next_sentence", ["nsp", "none"])
def test_records_do_not_depend_on_workers_or_shards(
    large_text, tmp_path, monkeypatch, next_sentence
):
    monkeypatch.chdir(large_text)
    changes = {**LARGE, "next_sentence": next_sentence}

    def of(name, **more):
        (tmp_path / name).mkdir()
        return made(output_file=str(tmp_path / name / "records"), **changes, **more)

    alone = of("alone", num_shards=3)
    assert list(alone) == [f"records-{i:05}-of-00003" for i in range(3)]
    assert of("two", num_shards=3, num_workers=2) == alone
    if next_sentence == "nsp":
        assert of("five", num_shards=3, num_workers=5) == alone
    (single,) = of("single").values()
    assert single == b"".join(alone.values())
    eight = of("eight", num_shards=8)
    assert b"".join(eight.values()) == single
    sizes = [len(records_in(content)) for content in eight.values()]
    assert max(sizes) - min(sizes) <= 1 and sum(sizes) == len(records_in(single)) > 2000


def test_part_sizes_do_not_show(folder, monkeypatch):
    (whole,) = made(dupe_factor=1).values()
    for size in (3, 7, 100):
        monkeypatch.setattr(pretraining_files, "_PART", size)
        (folder / str(size)).mkdir()
        (cut,) = made(dupe_factor=1, output_file=f"{size}/records").values()
        assert cut == whole


def test_pairs_do_not_depend_on_sections(folder, monkeypatch):
    (whole,) = made().values()
    for size in (100, 999):
        for module in (text_files, corpus):
            monkeypatch.setattr(module, "SECTION_BYTES", size)
        (folder / str(size)).mkdir()
        (cut,) = made(output_file=f"{size}/records").values()
        assert cut == whole


def test_more_shards_than_records(folder):
    (folder / "text.txt").write_text("word1\nword2\n\nword3\n")
    (single,) = made(dupe_factor=1).values()
    shards = made(dupe_factor=1, output_file="out/many", num_shards=7)
    del shards["records"], shards["records.manifest.json"]
    assert len(shards) == 7
    assert b"".join(shards.values()) == single
    assert {len(records_in(content)) for content in shards.values()} == {0, 1}


def test_several_names(folder):
    (single,) = made().values()
    (folder / "other").mkdir()
    create(settings_of(output_file="out/b, other/a ,out/c"))
    contents = [pathlib.Path(name).read_bytes() for name in ("out/b", "other/a", "out/c")]
    assert b"".join(contents) == single
    assert pathlib.Path("out/b.manifest.json").exists()


def test_text_may_be_compressed_and_cut_between_documents(folder, small_sections):
    (whole,) = made().values()
    text = (folder / "text.txt").read_bytes()
    documents = text.split(b"\n\n")
    (folder / "text.gz").write_bytes(gzip.compress(text))
    (folder / "part-0").write_bytes(b"\n\n".join(documents[:11]))  # without a last line end
    (folder / "part-1").write_bytes(gzip.compress(b"\n\n".join(documents[11:30]) + b"\n"))
    (folder / "part-2").write_bytes(b"\n\n\n" + b"\n\n".join(documents[30:]) + b"\n\n")
    (folder / "windows.txt").write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"))
    for number, names in enumerate(["text.gz", "part-*", "part-0,part-1,part-2", "windows.txt"]):
        (folder / f"{number}").mkdir()
        (found,) = made(input_file=names, output_file=f"{number}/records").values()
        assert found == whole, names


def test_compressed_records_are_the_same_records(folder, small_sections):
    plain = made(num_shards=2)
    compressed = {}
    for name, changes in (("a", {"gzip_compress": True, "num_shards": 2}), ("b", {})):
        (folder / name).mkdir()
        outputs = f"{name}/records" if name == "a" else "b/0.gz,b/1.gz"
        compressed[name] = made(output_file=outputs, **changes)
    assert list(compressed["a"]) == list(plain)
    for contents in compressed.values():
        assert all(content.startswith(b"\x1f\x8b") for content in contents.values())
        assert [gzip.decompress(content) for content in contents.values()] == list(plain.values())


def test_other_seeds_give_other_records(folder):
    contents = []
    for seed in (12345, 12346, 0):
        (folder / str(seed)).mkdir()
        (content,) = made(random_seed=seed, output_file=f"{seed}/records").values()
        contents.append(content)
    # Short instances may be equal by chance.
    for first, second in itertools.combinations(map(as_set, map(records_in, contents)), 2):
        assert (first & second).total() < 0.02 * first.total()


def test_copies_of_the_text_differ(folder):
    (content,) = made(dupe_factor=2).values()
    counts = as_set(records_in(content))
    assert max(counts.values()) == 1
    (folder / "one").mkdir()
    (one,) = made(dupe_factor=1, output_file="one/records").values()
    # The first copy is the same in both.
    assert as_set(records_in(one)) < counts


def test_dynamic_records_have_no_masks(folder):
    (static,) = made().values()
    (folder / "dynamic").mkdir()
    (dynamic,) = made(masking="dynamic", output_file="dynamic/records").values()
    for with_masks, without in zip(records_in(static), records_in(dynamic), strict=True):
        masked, plain = decode_example(with_masks), decode_example(without)
        assert set(plain) == {"input_ids", "input_mask", "segment_ids", "next_sentence_labels"}
        used = masked["masked_lm_weights"] > 0
        masked["input_ids"][masked["masked_lm_positions"][used]] = masked["masked_lm_ids"][used]
        for name, values in plain.items():
            np.testing.assert_array_equal(masked[name], values)


# --- the manifest -------------------------------------------------------------------------------


def test_the_manifest_says_what_the_files_hold(folder, small_sections):
    text = text_of(DOCUMENTS) + "\n\nword1 " + "word2 " * 40 + "\n"
    (folder / "text.txt").write_text(text)
    (folder / "second.gz").write_bytes(gzip.compress(b"word3\xff\n\x01\n"))
    settings = settings_of(input_file="text.txt,second.gz", num_shards=3, gzip_compress=True)
    manifest = create(settings)
    assert json.loads(pathlib.Path("out/records.manifest.json").read_text()) == manifest
    assert manifest["configuration"] == stored_settings(settings)
    vocabulary = (folder / "vocab.txt").read_text().split()
    assert manifest["vocabulary"]["num_pieces"] == len(vocabulary)
    assert manifest["inputs"] == [
        {"name": name, "num_bytes": (folder / name).stat().st_size}
        for name in ("text.txt", "second.gz")
    ]

    outputs, records = [], []
    for number in range(3):
        path = pathlib.Path(f"out/records-{number:05}-of-00003")
        content = path.read_bytes()
        found = records_in(content)
        records += [decode_example(record) for record in found]
        outputs.append(
            {
                "name": str(path),
                "num_records": len(found),
                "num_bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
        )
    assert manifest["outputs"] == outputs

    lengths = [int(record["input_mask"].sum()) for record in records]
    masked = sum(int(record["masked_lm_weights"].sum()) for record in records)
    random_next = sum(int(record["next_sentence_labels"][0]) for record in records)
    statistics = manifest["statistics"]
    assert statistics["num_records"] == len(records)
    assert statistics["num_pieces"] == sum(lengths)
    assert statistics["mean_length"] == pytest.approx(np.mean(lengths))
    assert statistics["padding"] == pytest.approx(1 - np.mean(lengths) / 29)
    counts = collections.Counter(lengths)
    assert statistics["lengths"] == {str(length): counts[length] for length in sorted(counts)}
    assert statistics["masked"] == pytest.approx(masked / sum(lengths))
    assert statistics["random_next"] == pytest.approx(random_next / len(records))
    kinds = [statistics[f"masked_{kind}"] for kind in ("mask", "same", "random")]
    assert sum(kinds) == pytest.approx(1) and 0.7 < kinds[0] < 0.9

    tokenizer = FullTokenizer("vocab.txt")
    documents = documents_of([text.encode(), b"word3\xff\n\x01\n"], tokenizer)
    expected = reference_instances(documents, RecordMaker(settings).rule)
    dropped = [instance["num_dropped"] for instance in expected]
    assert statistics["truncated_pieces"] == sum(dropped) > 0
    assert statistics["truncated_records"] == pytest.approx(np.mean(np.array(dropped) > 0))

    sentences = list(itertools.chain.from_iterable(documents))
    health = manifest["text"]
    num_lines = text.count("\n")
    assert health["lines"] == num_lines + 2
    assert health["documents"] == len(documents) == 62
    assert health["sentences"] == len(sentences)
    assert health["pieces"] == sum(map(len, sentences))
    assert health["longest_sentence"] == max(map(len, sentences)) == 41
    findings = health["findings"]
    assert findings["not_utf8"] == {"count": 1, "places": ["second.gz:1"]}
    assert findings["no_pieces"] == {"count": 1, "places": ["second.gz:2"]}
    assert findings["empty_document"] == {"count": 1, "places": [f"text.txt:{num_lines - 1}"]}
    assert findings["long_sentence"] == {"count": 1, "places": [f"text.txt:{num_lines}"]}
    ones = sum(len(document) == 1 for document in documents)
    assert findings["one_line_document"]["count"] == ones
    repeated = len(sentences) - len({tuple(sentence) for sentence in sentences})
    assert findings["duplicate_line"]["count"] == repeated > 0


def test_warnings_name_file_and_line_in_their_order(folder, caplog):
    (folder / "text.txt").write_bytes(b"\nword1\nword1\n\x01\n\nword2\xff\n")
    create(settings_of())
    warnings = [r.message for r in caplog.records if r.levelname == "WARNING"]
    findings = [message.split(" ")[2:5] for message in warnings]
    assert [" ".join(words) for words in findings] == [
        "lines with bytes",
        "empty documents (one",
        "lines that hold",
        "documents of one",
        "lines that are",
    ]
    places = [message.rpartition(": ")[2] for message in warnings]
    assert places == [f"text.txt:{line}" for line in (6, 1, 4, 6, 3)]
    assert all(message.startswith("warning: 1 ") for message in warnings)


# --- who may write ------------------------------------------------------------------------------


def everything(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("existing", ["records-00001-of-00002", "records.manifest.json"])
def test_files_that_are_there_are_kept(folder, existing):
    (folder / "out" / existing).write_text("mine")
    with pytest.raises(InputError, match=f"--output_file out/{existing}: is there already"):
        create(settings_of(num_shards=2))
    assert everything(folder / "out") == {existing: b"mine"}


def test_overwrite_replaces_files(folder):
    expected = made(num_shards=2)
    (folder / "out" / "records-00001-of-00002").write_text("old")
    (folder / "out" / "records.manifest.json").write_text("old")
    assert made(num_shards=2, overwrite=True) == expected
    create(settings_of(num_shards=2, overwrite=True, random_seed=1))
    assert (folder / "out" / "records-00001-of-00002").read_bytes() != expected[
        "records-00001-of-00002"
    ]


def test_overwrite_loses_nothing_if_nothing_can_be_made(folder):
    made()
    before = everything(folder / "out")
    (folder / "text.txt").write_text("\n")
    with pytest.raises(InputError, match="no text"):
        create(settings_of(overwrite=True))
    assert everything(folder / "out") == before


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("text.txt", "--output_file text.txt: is --input_file text.txt too"),
        ("out/../text.txt", "--output_file out/../text.txt: is --input_file text.txt too"),
        ("vocab.txt", "--output_file vocab.txt: is --vocab_file vocab.txt too"),
    ],
)
def test_what_is_read_is_not_written(folder, output, message):
    before = everything(folder)
    with pytest.raises(InputError, match=message):
        create(settings_of(output_file=output, overwrite=True))
    assert everything(folder) == before


def cut_off(settings, monkeypatch, at=3):
    """Leaves what a run leaves that ends when a part has been written."""

    class End(BaseException):
        pass

    real = pretraining_files.ShardPart.write
    calls = itertools.count(1)

    def write(part, records, statistics):
        if next(calls) == at:
            raise End
        real(part, records, statistics)

    with monkeypatch.context() as patch:
        patch.setattr(pretraining_files.ShardPart, "write", write)
        with pytest.raises(End):
            create(settings)


def test_an_unfinished_run_of_another_configuration_is_refused(folder, small_sections, monkeypatch):
    expected = made(num_shards=2)
    (folder / "cut").mkdir()
    changes = {"num_shards": 2, "output_file": "cut/records"}
    cut_off(settings_of(**changes), monkeypatch)
    before = everything(folder / "cut")
    for other, name in (
        ({"random_seed": 1}, "random_seed"),
        ({"max_seq_length": 28}, "max_seq_length"),
        ({"num_shards": 3}, "num_shards"),
    ):
        with pytest.raises(
            InputError, match=rf"unfinished run of another .*\(it differs in {name}\)"
        ):
            create(settings_of(**{**changes, **other}))
    assert everything(folder / "cut") == before
    # Neither the number of workers nor --overwrite makes it another run.
    created = made(**changes, overwrite=True)
    assert list(created.values()) == list(expected.values())


def test_a_changed_text_is_another_configuration(folder, small_sections, monkeypatch):
    cut_off(settings_of(), monkeypatch)
    with (folder / "text.txt").open("a") as file:
        file.write("\nword1\n")
    with pytest.raises(InputError, match=r"it differs in inputs\)"):
        create(settings_of())
    (found,) = made(overwrite=True).values()
    (folder / "fresh").mkdir()
    (expected,) = made(output_file="fresh/records").values()
    assert found == expected


def test_a_changed_vocabulary_is_another_configuration(folder, small_sections, monkeypatch):
    cut_off(settings_of(), monkeypatch)
    (folder / "vocab.txt").write_text((folder / "vocab.txt").read_text() + "more\n")
    with pytest.raises(InputError, match=r"it differs in vocabulary\)"):
        create(settings_of())
    (found,) = made(overwrite=True).values()
    (folder / "fresh").mkdir()
    assert [found] == list(made(output_file="fresh/records").values())


def test_what_is_left_of_no_run_is_not_used(folder, small_sections, monkeypatch):
    """A removal of the work folder that was cut off may have taken the configuration first."""
    cut_off(settings_of(random_seed=1), monkeypatch)
    (folder / "out" / ".records.work" / "configuration.json").unlink()
    (found,) = made().values()
    (folder / "fresh").mkdir()
    assert [found] == list(made(output_file="fresh/records").values())


def test_two_processes_at_once(folder, small_sections):
    with locked(folder / "out" / ".records.work", "flag"):
        with pytest.raises(InputError, match="in use by another process"):
            create(settings_of())
        assert everything(folder / "out") == {".records.work/.lock": str(os.getpid()).encode()}
    made()


def test_a_run_that_ended_before_it_was_locked_is_seen(folder, monkeypatch):
    """Another process makes the files between the first look and the lock."""
    real = pretraining_files.locked
    contents = []

    def late(*arguments):
        monkeypatch.setattr(pretraining_files, "locked", real)
        contents.append(made())
        return real(*arguments)

    monkeypatch.setattr(pretraining_files, "locked", late)
    with pytest.raises(InputError, match="is there already"):
        create(settings_of())
    assert set(everything(folder / "out")) == {"records", "records.manifest.json"}
    assert (folder / "out" / "records").read_bytes() == contents[0]["records"]
    assert not (folder / "out" / ".records.work").exists()


# --- interruptions ------------------------------------------------------------------------------

# Makes the files again and again, each time interrupted at another of the steps at which it changes
# the file system, and then once more to the end. `shards` are the files as they should be.
INTERRUPTIONS = """
import dataclasses, itertools, json, os, pathlib, shutil, signal, sys, traceback
from bert_tf import corpus, errors, pretraining_files, text_files
from bert_tf.config import PretrainingData

settings, shards, how, step = json.load(sys.stdin)
settings = PretrainingData(**settings)
shards = {name: bytes.fromhex(content) for name, content in shards.items()}
text_files.SECTION_BYTES = corpus.SECTION_BYTES = 1500
pretraining_files._PART, pretraining_files._PLANNED_PARTS = 60, 3
OUT = pathlib.Path("out")

def changes_files(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        return isinstance(path, str) and "out" in path and flags & (os.O_WRONLY | os.O_RDWR)
    return event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir")

def takes_room(event, arguments):
    return changes_files(event, arguments) and event in ("open", "os.mkdir", "os.rename")

def interrupt_at(stop):
    counter = itertools.count(1)
    counts = changes_files if how == "kill" else takes_room
    def hook(event, arguments):
        if counts(event, arguments):
            number = next(counter)
            if how == "kill" and number == stop:
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "full" and number >= stop:  # and stays so
                raise OSError(28, "No space left on device")
    sys.addaudithook(hook)

def run(stop):
    '''Runs in a process of its own; returns how it ends.'''
    process = os.fork()
    if not process:
        try:
            sys.stderr = open(os.devnull, "w")
            if stop:
                interrupt_at(stop)
            pretraining_files.create(settings)
            os._exit(0)
        except errors.InputError as error:
            os._exit(2 if "No space left" in str(error) and "\\n" not in str(error) else 3)
        except BaseException:
            sys.__stderr__.write(traceback.format_exc())
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

ends = []
for stop in itertools.count(1, step):
    OUT.mkdir()
    ends.append(run(stop))
    found = {path.name: path.read_bytes() for path in OUT.iterdir() if path.is_file()}
    manifest = found.pop("records.manifest.json", None)
    if ends[-1] == 0:
        assert found == shards and manifest, stop
        break
    whole = {name for name in found if not name.startswith(".")}
    assert all(found[name] == shards[name] for name in whole), stop
    assert manifest is None or whole == set(shards), stop
    if how == "full":
        assert set(found) == whole, (stop, set(found))
    times = {name: (OUT / name).stat().st_mtime_ns for name in whole}
    # Only the removal of the work folder is missing if its configuration is gone, so that the
    # files are refused as those of a finished run; and nothing of that folder is used again.
    is_finished = manifest and not (OUT / ".records.work" / "configuration.json").exists()
    assert run(0) == (3 if is_finished else 0), stop
    if is_finished:
        settings = dataclasses.replace(settings, overwrite=True)
        assert run(0) == 0, stop
        settings = dataclasses.replace(settings, overwrite=False)
        times = {}
    found = {path.name: path.read_bytes() for path in OUT.rglob("*") if path.is_file()}
    assert json.loads(found.pop("records.manifest.json"))["outputs"], stop
    assert found == shards, (stop, set(found))
    assert all((OUT / name).stat().st_mtime_ns == time for name, time in times.items()), stop
    shutil.rmtree(OUT)
print(json.dumps([ends.count(end) for end in (0, -9, 2)] + [len(ends)]))
"""


def interruptions(folder, monkeypatch, how, step, **changes):
    """How many runs ended well, were killed, were told that the disk is full; and of how many."""
    for module in (text_files, corpus):
        monkeypatch.setattr(module, "SECTION_BYTES", 1500)
    settings = {**BASE, "num_shards": 3, "dupe_factor": 2, **changes}
    shards = {name: content.hex() for name, content in made(**settings).items()}
    for path in (folder / "out").iterdir():
        path.unlink()
    (folder / "out").rmdir()
    script = folder / "interruptions.py"
    script.write_text(INTERRUPTIONS)
    done = subprocess.run(
        [sys.executable, script],
        input=json.dumps([settings, shards, how, step]),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("step", "changes"), [(6, {}), (11, {"gzip_compress": True, "input_file": "text.gz"})]
)
def test_a_run_that_is_killed_anywhere_goes_on(folder, monkeypatch, step, changes):
    (folder / "text.gz").write_bytes(gzip.compress((folder / "text.txt").read_bytes()))
    well, killed, full, of = interruptions(folder, monkeypatch, "kill", step, **changes)
    assert (well, full) == (1, 0)
    assert killed == of - 1 > 12


def test_a_run_whose_disk_is_full_goes_on_when_there_is_room(folder, monkeypatch):
    well, killed, full, of = interruptions(folder, monkeypatch, "full", 7)
    assert (well, killed) == (1, 0)
    assert full == of - 1 > 12


# A command whose files cannot grow beyond a size, as on a disk that is nearly full.
LIMITED = """
import resource, sys
from bert_tf.cli.main import main
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.exit(main(["create_pretraining_data", *sys.argv[2:]]))
"""


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize(
    ("limit", "is_kept"),
    [(100, False), (2000, False), (8000, True), (30_000, True)],
    ids=["configuration", "section", "plan", "records"],
)
def test_a_file_that_cannot_grow_is_told_in_one_line(folder, limit, is_kept, num_workers):
    expected = made(num_shards=2)
    for path in (folder / "out").iterdir():
        path.unlink()
    changes = {"num_shards": 2, "num_workers": num_workers}
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), *flags_of(**changes)],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    (error,) = (line for line in done.stderr.splitlines() if line.startswith("bert-tf: "))
    assert "cannot write it: File too large" in error
    assert ("What is done so far is kept in out/.records.work" in error) == is_kept
    assert [path.name for path in (folder / "out").iterdir()] == [".records.work"] * is_kept
    assert made(**changes) == expected


# --- through the command line -------------------------------------------------------------------


def refused(capsys, *words, **changes):
    """The command ends with status 2 and one line that has these words; returns the line."""
    assert main(["create_pretraining_data", *flags_of(**changes)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    # Progress is told on stderr too, in parts per second or seconds per part.
    lines = [line for line in re.split("[\r\n]+", output.err) if line and "part" not in line]
    (line,) = lines
    assert line.startswith("bert-tf: ")
    for word in words:
        assert word in line
    return line


@pytest.mark.parametrize(
    ("content", "num_lines"),
    [(b"", 0), (b"\n", 1), (b"\n \r\n\t\n", 3), (b"\x01\x02\n\n\x7f", 3), (b"\xff\n\xfe", 2)],
)
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_text_without_documents(folder, capsys, content, num_lines, compress, num_workers):
    (folder / "text.txt").write_bytes(gzip.compress(content) if compress else content)
    before = everything(folder)
    words = (f"--input_file text.txt: no text: {num_lines} lines", "one sentence a line")
    refused(capsys, *words, num_workers=num_workers)
    assert everything(folder) == before
    assert not list((folder / "out").iterdir())
    # A better text is not taken for another configuration of an unfinished run.
    (folder / "text.txt").write_text("word1\nword2\n")
    assert main(["create_pretraining_data", *flags_of()]) == 0
    assert json.loads(capsys.readouterr().out)["num_records"] > 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input_file": ""}, ["--input_file is missing"]),
        ({"output_file": ""}, ["--output_file is missing"]),
        ({"vocab_file": ""}, ["--vocab_file is missing"]),
        ({"input_file": "*.tsv"}, ["--input_file: no file is called *.tsv"]),
        ({"input_file": "text.txt,gone"}, ["--input_file: no file is called gone"]),
        ({"input_file": "."}, ["--input_file .: a folder"]),
        ({"vocab_file": "gone"}, ["gone: cannot read the vocabulary"]),
        ({"vocab_file": "no_mask.txt"}, ["no_mask.txt", "no piece '[MASK]'"]),
        ({"vocab_file": "no_cls.txt"}, ["no_cls.txt", "no piece '[CLS]'"]),
        ({"max_predictions_per_seq": 3}, ["--max_predictions_per_seq=3 is too small", "4 pieces"]),
        ({"max_predictions_per_seq": 0}, ["--max_predictions_per_seq"]),
        ({"masked_lm_prob": "nan"}, ["--masked_lm_prob", "nan"]),
        ({"masked_lm_prob": "inf"}, ["--masked_lm_prob", "inf"]),
        ({"masked_lm_prob": -0.15}, ["--masked_lm_prob", "-0.15"]),
        ({"max_seq_length": 4}, ["--max_seq_length=4", "the least is 5"]),
        ({"max_seq_length": -4}, ["--max_seq_length=-4", "the least is 5"]),
        ({"short_seq_prob": "nan"}, ["--short_seq_prob", "nan"]),
        ({"dupe_factor": 0}, ["--dupe_factor"]),
        ({"random_seed": -1}, ["--random_seed"]),
        ({"num_workers": 0}, ["--num_workers must be at least 1"]),
        ({"num_shards": 0}, ["--num_shards must be at least 1"]),
        ({"num_shards": 2, "output_file": "out/a,out/b"}, ["--num_shards=2", "names 2 files"]),
        ({"output_file": " , "}, ["--output_file ' , ': holds no name"]),
        ({"output_file": ",", "num_shards": 2}, ["--output_file ',': holds no name"]),
        ({"output_file": "out/a,out/b,out//a"}, ["--output_file", "a name is there twice"]),
        ({"output_file": "out"}, ["--output_file out: a folder"]),
        ({"output_file": "gone/records"}, ["--output_file gone/records: there is no folder gone"]),
        ({"output_file": "out/a,gone/b"}, ["--output_file gone/b: there is no folder gone"]),
        ({"output_file": "text.txt/a"}, ["--output_file text.txt/a: there is no folder text.txt"]),
        ({"output_file": "out/there"}, ["--output_file out/there: is there already"]),
        ({"do_whole_word_mask": True, "do_span_mask": True}, ["--do_whole_word_mask or"]),
        ({"masking": "dynamic", "do_span_mask": True}, ["--do_span_mask=true", "hold no masks"]),
        ({"masking": "dynamic", "masked_lm_prob": 7}, ["--masked_lm_prob=7.0", "hold no masks"]),
        ({"max_span_length": 3}, ["--max_span_length=3", "give --do_span_mask too"]),
        ({"input_file": "*.txt", "output_file": "records.txt"}, ["--input_file *.txt would name"]),
        ({"next_sentence": "sop"}, ["next_sentence", "nsp"]),
    ],
)
def test_bad_input_is_told_in_one_line_and_leaves_nothing(folder, capsys, changes, words):
    pieces = (folder / "vocab.txt").read_text().split()
    for name in ("cls", "mask"):
        left = [piece for piece in pieces if piece != f"[{name.upper()}]"]
        (folder / f"no_{name}.txt").write_text("\n".join(left))
    (folder / "out" / "there").write_text("mine")
    before = sorted(folder.rglob("*"))
    refused(capsys, *words, **changes)
    assert sorted(folder.rglob("*")) == before


def test_a_damaged_gzip_file(folder, capsys):
    content = gzip.compress((folder / "text.txt").read_bytes())
    (folder / "a.gz").write_bytes(content)
    (folder / "b.gz").write_bytes(content[:-20])
    refused(capsys, "b.gz: damaged gzip file", input_file="a.gz,b.gz")
    assert not list((folder / "out").iterdir())


def test_an_input_file_that_goes_away(folder, capsys, monkeypatch):
    real = pretraining_files.sections_of

    def remove(*arguments):
        sections = real(*arguments)
        (folder / "text.txt").unlink()
        return sections

    monkeypatch.setattr(pretraining_files, "sections_of", remove)
    refused(capsys, "text.txt: No such file or directory. Nothing was done so far")
    assert not list((folder / "out").iterdir())


def test_interrupting_at_once_leaves_nothing(folder, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(pretraining_files, "sections_of", interrupt)
    with pytest.raises(KeyboardInterrupt):
        create(settings_of())
    assert not list((folder / "out").iterdir())


def test_the_command_prints_what_the_records_are(folder, capsys):
    assert main(["create_pretraining_data", *flags_of()]) == 0
    output = capsys.readouterr()
    manifest = json.loads((folder / "out" / "records.manifest.json").read_text())
    printed = json.loads(output.out)
    assert printed.items() <= manifest["statistics"].items() and len(printed) > 8


def test_a_process_that_is_killed_with_its_workers(large_text, tmp_path, monkeypatch):
    monkeypatch.chdir(large_text)
    changes = {**LARGE, "dupe_factor": 3, "num_shards": 8}
    (tmp_path / "expected").mkdir()
    expected = made(output_file=str(tmp_path / "expected" / "records"), **changes)
    (tmp_path / "out").mkdir()
    changes |= {"output_file": str(tmp_path / "out" / "records"), "num_workers": 2}
    command = [sys.executable, "-m", "bert_tf.cli.main", "create_pretraining_data"]
    with subprocess.Popen(
        [*command, *flags_of(**changes)], stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        first = tmp_path / "out" / "records-00000-of-00008"
        wait_for(lambda: first.exists() or process.poll() is not None)
        process.kill()
    left = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("records-*")}
    assert left.items() <= expected.items()
    wait_for(lambda: not is_alive(process.pid))  # the workers are, for a moment
    assert made(**changes) == expected


def test_copies_that_would_be_the_same_are_told(folder, caplog):
    for changes in ({}, {"masking": "dynamic"}, {"next_sentence": "none"}):
        create(settings_of(output_file="out/a", overwrite=True, **changes))
    assert "--dupe_factor" not in caplog.text
    create(settings_of(masking="dynamic", next_sentence="none"))
    assert "--dupe_factor=3: all copies are the same" in caplog.text


def test_ctrl_c_ends_all_processes_with_one_line(large_text, tmp_path, monkeypatch):
    monkeypatch.chdir(large_text)
    changes = {**LARGE, "dupe_factor": 3, "num_shards": 8, "num_workers": 2}
    command = [sys.executable, "-m", "bert_tf.cli.main", "create_pretraining_data"]
    with subprocess.Popen(
        [*command, *flags_of(output_file=str(tmp_path / "records"), **changes)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell that starts the tests in the background has interrupts ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        first = tmp_path / "records-00000-of-00008"
        wait_for(lambda: first.exists() or process.poll() is not None)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, error = process.communicate()
    assert process.returncode == 130
    assert error.splitlines()[-1] == "bert-tf: create_pretraining_data was interrupted"
    assert "Traceback" not in error


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.01)


def is_alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_tensorflow_reads_the_records(folder, small_sections):
    tf = pytest.importorskip("tensorflow")
    (content,) = made().values()
    create(settings_of(output_file="out/a.gz"))
    for path, compression in (("out/records", ""), ("out/a.gz", "GZIP")):
        found = tf.data.TFRecordDataset(path, compression).as_numpy_iterator()
        assert list(found) == records_in(content)
    shapes = {"input_ids": 29, "input_mask": 29, "segment_ids": 29, "next_sentence_labels": 1}
    shapes |= {"masked_lm_positions": 5, "masked_lm_ids": 5}
    features = {name: tf.io.FixedLenFeature([size], tf.int64) for name, size in shapes.items()}
    features["masked_lm_weights"] = tf.io.FixedLenFeature([5], tf.float32)
    records = records_in(content)
    parsed = tf.io.parse_example(records, features)
    for i, record in enumerate(map(decode_example, records)):
        for name, values in record.items():
            np.testing.assert_array_equal(parsed[name][i], values)

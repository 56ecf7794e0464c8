"""Tests of making records with Apache Beam: the files are those that are made without it."""

import gzip
import importlib
import json
import pathlib
import shutil
import sys

import pytest
from odd_texts import write_texts

from bert_tf import corpus, pretraining_files, pretraining_sections, text_files
from bert_tf.config import PretrainingData
from bert_tf.errors import InputError
from bert_tf.tfrecord import read_records


def test_without_beam_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "bert_tf.pretraining_beam", raising=False)
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(InputError, match=r"pip install 'bert-tf\[beam\]'"):
        importlib.import_module("bert_tf.pretraining_beam")


@pytest.fixture
def pretraining_beam(monkeypatch):
    pytest.importorskip(
        "apache_beam", reason="Apache Beam is not installed: the extra [beam] has it"
    )
    from bert_tf import pretraining_beam

    for module in (text_files, corpus, pretraining_beam):
        monkeypatch.setattr(module, "SECTION_BYTES", 701)
    monkeypatch.setattr(pretraining_sections, "_MADE_AT_ONCE", 31)
    monkeypatch.setattr(pretraining_sections, "_BUCKET", 50)
    monkeypatch.setattr(pretraining_beam, "_TASKS_OF_FILE", 3)  # so that a task has two sections
    return pretraining_beam


def settings_of(folder, **flags):
    given = {"output_file": str(folder / "beam"), "runner": "DirectRunner", **flags}
    return PretrainingData(**{**write_texts(folder), **given})


def create_without_beam(folder, **flags):
    given = {"output_file": str(folder / "local"), "runner": None, "num_workers": 1}
    settings = settings_of(folder, **given, **flags)
    return pretraining_files.create(settings)


def visible(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "flags",
    [
        {"num_shards": 3},
        {"next_sentence": "none"},
        {"masking": "dynamic", "num_shards": 2},
        {"do_whole_word_mask": True, "short_seq_prob": 0.5, "max_seq_length": 11},
    ],
    ids=lambda flags: "-".join(flags),
)
def test_the_files_are_those_made_without_beam(pretraining_beam, tmp_path, flags):
    expected = create_without_beam(tmp_path, **flags)
    manifest = pretraining_beam.create(settings_of(tmp_path, **flags))

    for made, output in zip(manifest["outputs"], expected["outputs"], strict=True):
        content = pathlib.Path(made["name"]).read_bytes()
        assert content and content == pathlib.Path(output["name"]).read_bytes()
        assert pathlib.Path(made["name"]).name == pathlib.Path(output["name"]).name.replace(
            "local", "beam"
        )
        assert {**made, "name": output["name"]} == output
    assert manifest["inputs"] == expected["inputs"]
    assert manifest["vocabulary"] == expected["vocabulary"]
    assert manifest["statistics"] == expected["statistics"]
    assert manifest["text"]["pieces"] == expected["text"]["pieces"]
    assert manifest["configuration"]["runner"] == "DirectRunner"
    assert json.loads((tmp_path / "beam.manifest.json").read_text()) == manifest
    assert not [name for name in visible(tmp_path) if name.startswith(".")]


def test_compressed_files_and_more_files_than_records(pretraining_beam, tmp_path):
    (tmp_path / "few.txt").write_text("ba be bi\ncabin\n\nce ci. co\n")
    flags = {"input_file": str(tmp_path / "few.txt"), "dupe_factor": 2, "gzip_compress": True}
    expected = create_without_beam(tmp_path, num_shards=7, **flags)["outputs"]
    outputs = pretraining_beam.create(settings_of(tmp_path, num_shards=7, **flags))["outputs"]
    counts = [output["num_records"] for output in outputs]
    assert counts == [output["num_records"] for output in expected]
    assert 0 in counts and sum(counts) > 1
    for made, output in zip(outputs, expected, strict=True):
        assert pathlib.Path(made["name"]).read_bytes()[:2] == b"\x1f\x8b"
        assert list(read_records(made["name"])) == list(read_records(output["name"]))


def test_output_that_is_there_is_replaced_only_if_asked(pretraining_beam, tmp_path):
    settings = settings_of(tmp_path)
    (tmp_path / "beam").write_text("kept")
    before = visible(tmp_path)
    with pytest.raises(InputError, match=r"beam: is there already.*--overwrite"):
        pretraining_beam.create(settings)
    assert visible(tmp_path) == before and (tmp_path / "beam").read_text() == "kept"
    pretraining_beam.create(settings_of(tmp_path, overwrite=True))
    assert len(list(read_records(tmp_path / "beam"))) > 100


def test_text_that_is_read_is_not_replaced(pretraining_beam, tmp_path):
    with pytest.raises(InputError, match=r"a\.txt: is --input_file .*a\.txt too"):
        pretraining_beam.create(
            settings_of(tmp_path, output_file=str(tmp_path / "a.txt"), overwrite=True)
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            gzip.compress(b"ba be bi\n" * 99)[:-9],
            r"bad\.txt: damaged gzip file: .* marker was reached$",
        ),
        (b"\n \n\n", r"no text: 3 lines, none with a word piece.*between documents$"),
        (b"", r"no text: 0 lines"),
    ],
    ids=["cut off", "blank lines", "empty"],
)
def test_mistakes_that_workers_find(pretraining_beam, tmp_path, content, message, caplog):
    settings = settings_of(tmp_path, input_file=str(tmp_path / "bad.txt"))
    (tmp_path / "bad.txt").write_bytes(content)
    before = visible(tmp_path)
    with pytest.raises(InputError, match=message):
        pretraining_beam.create(settings)
    assert visible(tmp_path) == before
    assert "Traceback" not in caplog.text


def lose_a_record(beam_module):
    sort = beam_module.sort_records
    return "sort_records", lambda records: sort(records)[1:]


def lose_a_part(beam_module):
    write = beam_module._write_parts
    return "_write_parts", lambda *given: list(write(*given))[1:]


def lose_a_section(beam_module):
    tokenize, texts = beam_module._tokenize, beam_module.SectionText

    def lossy(neighbours, run):
        first = True
        for found in tokenize(neighbours, run):
            if not (first and isinstance(found, texts)):
                yield found
            first = False

    return "_tokenize", lossy


@pytest.mark.parametrize(
    ("lose", "message"),
    [
        (lose_a_record, r"lost data on the way: \d+ of \d+ records arrived"),
        (lose_a_part, r"lost data on the way: \d+ of \d+ records of .*beam arrived"),
        (lose_a_section, r"lost data on the way: \d+ of \d+ sections of the text arrived"),
    ],
)
def test_what_a_runner_loses_is_missed(pretraining_beam, tmp_path, monkeypatch, lose, message):
    monkeypatch.setattr(pretraining_beam, *lose(pretraining_beam))
    settings = settings_of(tmp_path, next_sentence="none")
    before = visible(tmp_path)
    with pytest.raises(InputError, match=message):
        pretraining_beam.create(settings)
    assert visible(tmp_path) == before


def test_a_defect_is_not_taken_for_a_mistake(pretraining_beam, tmp_path, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(pretraining_beam, "plan_section", fail)
    settings = settings_of(tmp_path)
    before = visible(tmp_path)
    with pytest.raises(Exception, match="a defect") as caught:
        pretraining_beam.create(settings)
    assert not isinstance(caught.value, InputError)
    assert visible(tmp_path) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"runner": "DirektRunner"}, "--runner=DirektRunner.*Unexpected pipeline runner"),
        (
            {"beam_options": "--direct_num_workers=x"},
            r"--direct_num_workers: invalid int value: 'x'$",
        ),
        ({"beam_options": "'--a"}, "No closing quotation"),
        ({"input_file": "nowhere://texts/*"}, "--input_file: Unable to get filesystem.*nowhere"),
        ({"output_file": "nowhere://records"}, "--output_file: Unable to get filesystem.*nowhere"),
        ({"input_file": "absent.txt"}, "--input_file: no file is called absent.txt"),
        ({"input_file": ","}, "--input_file is missing"),
        ({"output_file": "a,b/c"}, "--output_file a,b/c: .* in one folder"),
    ],
)
def test_mistakes_that_are_found_at_once(pretraining_beam, tmp_path, flags, message):
    settings = settings_of(tmp_path, **flags)
    before = visible(tmp_path)
    with pytest.raises(InputError, match=message):
        pretraining_beam.create(settings)
    assert visible(tmp_path) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"runner": None, "beam_options": "--a"}, "--beam_options: there is no --runner"),
        ({"num_workers": 2}, "--num_workers=2: .* workers of its own"),
    ],
)
def test_flags_that_contradict_each_other(tmp_path, flags, message):
    with pytest.raises(InputError, match=message):
        settings_of(tmp_path, **flags)


def test_beam_options_are_not_written_down(pretraining_beam, tmp_path):
    manifest = pretraining_beam.create(
        settings_of(tmp_path, beam_options="--s3_secret_access_key=secret", dupe_factor=1)
    )
    assert "secret" not in json.dumps(manifest)


def test_files_of_another_file_system(pretraining_beam, tmp_path):
    from apache_beam.io.filesystem import FileMetadata, FileSystem

    def path_of(name):
        assert name.startswith("bucket://")
        return tmp_path / name.removeprefix("bucket://")

    class Bucket(FileSystem):
        """A folder as a bucket: without folders in it, and without replacing what is there."""

        scheme = classmethod(lambda cls: "bucket")
        copy = last_updated = checksum = None  # not to be called

        def join(self, basepath, *paths):
            return "/".join([basepath.rstrip("/"), *paths]).replace("bucket:/", "bucket://")

        def split(self, path):
            folder, _, name = path.rpartition("/")
            return f"{folder}/", name

        def mkdirs(self, path):
            path_of(path).mkdir()

        def has_dirs(self):
            return False

        def exists(self, path):
            return path_of(path).exists()

        def size(self, path):
            return path_of(path).stat().st_size

        def metadata(self, path):
            return FileMetadata(path, self.size(path))

        def _list(self, dir_or_prefix):
            names = (f"bucket://{path.name}" for path in tmp_path.iterdir() if path.is_file())
            return (self.metadata(name) for name in names if name.startswith(dir_or_prefix))

        def open(self, path, mime_type, compression_type):
            return path_of(path).open("rb")

        def create(self, path, mime_type, compression_type):
            return path_of(path).open("xb")

        def rename(self, sources, destinations):
            for source, destination in zip(sources, destinations, strict=True):
                assert not self.exists(destination)
                path_of(source).rename(path_of(destination))

        def delete(self, paths):
            for path in paths:
                shutil.rmtree(path_of(path)) if path.endswith("/") else path_of(path).unlink()

    expected = create_without_beam(tmp_path, num_shards=2, dupe_factor=1)
    flags = {"input_file": "bucket://[ab].*,bucket://c.txt", "output_file": "bucket://beam"}
    for overwrite in (False, True):
        manifest = pretraining_beam.create(
            settings_of(tmp_path, num_shards=2, dupe_factor=1, overwrite=overwrite, **flags)
        )
    assert [file["name"] for file in manifest["inputs"]] == [
        *("bucket://a.txt", "bucket://b.txt.gz", "bucket://c.txt")
    ]
    for made, output in zip(manifest["outputs"], expected["outputs"], strict=True):
        assert made["name"].startswith("bucket://beam-0000")
        assert made["sha256"] == output["sha256"]
        assert path_of(made["name"]).stat().st_size == made["num_bytes"]
    with pytest.raises(InputError, match=r"bucket://a\.txt: is an --input_file too"):
        pretraining_beam.create(settings_of(tmp_path, **{**flags, "output_file": "bucket://a.txt"}))
    assert not [name for name in visible(tmp_path) if name.startswith(".")]

import json
import pathlib

import pytest

from bert_tf.errors import InputError
from bert_tf.record_manifest import check_manifest, check_shards, manifest_path, work_folder
from bert_tf.tokenization import Vocabulary


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\na\n")
    return Vocabulary(path)


@pytest.fixture
def records(tmp_path, vocabulary):
    """A file whose manifest says that it has pairs of this vocabulary's pieces."""
    path = tmp_path / "r-00001-of-00003"
    write_manifest(path, "nsp", vocabulary.sha256)
    return path


def write_manifest(records, next_sentence, sha256):
    manifest = {
        "configuration": {"next_sentence": next_sentence, "do_lower_case": False},
        "vocabulary": {"num_pieces": 5, "sha256": sha256},
    }
    manifest_path(records).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("records", "manifest"),
    [
        ("a.tfrecord", "a.tfrecord.manifest.json"),
        ("a.tfrecord-00002-of-00017", "a.tfrecord.manifest.json"),
        ("a-2-of-3", "a-2-of-3.manifest.json"),
    ],
)
def test_all_shards_share_a_manifest(tmp_path, records, manifest):
    assert manifest_path(tmp_path / records) == tmp_path / manifest


def test_records_without_a_manifest_are_taken_as_they_are(tmp_path, vocabulary):
    check_manifest(
        tmp_path / "other", next_sentence="nsp", vocabulary=vocabulary, do_lower_case=None
    )


def test_what_fits_passes(records, vocabulary):
    check_manifest(records, next_sentence="nsp", vocabulary=vocabulary, do_lower_case=None)
    check_manifest(records, next_sentence="none", vocabulary=None, do_lower_case=None)


def test_casing_is_found_or_compared(tmp_path, records):
    def check(path, do_lower_case):
        return check_manifest(
            path, next_sentence="nsp", vocabulary=None, do_lower_case=do_lower_case
        )

    assert check(records, None) is False and check(records, False) is False
    assert check(tmp_path / "other", None) is None and check(tmp_path / "other", True) is True
    message = r"r-00001-of-00003: made with --do_lower_case=false \(says .*\), but here it is true"
    with pytest.raises(InputError, match=message):
        check(records, True)


def test_next_sentences_cannot_be_learned_from_records_without(records, vocabulary):
    write_manifest(records, "none", vocabulary.sha256)

    check_manifest(records, next_sentence="none", vocabulary=vocabulary, do_lower_case=None)
    with pytest.raises(InputError, match=r"r-00001-of-00003: made with --next_sentence=none"):
        check_manifest(records, next_sentence="nsp", vocabulary=vocabulary, do_lower_case=None)


def test_records_of_another_vocabulary(records, vocabulary):
    vocabulary.path.write_text("[PAD]\n[UNK]\nb\n")

    with pytest.raises(InputError, match=r"another vocabulary of 5 pieces than .*vocab.txt of 3"):
        check_manifest(
            records, next_sentence="nsp", vocabulary=Vocabulary(vocabulary.path), do_lower_case=None
        )


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"configuration": {}, "vocabulary": {}}'])
def test_a_damaged_manifest(records, content):
    manifest_path(records).write_text(content)

    with pytest.raises(InputError, match=r"r\.manifest\.json: not a manifest"):
        check_manifest(records, next_sentence="nsp", vocabulary=None, do_lower_case=None)


def test_files_of_an_unfinished_run_are_not_taken(tmp_path):
    records = tmp_path / "r-00000-of-00002"
    work_folder(records).mkdir()
    check_shards([records])  # what is left of a finished run does not matter
    (work_folder(records) / "configuration.json").touch()
    with pytest.raises(InputError, match="create_pretraining_data has not finished"):
        check_shards([records])


def test_files_of_two_runs_are_not_mixed():
    one = [pathlib.Path(f"a/r-{i:05}-of-00002") for i in range(2)]
    other = [pathlib.Path(f"a/r-{i:05}-of-00003") for i in range(3)]

    check_shards([*one, pathlib.Path("b/r-00000-of-00003"), pathlib.Path("a/s-00000-of-00003")])
    with pytest.raises(InputError, match=r"r-00000-of-00002 and a/r-00000-of-00003 are of two"):
        check_shards([*one, *other])

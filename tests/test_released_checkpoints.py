"""Tests of bert_tf.released_checkpoints: the list against what the names and the sizes say."""

import configparser
import pathlib
import re

import pytest

from bert_tf.config import lower_case_of
from bert_tf.errors import InputError
from bert_tf.released_checkpoints import download_cache, find_release, read_releases

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def parameters_of(release):
    """Embeddings, layers and pooler, written out once more."""
    width, inner = release.hidden_size, 4 * release.hidden_size
    norm = 2 * width
    embeddings = (release.vocab_size + 512 + 2) * width + norm
    attention = 4 * (width * width + width) + norm
    feed_forward = width * inner + inner + inner * width + width + norm
    pooler = width * width + width
    return embeddings + release.num_hidden_layers * (attention + feed_forward) + pooler


def test_the_list_is_that_of_the_original():
    releases = read_releases()
    assert len(releases) == 33
    assert releases["uncased_L-12_H-768_A-12"].parameters == 109_482_240  # published counts
    assert releases["uncased_L-2_H-128_A-2"].parameters == 4_385_920
    miniatures = [r for r in releases.values() if "/2020_02_20/" in r.url]
    assert {(r.num_hidden_layers, r.hidden_size) for r in miniatures} == {
        (layers, width) for layers in (2, 4, 6, 8, 10, 12) for width in (128, 256, 512, 768)
    }


@pytest.mark.parametrize("release", read_releases().values(), ids=lambda release: release.name)
def test_a_release_is_what_its_name_and_its_sizes_say(release):
    layers, width, heads = map(
        int, re.fullmatch(r".*_L-(\d+)_H-(\d+)_A-(\d+)", release.name).groups()
    )
    assert (release.num_hidden_layers, release.hidden_size) == (layers, width)
    assert release.num_attention_heads == heads == width // 64
    assert release.parameters == parameters_of(release)
    archive = release.name.removeprefix("2020_")
    assert re.fullmatch(
        rf"https://storage\.googleapis\.com/bert_models/20\d\d_\d\d_\d\d/{archive}\.zip",
        release.url,
    )
    assert (archive == release.name) or "/2020_02_20/" in release.url
    assert lower_case_of(release.name) is not None
    assert (release.vocab_size == 30522) == bool(re.search("uncased_L", release.name))
    for checksum in (release.archive_sha256, release.weights_sha256):
        assert re.fullmatch("([0-9a-f]{64})?", checksum)


def test_no_two_are_the_same():
    releases = list(read_releases().values())
    assert len({release.url for release in releases}) == len(releases)
    known = [release.weights_sha256 for release in releases if release.weights_sha256]
    assert len(set(known)) == len(known) == 7


def test_an_unknown_name():
    assert find_release("chinese_L-12_H-768_A-12").vocab_size == 21128
    with pytest.raises(InputError, match=r"did you mean 'uncased_L-2_H-128_A-2'\? bert-tf down"):
        find_release("uncased_L-2_H-128_A-4")


def test_the_list_is_in_the_package_and_beside_the_checkpoints():
    manifest = REPOSITORY / "checkpoints" / "manifest.tsv"
    packaged = REPOSITORY / "bert_tf" / "data" / "released_checkpoints.tsv"
    assert manifest.resolve() == packaged
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    data = setup["options.package_data"]["bert_tf"].split()
    assert "data/released_checkpoints.tsv" in data


def test_the_cache(monkeypatch):
    monkeypatch.setenv("BERT_TF_CACHE", "/elsewhere")
    assert download_cache() == pathlib.Path("/elsewhere")
    monkeypatch.setenv("BERT_TF_CACHE", "")
    monkeypatch.setenv("HOME", "/home/someone")
    assert download_cache() == pathlib.Path("/home/someone/.cache/bert_tf")

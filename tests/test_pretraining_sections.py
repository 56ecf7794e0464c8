"""Tests of making records section by section: they are those that are made from the whole text."""

import gzip
import io
import itertools
import pathlib

import numpy as np
import pytest
from odd_texts import text, write_texts

from bert_tf import corpus, pretraining_files, pretraining_sections, text_files
from bert_tf.config import PretrainingData
from bert_tf.pretraining_records import RecordMaker, Statistics
from bert_tf.pretraining_sections import (
    NOT_EXAMINED,
    Overview,
    Place,
    make_own,
    make_requested,
    plan_section,
    read_section,
    sort_records,
)
from bert_tf.tfrecord import read_records

SECTION_BYTES = 257


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    for module in (text_files, corpus):
        monkeypatch.setattr(module, "SECTION_BYTES", SECTION_BYTES)
    monkeypatch.setattr(pretraining_sections, "_MADE_AT_ONCE", 7)
    monkeypatch.setattr(pretraining_sections, "_BUCKET", 50)


def make_by_section(settings):
    """(sections, overview, records of each bucket, statistics): no step sees two sections."""
    maker = RecordMaker(settings)
    sections, summaries = [], []
    for file_number, name in enumerate(settings.input_file.split(",")):
        content = pathlib.Path(name).read_bytes()
        if name.endswith(".gz"):
            content = gzip.decompress(content)
        for number in range(-(-len(content) // SECTION_BYTES)):
            section = read_section(io.BytesIO(content), Place(file_number, number), name, maker)
            sections.append(section[0])
            summaries.append(section[1])
    overview = Overview.of(reversed(summaries), maker)

    plans = [plan_section(section, overview, maker.rule) for section in sections]
    statistics = Statistics.zero(settings.max_seq_length)
    buckets = {}
    for section, plan in zip(sections, plans, strict=True):
        wanted = (r for p in plans for r in p.requests if r.section == overview.index(section))
        own = make_own(section, overview, plan.own, maker)
        for batches, described in (*own, *make_requested(section, overview, wanted, maker)):
            statistics += described
            for records in batches:
                buckets.setdefault(records.bucket, []).append(records)
    counts = sum(plan.counts for plan in plans)
    gathered = [sort_records(buckets.get(bucket, [])) for bucket in range(len(counts))]
    assert counts.tolist() == [len(records) for records in gathered]
    return sections, overview, gathered, statistics


SETTINGS = {
    "pairs": {},
    "short_pairs": {"max_seq_length": 7, "short_seq_prob": 0.7, "dupe_factor": 2},
    "full_sentences": {"next_sentence": "none"},
    "whole_words": {"do_whole_word_mask": True},
    "spans": {"do_span_mask": True, "next_sentence": "none"},
    "no_masks": {"masking": "dynamic"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_records_are_those_of_the_whole_text(tmp_path, name):
    flags = {**write_texts(tmp_path), "output_file": str(tmp_path / "records"), **SETTINGS[name]}
    settings = PretrainingData(**flags, num_workers=1)
    manifest = pretraining_files.create(settings)
    expected = list(read_records(settings.output_file))

    sections, overview, gathered, statistics = make_by_section(settings)
    assert len(sections) > 20 and overview.num_buckets > 1
    assert list(itertools.chain.from_iterable(gathered)) == expected
    assert statistics.described(settings.next_sentence) == manifest["statistics"]


def test_the_report_is_that_of_the_whole_text_but_for_what_it_names(tmp_path):
    flags = {**write_texts(tmp_path), "output_file": str(tmp_path / "records")}
    settings = PretrainingData(**flags, num_workers=1)
    expected = pretraining_files.create(settings)["text"]
    report = make_by_section(settings)[1].report
    assert report.pop("not_examined") == list(NOT_EXAMINED)
    for name in NOT_EXAMINED:
        (expected["findings"] if name in expected["findings"] else expected).pop(name)
    assert report == expected
    assert all(found["count"] for found in expected["findings"].values())  # each was met


def test_the_only_document_gives_random_texts_too(tmp_path):
    flags = {**write_texts(tmp_path), "output_file": str(tmp_path / "records")}
    flags["input_file"] = str(tmp_path / "one.txt")
    lines = [line for line in text(3, 40).split("\n") if line.strip()]
    (tmp_path / "one.txt").write_text("\n".join(lines))
    settings = PretrainingData(**flags, num_workers=1)
    pretraining_files.create(settings)
    sections, overview, gathered, _ = make_by_section(settings)
    assert overview.report["documents"] == 1
    assert [len(section.document_starts) - 1 for section in sections].count(0) > 5
    assert list(itertools.chain.from_iterable(gathered)) == list(read_records(flags["output_file"]))


def test_a_section_without_a_document_asks_for_nothing(tmp_path):
    flags = {**write_texts(tmp_path), "output_file": "unused"}
    maker = RecordMaker(PretrainingData(**flags))
    empty, nothing = read_section(io.BytesIO(b"\n \n"), Place(1, 0), "empty", maker)
    full, summary = read_section(io.BytesIO(b"ba\nbe\n"), Place(0, 0), "full", maker)
    overview = Overview.of([nothing, summary], maker)
    plan = plan_section(empty, overview, maker.rule)
    assert (len(plan.own), plan.requests, plan.counts.sum()) == (0, [], 0)
    assert list(make_own(empty, overview, plan.own, maker)) == []
    assert list(make_requested(empty, overview, [], maker)) == []
    assert plan_section(full, overview, maker.rule).counts.sum() > 0


def test_documents_are_looked_up_past_sections_without_any():
    places = [Place(0, number) for number in range(5)]
    overview = Overview(places, np.zeros(6, np.int64), np.array([0, 0, 3, 3, 5, 5]), 1, {})
    assert overview.sections_of(np.arange(5)).tolist() == [1, 1, 1, 3, 3]

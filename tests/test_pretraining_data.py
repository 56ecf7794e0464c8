"""Tests of bert_tf.pretraining_data: every instance against the original's loops."""

import dataclasses
import itertools

import numpy as np
import pytest
from reference_pretraining import (
    CLS,
    SEP,
    corpus_of,
    random_documents,
    reference_instances,
)

from bert_tf import pretraining_data
from bert_tf.errors import InputError
from bert_tf.pretraining_data import (
    InstanceRule,
    instance_keys,
    make_instances,
    mask_keys,
    other_documents,
    plan_instances,
    target_lengths,
)
from bert_tf.random_bits import key_of_seed, random_bits

RULE = InstanceRule(
    max_seq_length=23, dupe_factor=3, short_seq_prob=0.25, next_sentence="nsp", seed=7
)


def rule_of(**changes):
    return dataclasses.replace(RULE, **changes)


def plan_of(corpus, rule, section_ends=None):
    """The plan of all sections: (first document, end) of each, by default one."""
    starts = [0, *(section_ends or [corpus.num_documents])]
    parts = [
        part
        for first, end in itertools.pairwise(starts)
        for part in plan_instances(corpus, first, end, rule)
    ]
    return np.concatenate(parts)


def instances_of(corpus, rule, section_ends=None):
    """As the reference gives them, but in the order of the plan, with nothing but padding cut."""
    plan = plan_of(corpus, rule, section_ends)
    made = make_instances(corpus, plan, rule, CLS, SEP)
    for array, dtype in ((made.input_ids, np.int32), (made.segment_ids, np.uint8)):
        assert array.dtype == dtype and array.shape == (len(plan), rule.max_seq_length)
        padding = np.arange(rule.max_seq_length) >= made.lengths[:, None]
        assert not array[padding].any()
    keys = mask_keys(plan, rule)
    return [
        {
            "input_ids": made.input_ids[i, : made.lengths[i]].tolist(),
            "segment_ids": made.segment_ids[i, : made.lengths[i]].tolist(),
            "next_sentence_label": int(made.next_sentence_labels[i]),
            "num_dropped": int(made.num_dropped[i]),
            "order": int(plan["order"][i]),
            "mask_key": int(keys[i]),
        }
        for i in range(len(plan))
    ]


def in_order(instances):
    return sorted(instances, key=lambda instance: instance["order"])


def assert_equal(documents, rule, section_ends=None):
    """Compares all instances; returns them in the order of the text, copy after copy."""
    expected = reference_instances(documents, rule, section_ends)
    found = instances_of(corpus_of(documents), rule, section_ends)
    assert len(found) == len(expected)
    for ours, theirs in zip(in_order(found), in_order(expected), strict=True):
        assert ours == theirs
    return expected


def sentences_of(length, *counts):
    """Documents of so many sentences of that many different pieces."""
    number = iter(range(10, 1 << 16))
    return [[[next(number) for _ in range(length)] for _ in range(n)] for n in counts]


CORPORA = {
    "mixed": random_documents(0, 31),
    "one_document": random_documents(1, 1, most_sentences=40),
    "two_documents": random_documents(2, 2, most_sentences=20),
    "one_sentence": [[[5, 6, 7]]],
    "one_piece": [[[5]]],
    "one_sentence_documents": random_documents(3, 17, most_sentences=1),
    "one_piece_sentences": sentences_of(1, 1, 30, 7, 2),
    "longer_than_an_instance": random_documents(4, 9, longest=90),
    "much_longer": sentences_of(701, 1, 3, 2),
    "many": random_documents(5, 200, most_sentences=3, longest=5),
}


@pytest.mark.parametrize("next_sentence", ["nsp", "none"])
@pytest.mark.parametrize("max_seq_length", [5, 6, 23, 64, 513])
@pytest.mark.parametrize("documents", CORPORA.values(), ids=CORPORA)
def test_instances_are_those_of_the_original_loops(documents, max_seq_length, next_sentence):
    rule = rule_of(max_seq_length=max_seq_length, next_sentence=next_sentence)
    assert_equal(documents, rule)


@pytest.mark.parametrize("short_seq_prob", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seed", [0, 1, 2**63 + 5])
def test_every_seed_and_share_of_short_documents(seed, short_seq_prob):
    assert_equal(CORPORA["mixed"], rule_of(seed=seed, short_seq_prob=short_seq_prob))


def test_the_corpora_hold_what_they_are_to_test():
    instances = assert_equal(CORPORA["mixed"], RULE)
    assert {instance["next_sentence_label"] for instance in instances} == {0, 1}
    lengths = {len(instance["input_ids"]) for instance in instances}
    assert RULE.max_seq_length in lengths and min(lengths) < 12
    assert any(instance["num_dropped"] for instance in instances)
    # More pieces are dropped than one word of random bits holds.
    dropped = [i["num_dropped"] for i in assert_equal(CORPORA["much_longer"], RULE)]
    assert max(dropped) > 640


@pytest.mark.parametrize("next_sentence", ["nsp", "none"])
@pytest.mark.parametrize("window", [1, 2, 7, 50])
def test_windows_do_not_show(monkeypatch, window, next_sentence):
    monkeypatch.setattr(pretraining_data, "_WINDOW", window)
    rule = rule_of(next_sentence=next_sentence)
    for name in ("mixed", "one_document", "one_piece_sentences", "longer_than_an_instance"):
        assert_equal(CORPORA[name], rule)


def test_pairs_do_not_depend_on_sections():
    documents = CORPORA["mixed"]
    whole = instances_of(corpus_of(documents), RULE)
    for section_ends in ([1, 31], [7, 7, 20, 31], [0, 30, 31, 31]):
        cut = instances_of(corpus_of(documents), RULE, section_ends)
        assert in_order(cut) == in_order(whole)


@pytest.mark.parametrize("section_ends", [[5, 31], [7, 7, 20, 31], list(range(1, 32))])
def test_full_sentences_end_with_their_section(section_ends):
    rule = rule_of(next_sentence="none", max_seq_length=41)
    cut = assert_equal(CORPORA["mixed"], rule, section_ends)
    assert cut != assert_equal(CORPORA["mixed"], rule)


def test_full_sentences_have_a_separator_after_each_document():
    documents = [[[10, 11], [12]], [[13]], [[14, 15]], [[16, 17, 18, 19, 20]]]
    rule = rule_of(next_sentence="none", max_seq_length=11, dupe_factor=1)
    rows = [instance["input_ids"] for instance in assert_equal(documents, rule)]
    assert rows == [
        [CLS, 10, 11, 12, SEP, 13, SEP, 14, 15, SEP],
        [CLS, 16, 17, 18, 19, 20, SEP],
    ]
    # One place more for text than those three documents take: the fourth needs its [SEP] too.
    rule = rule_of(next_sentence="none", max_seq_length=15, dupe_factor=1)
    assert len(assert_equal(documents, rule)) == 2
    rule = rule_of(next_sentence="none", max_seq_length=16, dupe_factor=1)
    assert len(assert_equal(documents, rule)) == 1


def test_an_instance_does_not_depend_on_what_else_is_made():
    corpus = corpus_of(CORPORA["mixed"])
    for next_sentence in ("nsp", "none"):
        rule = rule_of(next_sentence=next_sentence)
        plan = plan_of(corpus, rule)
        whole = make_instances(corpus, plan, rule, CLS, SEP)
        order = np.random.default_rng(0).permutation(len(plan))
        shuffled = make_instances(corpus, plan[order], rule, CLS, SEP)
        for name, array in vars(whole).items():
            np.testing.assert_array_equal(getattr(shuffled, name), array[order])
        empty = make_instances(corpus, plan[:0], rule, CLS, SEP)
        assert empty.input_ids.shape == (0, rule.max_seq_length)


def test_a_plan_says_where_each_chunk_lies():
    documents = CORPORA["mixed"]
    corpus = corpus_of(documents)
    plan = plan_of(corpus, RULE)
    sentences = [d for d, document in enumerate(documents) for _ in document]
    np.testing.assert_array_equal(plan["document"], np.array(sentences)[plan["sentence"]])
    assert set(plan["dupe"]) == set(range(RULE.dupe_factor))
    for dupe in range(RULE.dupe_factor):
        of_dupe = plan[plan["dupe"] == dupe]
        assert (np.diff(of_dupe["sentence"]) > 0).all()
        # Each chunk begins in or right behind the one before it, and none reaches over its end.
        assert (
            of_dupe["sentence"][1:] <= (of_dupe["sentence"] + of_dupe["num_sentences"])[:-1]
        ).all()
    ends = plan["sentence"] + plan["num_sentences"]
    assert (ends <= corpus.document_starts[plan["document"] + 1]).all()
    # No two instances share a key.
    assert len(set(instance_keys(plan, RULE).tolist())) == len(plan)
    assert len(set(plan["order"].tolist()) | set(mask_keys(plan, RULE).tolist())) == 2 * len(plan)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_seq_length": 4}, "--max_seq_length=4 .* the least is 5"),
        ({"max_seq_length": 3, "next_sentence": "none"}, "--max_seq_length=3 .* the least is 4"),
        ({"dupe_factor": 0}, "--dupe_factor must be at least 1, but is 0"),
        ({"short_seq_prob": 1.1}, r"--short_seq_prob must lie in \[0, 1\], but is 1.1"),
        ({"short_seq_prob": float("nan")}, "--short_seq_prob .* nan"),
    ],
)
def test_a_rule_that_cannot_be_is_an_input_error(changes, message):
    with pytest.raises(InputError, match=message):
        rule_of(**changes)


# --- rates --------------------------------------------------------------------------------------
# Each is compared with what the recipe says, within four standard deviations of the sample; the
# samples are so large that this is less than two points, and a rate moved by two points fails.


def assert_rate(happened, expected):
    sigma = np.sqrt(expected * (1 - expected) / len(happened))
    assert 4 * sigma < 0.015
    assert abs(np.mean(happened) - expected) < 4 * sigma


RATE_RULE = rule_of(max_seq_length=37, dupe_factor=120, short_seq_prob=0.1)
RATE_DOCUMENTS = random_documents(6, 120, most_sentences=9)


def assert_next_sentences_are_random_in_half_of_the_chunks():
    corpus = corpus_of(RATE_DOCUMENTS)
    plan = plan_of(corpus, RATE_RULE)
    labels = make_instances(corpus, plan, RATE_RULE, CLS, SEP).next_sentence_labels
    assert labels[plan["num_sentences"] == 1].all()
    assert_rate(labels[plan["num_sentences"] > 1], 0.5)


def test_next_sentences_are_random_in_half_of_the_chunks(monkeypatch):
    assert_next_sentences_are_random_in_half_of_the_chunks()
    real = pretraining_data.happens
    for moved in (0.48, 0.52):
        monkeypatch.setattr(pretraining_data, "happens", lambda bits, p, moved=moved: real(
            bits, moved if p == 0.5 else p
        ))  # fmt: skip
        with pytest.raises(AssertionError):
            assert_next_sentences_are_random_in_half_of_the_chunks()


def assert_documents_are_cut_short(rule, share):
    documents, dupes = np.arange(300), range(100)
    targets = np.concatenate([target_lengths(documents, dupe, rule) for dupe in dupes])
    longest = rule.max_seq_length - 3
    assert targets.min() == 2 and targets.max() == longest
    # Short lengths are uniform over 2 … longest, which is no shorter once in longest - 1 times.
    assert_rate(targets < longest, share * (longest - 2) / (longest - 1))
    counts = np.bincount(targets)[2:longest]
    expected = counts.sum() / len(counts)
    # A binomial deviation of four and a half for the worst of 32 lengths.
    assert np.abs(counts - expected).max() < 4.5 * np.sqrt(expected)


def test_a_tenth_of_the_documents_is_cut_short():
    assert_documents_are_cut_short(RATE_RULE, 0.1)
    for moved in (0.08, 0.12):
        with pytest.raises(AssertionError):
            assert_documents_are_cut_short(rule_of(max_seq_length=37, short_seq_prob=moved), 0.1)


def test_a_ends_anywhere_in_its_chunk():
    corpus = corpus_of(sentences_of(3, *[8] * 120))
    rule = rule_of(max_seq_length=24, dupe_factor=100, short_seq_prob=0.0)  # seven sentences
    plan = plan_of(corpus, rule)
    made = make_instances(corpus, plan, rule, CLS, SEP)
    whole = plan["num_sentences"] == 7
    a_sentences = np.argmax(made.input_ids == SEP, axis=1)[whole & (made.num_dropped == 0)] // 3
    for count in range(1, 7):
        assert_rate(a_sentences == count, 1 / 6)


def test_texts_are_cut_from_front_and_back_alike():
    """The middle of what is left lies in the middle of the text, with a binomial spread."""
    length, kept = 101, 10
    corpus = corpus_of(sentences_of(length, *[1] * 200))
    rule = rule_of(max_seq_length=23, dupe_factor=40, short_seq_prob=0.0)
    made = make_instances(corpus, plan_of(corpus, rule), rule, CLS, SEP)
    dropped = length - kept
    for start in (1, 12):
        from_front = (made.input_ids[:, start] - 10) % length
        assert abs(from_front.mean() - dropped / 2) < 4 * np.sqrt(dropped / 4 / len(from_front))
        assert from_front.std() == pytest.approx(np.sqrt(dropped / 4), rel=0.05)
    fronts = [(made.input_ids[:, start] - 10) % length for start in (1, 12)]
    assert abs(np.corrcoef(fronts)[0, 1]) < 4 / np.sqrt(len(made.lengths))


def test_another_document_is_tried_for_ten_times():
    keys = random_bits(key_of_seed(3), np.arange(400_000))
    own = np.arange(len(keys)) % 2
    same = other_documents(keys, own, 2) == own
    assert abs(same.mean() * 2**10 - 1) < 4 / np.sqrt(len(keys) / 2**10)
    many = other_documents(keys, np.zeros_like(own), 50)
    assert many.min() == 1
    counts = np.bincount(many)[1:]
    expected = len(keys) / 49
    assert np.abs(counts - expected).max() < 4.5 * np.sqrt(expected)

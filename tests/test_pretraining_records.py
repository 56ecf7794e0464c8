"""Tests of bert_tf.pretraining_records: what records hold, and how often, as in the original's.

The original's own file (golden) is one draw. What follows from the recipe exactly is asserted of
each record, the recipe's rates within four standard deviations of the sample, and what depends on
the text (how many instances, how long) by comparing that draw with draws of other seeds.
"""

import dataclasses
import itertools

import numpy as np
import pytest
from reference_pretraining import (
    CLS,
    MASK,
    PIECES,
    SEP,
    SPECIAL,
    corpus_of,
    documents_of,
    random_documents,
    reference_instances,
    write_vocabulary,
)

from bert_tf import masking, pretraining_data
from bert_tf.config import PretrainingData
from bert_tf.errors import InputError
from bert_tf.masking import Masker
from bert_tf.pretraining_data import mask_keys, plan_instances
from bert_tf.pretraining_records import RecordMaker, Statistics, record_maker
from bert_tf.tfrecord import decode_example, read_records
from bert_tf.tokenization import FullTokenizer, Vocabulary

DOCUMENTS = random_documents(0, 120, most_sentences=9)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    vocab_file = write_vocabulary(tmp_path_factory.mktemp("vocabulary"))
    return PretrainingData(
        input_file="text",
        output_file="records",
        vocab_file=str(vocab_file),
        max_seq_length=37,
        max_predictions_per_seq=6,
        dupe_factor=20,
    )


def planned(maker, documents=DOCUMENTS):
    corpus = corpus_of(documents)
    parts = plan_instances(corpus, 0, len(documents), maker.rule)
    return corpus, np.concatenate(list(parts))


def made_of(settings, documents=DOCUMENTS):
    """The instances, decoded records and statistics of documents."""
    maker = RecordMaker(settings)
    corpus, plan = planned(maker, documents)
    instances = maker.make(corpus, plan)
    (data, splits), statistics = maker.encode(instances, mask_keys(plan, maker.rule))
    records = [
        decode_example(data[start:end].tobytes()) for start, end in itertools.pairwise(splits)
    ]
    return instances, records, statistics


@pytest.fixture(scope="module")
def made(settings):
    return made_of(settings)


# --- what a record holds ------------------------------------------------------------------------


def unmasked(record):
    """The ids before masking."""
    ids = record["input_ids"].copy()
    count = int(record["masked_lm_weights"].sum())
    ids[record["masked_lm_positions"][:count]] = record["masked_lm_ids"][:count]
    return ids


def texts_of(record, cls_id, sep_id):
    """A and B, once all that the format says of a record is asserted."""
    length = int(record["input_mask"].sum())
    max_seq_length = len(record["input_ids"])
    assert record["input_mask"].tolist() == [1] * length + [0] * (max_seq_length - length)
    ids = unmasked(record)
    assert not record["input_ids"][length:].any()
    assert ids[0] == cls_id and ids[length - 1] == sep_id
    b_length = int(record["segment_ids"].sum()) - 1
    a_length = length - 3 - b_length
    assert a_length >= 1 and b_length >= 1
    segments = [0] * (a_length + 2) + [1] * (b_length + 1) + [0] * (max_seq_length - length)
    assert record["segment_ids"].tolist() == segments
    assert np.flatnonzero(ids == sep_id).tolist() == [a_length + 1, length - 1]
    assert record["next_sentence_labels"].tolist() in ([0], [1])
    return ids[1 : a_length + 1].tolist(), ids[a_length + 2 : length - 1].tolist()


def assert_masks_follow_the_recipe(record, masked_lm_prob, cls_id, sep_id):
    length = int(record["input_mask"].sum())
    positions, weights = record["masked_lm_positions"], record["masked_lm_weights"]
    wanted = min(len(positions), max(1, round(length * masked_lm_prob)))
    assert weights.tolist() == [1.0] * wanted + [0.0] * (len(positions) - wanted)
    assert (np.diff(positions[:wanted]) > 0).all()
    assert positions[0] > 0 and positions[wanted - 1] < length
    assert not {cls_id, sep_id} & set(record["masked_lm_ids"][:wanted].tolist())
    assert not positions[wanted:].any() and not record["masked_lm_ids"][wanted:].any()


def assert_rate(count, total, expected):
    """Within four standard deviations, which are less than two points."""
    sigma = np.sqrt(expected * (1 - expected) / total)
    assert 4 * sigma < 0.016
    assert abs(count / total - expected) < 4 * sigma


def replacements_of(records, mask_id):
    """How many masked pieces became [MASK], stayed, became another piece."""
    counts = np.zeros(3, np.int64)
    for record in records:
        used = record["masked_lm_weights"] > 0
        now, before = record["input_ids"][record["masked_lm_positions"]], record["masked_lm_ids"]
        counts += [
            np.count_nonzero(used & (now == mask_id)),
            np.count_nonzero(used & (now == before)),
            np.count_nonzero(used & (now != mask_id) & (now != before)),
        ]
    return counts


def assert_replacements_follow_the_recipe(records, vocab_size, mask_id):
    is_mask, stayed, other = replacements_of(records, mask_id)
    total = is_mask + stayed + other
    # A random piece is [MASK] or the same piece once in a vocabulary.
    assert_rate(is_mask, total, 0.8 + 0.1 / vocab_size)
    assert_rate(stayed, total, 0.1 + 0.1 / vocab_size)
    assert_rate(other, total, 0.1 - 0.2 / vocab_size)


def test_records_hold_the_instances_of_the_reference(settings, made):
    instances, records, _ = made
    maker = RecordMaker(settings)
    expected = reference_instances(DOCUMENTS, maker.rule)
    assert len(records) == len(expected) == len(instances.lengths)
    for record, instance in zip(records, expected, strict=True):
        assert set(record) == {
            *("input_ids", "input_mask", "segment_ids", "next_sentence_labels"),
            *("masked_lm_positions", "masked_lm_ids", "masked_lm_weights"),
        }
        texts_of(record, CLS, SEP)
        length = len(instance["input_ids"])
        assert unmasked(record)[:length].tolist() == instance["input_ids"]
        assert int(record["input_mask"].sum()) == length
        assert record["segment_ids"][:length].tolist() == instance["segment_ids"]
        assert record["next_sentence_labels"].tolist() == [instance["next_sentence_label"]]
        assert_masks_follow_the_recipe(record, 0.15, CLS, SEP)


def test_masks_depend_on_the_instance_alone(settings, made):
    maker = RecordMaker(settings)
    corpus, plan = planned(maker)
    keys = mask_keys(plan, maker.rule)
    _, records, _ = made
    for i in range(0, len(plan), 301):
        instances = maker.make(corpus, plan[i : i + 1])
        (data, _), _ = maker.encode(instances, keys[i : i + 1])
        alone = decode_example(data.tobytes())
        for name, values in records[i].items():
            np.testing.assert_array_equal(alone[name], values)


def test_the_vocabulary_may_do_without_a_mask_if_masks_are_dynamic(settings, tmp_path):
    path = write_vocabulary(tmp_path, [piece for piece in PIECES if piece != "[MASK]"])
    changes = {"vocab_file": str(path), "masking": "dynamic"}
    _, records, statistics = made_of(dataclasses.replace(settings, dupe_factor=1, **changes))
    for record in records:
        assert set(record) == {"input_ids", "input_mask", "segment_ids", "next_sentence_labels"}
    assert not statistics.masks.any()
    assert "masked" not in statistics.described("nsp")
    with pytest.raises(InputError, match=r"vocab.txt: the vocabulary has no piece '\[MASK\]'"):
        RecordMaker(dataclasses.replace(settings, vocab_file=str(path)))


def test_full_sentences_have_one_segment(settings):
    settings = dataclasses.replace(settings, next_sentence="none", dupe_factor=2)
    _, records, statistics = made_of(settings)
    expected = reference_instances(DOCUMENTS, RecordMaker(settings).rule)
    for record, instance in zip(records, expected, strict=True):
        length = len(instance["input_ids"])
        assert unmasked(record)[:length].tolist() == instance["input_ids"]
        assert not record["segment_ids"].any() and not record["next_sentence_labels"].any()
        assert_masks_follow_the_recipe(record, 0.15, CLS, SEP)
    assert "random_next" not in statistics.described("none")


def test_whole_words_are_masked_as_a_whole(settings):
    changes = {"do_whole_word_mask": True, "dupe_factor": 2}
    _, records, _ = made_of(dataclasses.replace(settings, **changes))
    num_words = 0
    for record in records:
        masked = set(record["masked_lm_positions"][record["masked_lm_weights"] > 0].tolist())
        ids = unmasked(record)
        length = int(record["input_mask"].sum())
        words = []
        for position in range(1, length):
            if ids[position] in (CLS, SEP):
                continue
            if PIECES[ids[position]].startswith("##") and words:
                words[-1].add(position)  # the original's words go on over a [SEP]
            else:
                words.append({position})
        assert all(word <= masked or not word & masked for word in words)
        num_words += sum(word <= masked and len(word) > 1 for word in words)
    assert num_words > 50


# --- statistics ---------------------------------------------------------------------------------


@pytest.mark.parametrize("next_sentence", ["nsp", "none"])
def test_statistics_are_those_of_the_records(settings, monkeypatch, next_sentence):
    settings = dataclasses.replace(settings, next_sentence=next_sentence, dupe_factor=4)
    kinds = []
    real = Masker.__call__

    def noting(self, *arguments):
        masked = real(self, *arguments)
        kinds.append(masked.counts.sum(axis=0))
        return masked

    monkeypatch.setattr(Masker, "__call__", noting)
    _, records, statistics = made_of(settings)
    dropped = [i["num_dropped"] for i in reference_instances(DOCUMENTS, RecordMaker(settings).rule)]
    lengths = [int(record["input_mask"].sum()) for record in records]
    num_masked = sum(int(record["masked_lm_weights"].sum()) for record in records)
    random_next = [int(record["next_sentence_labels"][0]) for record in records]
    (counts,) = kinds
    described = statistics.described(next_sentence)
    assert described.pop("lengths") == {
        str(length): lengths.count(length) for length in sorted(set(lengths))
    }
    expected = {
        "num_records": len(records),
        "num_pieces": sum(lengths),
        "mean_length": sum(lengths) / len(records),
        "padding": 1 - sum(lengths) / (len(records) * settings.max_seq_length),
        "truncated_records": sum(map(bool, dropped)) / len(records),
        "truncated_pieces": sum(dropped),
        "masked": num_masked / sum(lengths),
        "masked_mask": counts[0] / num_masked,
        "masked_same": counts[1] / num_masked,
        "masked_random": counts[2] / num_masked,
    }
    if next_sentence == "nsp":
        expected["random_next"] = sum(random_next) / len(records)
    assert described == pytest.approx(expected, rel=1e-12)
    assert counts.sum() == num_masked
    # What became [MASK] or stayed is seen in the records too, but for random pieces that do.
    seen = replacements_of(records, MASK)
    assert seen[0] >= counts[0] and seen[1] >= counts[1] and seen.sum() == num_masked


def test_statistics_add_up(settings, made):
    instances, _, whole = made
    maker = RecordMaker(settings)
    corpus, plan = planned(maker)
    total = Statistics.zero(settings.max_seq_length)
    for start in range(0, len(plan) + 400, 400):  # the last part may be empty
        part = plan[start : start + 400]
        _, statistics = maker.encode(maker.make(corpus, part), mask_keys(part, maker.rule))
        total += statistics
    assert total.to_json() == whole.to_json()
    assert total.num_records == len(instances.lengths)


def test_a_maker_is_made_once(settings):
    record_maker.cache_clear()
    assert record_maker(settings) is record_maker(dataclasses.replace(settings))
    assert record_maker(settings) is not record_maker(dataclasses.replace(settings, random_seed=1))


# --- how often: the recipe's rates --------------------------------------------------------------


def test_replacements_follow_the_recipe(made):
    _, records, _ = made
    assert_replacements_follow_the_recipe(records, len(PIECES), MASK)


@pytest.mark.parametrize("bounds", [(0.78, 0.89), (0.82, 0.91), (0.8, 0.88)])
def test_other_replacements_would_be_noticed(settings, monkeypatch, bounds):
    monkeypatch.setattr(masking, "_REPLACEMENT_BOUNDS", bounds)
    _, records, _ = made_of(settings)
    with pytest.raises(AssertionError):
        assert_replacements_follow_the_recipe(records, len(PIECES), MASK)


@pytest.mark.parametrize("masked_lm_prob", [0.13, 0.17])
def test_another_share_of_masks_would_be_noticed(settings, masked_lm_prob):
    settings = dataclasses.replace(settings, masked_lm_prob=masked_lm_prob, dupe_factor=1)
    _, records, _ = made_of(settings)
    with pytest.raises(AssertionError):
        for record in records:
            assert_masks_follow_the_recipe(record, 0.15, CLS, SEP)


def test_every_piece_is_masked_alike(made):
    _, records, _ = made
    counts = np.zeros([2, len(PIECES)])
    for record in records:
        ids = unmasked(record)[: int(record["input_mask"].sum())]
        counts[0] += np.bincount(ids, minlength=len(PIECES))
        used = record["masked_lm_weights"] > 0
        counts[1] += np.bincount(record["masked_lm_ids"][used], minlength=len(PIECES))
    text = slice(len(SPECIAL), None)
    share = counts[1, text].sum() / counts[0, text].sum()
    for masked, total in zip(counts[1, text], counts[0, text], strict=True):
        assert abs(masked / total - share) < 4 * np.sqrt(share * (1 - share) / total)


# --- against the file that the original made ----------------------------------------------------


@dataclasses.dataclass
class Original:
    records: list
    documents: list
    settings: PretrainingData
    vocabulary: Vocabulary

    @property
    def special(self):
        return self.vocabulary.cls_id, self.vocabulary.sep_id


@pytest.fixture(scope="module")
def original(shared):
    folder = shared / "goldens" / "original_tiny"
    tokenizer = FullTokenizer(folder / "vocab.txt")
    return Original(
        records=[decode_example(record) for record in read_records(folder / "pretrain.tfrecord")],
        documents=documents_of([(folder / "text.txt").read_bytes()], tokenizer),
        settings=PretrainingData(
            input_file=str(folder / "text.txt"),
            output_file="records",
            vocab_file=str(folder / "vocab.txt"),
            max_seq_length=64,
            max_predictions_per_seq=10,
            dupe_factor=2,
        ),
        vocabulary=tokenizer.vocabulary,
    )


def as_text(pieces):
    """One character for each piece, so that texts are found with str.find()."""
    return "".join(chr(piece + 1) for piece in pieces)


def assert_texts_are_of(documents, records, special, max_seq_length):
    """A and B lie where the recipe takes them from, as far as truncation leaves that to be seen."""
    texts = [as_text(itertools.chain(*document)) for document in documents]
    starts = [
        {0, *itertools.accumulate(len(sentence) for sentence in document)} for document in documents
    ]
    num_untruncated = 0
    for record in records:
        a, b = map(as_text, texts_of(record, *special))
        if record["next_sentence_labels"][0] == 0:
            # Something may be cut off between them.
            assert any(
                (place := text.find(a)) >= 0 and text.find(b, place + len(a)) >= 0 for text in texts
            )
        else:
            assert any(a in text for text in texts) and any(b in text for text in texts)
        if record["input_mask"].sum() < max_seq_length:  # nothing was cut off
            num_untruncated += 1
            whole = [a + b] if record["next_sentence_labels"][0] == 0 else [a, b]
            for part in whole:
                assert any(
                    (place := text.find(part)) >= 0 and {place, place + len(part)} <= start
                    for text, start in zip(texts, starts, strict=True)
                )
    return num_untruncated


@pytest.mark.parametrize("whose", ["original", "ours"])
def test_both_files_are_as_the_recipe_says(original, whose):
    records = original.records
    if whose == "ours":
        _, records, _ = made_of(original.settings, original.documents)
    assert len(records) > 1000
    for record in records:
        assert_masks_follow_the_recipe(record, 0.15, *original.special)
    assert_replacements_follow_the_recipe(
        records, len(original.vocabulary), original.vocabulary.mask_id
    )
    assert assert_texts_are_of(original.documents, records, original.special, 64) > 10


def summary_of(max_seq_length, lengths, b_lengths, labels):
    """What is compared between draws; the arguments are arrays, int [n]."""
    a_lengths = lengths - 3 - b_lengths
    is_random = labels == 1
    return {
        "records": len(lengths),
        "mean length": lengths.mean(),
        "full": np.mean(lengths == max_seq_length),
        "shorter than half": np.mean(lengths < max_seq_length / 2),
        "random next": is_random.mean(),
        "mean of A": a_lengths.mean(),
        "mean of B": b_lengths.mean(),
        "mean of A, random next": a_lengths[is_random].mean(),
        "mean of A, true next": a_lengths[~is_random].mean(),
        "A shorter than B": np.mean(a_lengths < b_lengths),
        "A short": np.mean(a_lengths < max_seq_length / 4),
        "B short": np.mean(b_lengths < max_seq_length / 4),
    }


def summary_of_original(original):
    stacked = {
        name: np.stack([record[name] for record in original.records])
        for name in ("input_mask", "segment_ids", "next_sentence_labels")
    }
    return summary_of(
        64,
        stacked["input_mask"].sum(axis=1),
        stacked["segment_ids"].sum(axis=1) - 1,
        stacked["next_sentence_labels"][:, 0],
    )


def assert_is_a_draw_like_ours(original, **changes):
    """The original's file is nowhere four standard deviations from the mean of our draws."""
    draws = []
    for seed in range(40):
        maker = RecordMaker(dataclasses.replace(original.settings, random_seed=seed, **changes))
        corpus, plan = planned(maker, original.documents)
        made = maker.make(corpus, plan)
        b_lengths = made.segment_ids.sum(axis=1, dtype=np.int64) - 1
        draws.append(summary_of(64, made.lengths, b_lengths, made.next_sentence_labels))
    for name, value in summary_of_original(original).items():
        values = np.array([draw[name] for draw in draws])
        assert abs(value - values.mean()) < 4 * values.std(ddof=1), name


def test_the_original_file_is_a_draw_like_ours(original):
    assert_is_a_draw_like_ours(original)


def assert_documents_have_as_many_instances(original, records_of):
    """Each document's number of instances, by where A is from, is like that of our draws.

    Args:
        original: the original's file.
        records_of: for each document, how many of its records are that document's.
    """
    draws = []
    for seed in range(40):
        maker = RecordMaker(dataclasses.replace(original.settings, random_seed=seed))
        _, plan = planned(maker, original.documents)
        draws.append(np.bincount(plan["document"], minlength=len(original.documents)))
    off = np.abs(records_of - np.mean(draws, axis=0))
    assert (off <= 4 * np.std(draws, axis=0, ddof=1)).all()


def test_documents_have_as_many_instances_in_the_original_file(original):
    texts = [as_text(itertools.chain(*document)) for document in original.documents]
    counts = np.zeros(len(texts), np.int64)
    for record in original.records:
        a, _ = texts_of(record, *original.special)
        counts[next(i for i, text in enumerate(texts) if as_text(a) in text)] += 1
    assert_documents_have_as_many_instances(original, counts)
    with pytest.raises(AssertionError):
        assert_documents_have_as_many_instances(original, np.roll(counts, 1))


def test_another_share_of_short_documents_would_be_noticed(original):
    # A single file of 116 copies of documents does not resolve two points, but this it does.
    with pytest.raises(AssertionError):
        assert_is_a_draw_like_ours(original, short_seq_prob=0.6)


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_another_share_of_random_next_sentences_would_be_noticed(original, monkeypatch, share):
    real = pretraining_data.happens
    monkeypatch.setattr(
        pretraining_data, "happens", lambda bits, p: real(bits, share if p == 0.5 else p)
    )
    with pytest.raises(AssertionError):
        assert_is_a_draw_like_ours(original)


def test_texts_of_another_source_would_be_noticed(original):
    with pytest.raises(AssertionError):
        assert_texts_are_of(original.documents[1:], original.records, original.special, 64)

"""``run_pretraining --pack_examples``: records in shared rows, against rows of their own."""

import contextlib
import io
import itertools
import json

import numpy as np
import pytest
import tensorflow as tf

from bert_tf import training
from bert_tf.cli.main import main
from bert_tf.config import BertConfig
from bert_tf.heads import BertPretrainer
from bert_tf.record_dataset import RecordFiles, training_batches, training_numbers
from bert_tf.tasks import shared_records
from bert_tf.tasks.pretraining_objective import Objective
from bert_tf.tasks.shared_records import SharedRecords
from bert_tf.tfrecord import encode_records, frame_records, pretraining_schema
from bert_tf.training import MODEL_INPUTS

S, P = 17, 5  # max_seq_length, max_predictions_per_seq
COUNTS = (23, 8)  # records of the files
CLS, SEP = 2, 3
CONFIG = BertConfig(
    vocab_size=41,
    hidden_size=12,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=20,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    max_position_embeddings=19,
    type_vocab_size=2,
    initializer_range=0.2,
)
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(36))]


def write_records(path, n, seed, *, dynamic=False):
    """Records of 5 to 13 pieces, two or three of which fit in a row."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, 14, (n, 1))
    place = np.arange(S)
    inside = place < lengths
    first_sep = rng.integers(2, lengths - 2)
    ids = rng.integers(5, 41, (n, S))
    ids[:, 0] = CLS
    ids = np.where((place == first_sep) | (place == lengths - 1), SEP, ids) * inside
    values = {
        "input_ids": ids,
        "input_mask": inside.astype(np.int64),
        "segment_ids": (inside & (place > first_sep)).astype(np.int64),
        "next_sentence_labels": rng.integers(0, 2, (n, 1)),
    }
    if not dynamic:
        used = np.arange(P) < rng.integers(1, 4, (n, 1))
        positions = np.sort(np.argsort(rng.random((n, 4)), axis=1)[:, :3] + 1, axis=1)
        positions = np.pad(positions, [(0, 0), (0, P - 3)]) * used
        values["masked_lm_positions"] = positions
        values["masked_lm_ids"] = np.take_along_axis(ids, positions, axis=1) * used
        values["masked_lm_weights"] = used.astype(np.float32)
    schema = pretraining_schema(S, None if dynamic else P)
    path.write_bytes(frame_records(*encode_records(schema, values)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    (folder / "bert_config.json").write_text(CONFIG.to_json_string())
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES))
    for number, count in enumerate(COUNTS):
        write_records(folder / f"static-{number}", count, number)
        write_records(folder / f"dynamic-{number}", count, number, dynamic=True)
    return folder


@pytest.fixture
def files(folder, monkeypatch):
    monkeypatch.setattr(shared_records, "_WINDOW", 22)  # three batches of 7
    paths = tuple(folder / f"static-{number}" for number in range(2))
    return RecordFiles(paths, COUNTS, pretraining_schema(S, P), {"input_mask": 2})


def shared_of(files, **changes):
    settings = {"batch_size": 7, "num_steps": 13, "seed": 9, **changes}
    return SharedRecords(files, max_seq_length=S, max_predictions_per_seq=P, **settings)


def pieces_of(batches):
    return [batch["input_ids"].numpy().tolist() for batch in batches]


def test_numbers_come_in_the_order_of_the_records(files):
    numbers = list(training_numbers(files, 9).take(5 * sum(COUNTS)).as_numpy_iterator())
    first_epoch = list(training_batches(files, 31, 9, 0).take(5))
    by_number = {
        number: record
        for number, record in zip(numbers[:31], pieces_of(first_epoch)[0], strict=True)
    }
    assert sorted(by_number) == list(range(31))
    records = itertools.chain.from_iterable(pieces_of(first_epoch))
    for number, record in zip(numbers, records, strict=True):
        assert by_number[number] == record
    # And number 25 is the third of the second file.
    for number, file, place in ((4, 0, 4), (25, 1, 2)):
        alone = RecordFiles((files.paths[file],), (COUNTS[file],), files.schema, files.limits)
        batch = shared_records.evaluation_batches(alone, 23, 1)
        assert pieces_of(batch)[0][place] == by_number[number]


def test_spread_batches_hold_each_windows_records_and_any_step_can_be_the_first(files):
    shared = shared_of(files)
    batches = pieces_of(shared.spread(0))
    assert len(batches) == 13
    windows = pieces_of(training_batches(files, 21, 9, 0).take(4))
    for number, window in enumerate(windows):
        found = itertools.chain(*batches[3 * number : 3 * number + 3])
        assert sorted(found) == sorted(window)
    for first in (1, 3, 8, 12):
        assert pieces_of(shared.spread(first)) == batches[first:]


def test_all_of_a_batch_is_in_its_rows(files):
    shared = shared_of(files, num_shares=2)
    assert shared.shape.rows % 2 == 0
    assert shared.shape.rows < 7
    num_pieces = 0
    for alone, batch in zip(
        shared.spread(0), shared.shared(shared.spread(0)).as_numpy_iterator(), strict=True
    ):
        alone = {name: value.numpy() for name, value in alone.items()}
        assert batch["input_ids"].shape == (shared.shape.rows, S)
        assert batch["masked_lm_ids"].shape == (shared.shape.rows, P)
        num_pieces += batch["input_mask"].sum()
        expected, found = [], []
        for i, mask in enumerate(alone["input_mask"]):
            n = mask.sum()
            used = alone["masked_lm_weights"][i] > 0
            expected.append(
                (
                    alone["input_ids"][i, :n].tolist(),
                    alone["segment_ids"][i, :n].tolist(),
                    list(range(n)),
                    alone["masked_lm_positions"][i, used].tolist(),
                    alone["masked_lm_ids"][i, used].tolist(),
                    int(alone["next_sentence_labels"][i, 0]),
                )
            )
        for row, numbers in enumerate(batch["example_numbers"]):
            starts = batch["cls_positions"][row]
            used = batch["masked_lm_weights"][row] > 0
            positions = batch["masked_lm_positions"][row]
            for k in range(shared.shape.examples):
                places = np.flatnonzero(numbers == k + 1)
                assert batch["example_weights"][row, k] == (len(places) > 0)
                if not len(places):
                    continue
                assert starts[k] == places[0]
                of_record = used & np.isin(positions, places)
                found.append(
                    (
                        batch["input_ids"][row, places].tolist(),
                        batch["segment_ids"][row, places].tolist(),
                        batch["positions"][row, places].tolist(),
                        (positions[of_record] - starts[k]).tolist(),
                        batch["masked_lm_ids"][row, of_record].tolist(),
                        int(batch["next_sentence_labels"][row, k, 0]),
                    )
                )
        assert sorted(found) == sorted(expected)
    assert shared.fill == pytest.approx(num_pieces / (13 * shared.shape.rows * S))


def test_losses_metrics_and_gradients_are_those_of_rows_of_their_own(files):
    model, objective = BertPretrainer(CONFIG, seed=1), Objective(next_sentence=True)
    shared = shared_of(files, num_steps=2)

    def take(batch):
        with tf.GradientTape() as tape:
            outputs = model(
                {name: batch[name] for name in MODEL_INPUTS if name in batch},
                training=True,
                dropout_seed=tf.constant([1, 2]),
            )
            terms = objective.loss.terms(outputs, batch)
            loss = tf.add_n([term.total / (term.weight + term.epsilon) for term in terms.values()])
        weights = {name: float(weight) for name, weight in objective.loss.weights(batch).items()}
        assert weights == {name: float(term.weight) for name, term in terms.items()}
        gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
        values = {name: [float(part) for part in term] for name, term in terms.items()}
        for name, term in objective.metrics(outputs, batch).items():
            values[name] = [float(term.total), float(term.weight)]
        return values, [tf.convert_to_tensor(gradient).numpy() for gradient in gradients]

    for alone, batch in zip(shared.spread(0), shared.shared(shared.spread(0)), strict=True):
        expected, goals = take(alone)
        values, gradients = take(batch)
        assert set(values) == set(expected)
        for name, value in values.items():
            assert value == pytest.approx(expected[name], rel=1e-5), name
        for gradient, goal in zip(gradients, goals, strict=True):
            np.testing.assert_allclose(gradient, goal, rtol=0, atol=1e-5 * max(1, abs(goal).max()))


class CutOff(Exception):
    """In the place of a power cut."""


def test_a_run_goes_on_bit_for_bit_where_it_was_cut_off(folder, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(shared_records, "_WINDOW", 22)
    caplog.set_level("INFO", "bert_tf")

    def run(name):
        with contextlib.redirect_stdout(io.StringIO()):
            assert (
                main(
                    [
                        *("run_pretraining", "--do_train", "--pack_examples"),
                        f"--input_file={folder}/dynamic-*",
                        f"--bert_config_file={folder / 'bert_config.json'}",
                        f"--output_dir={tmp_path / name}",
                        *(f"--max_seq_length={S}", f"--max_predictions_per_seq={P}"),
                        *("--train_batch_size=6", "--micro_batch_size=3", "--num_train_steps=14"),
                        *("--num_warmup_steps=3", "--learning_rate=0.01", "--log_steps=1"),
                        *("--save_checkpoints_steps=4", "--masking=dynamic"),
                    ]
                )
                == 0
            )
        with (tmp_path / name / "train_log.jsonl").open() as log:
            lines = [json.loads(line) for line in log]
        reader = tf.train.load_checkpoint(str(tmp_path / name / "bert_model.ckpt"))
        weights = {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map()}
        return [(line["step"], line["loss"], line["grad_norm"]) for line in lines], weights

    log, weights = run("whole")
    assert "the 6 records of a step share" in caplog.text
    assert [step for step, _, _ in log] == list(range(1, 15))
    ask = training.TrainLog.__call__

    def cut_off(self, step, *arguments):
        if step > 6:
            raise CutOff
        return ask(self, step, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training.TrainLog, "__call__", cut_off)
        with pytest.raises(CutOff):
            run("cut")
    log_after, weights_after = run("cut")
    assert "resuming at step 4 of 14" in caplog.text
    assert log_after == log
    for name, value in weights_after.items():
        np.testing.assert_array_equal(value, weights[name], err_msg=name)

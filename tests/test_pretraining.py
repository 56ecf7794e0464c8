"""``bert-tf run_pretraining`` as a user runs it, on small records, and against the original."""

import contextlib
import dataclasses
import gzip
import io
import json
import shutil
import signal
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from forked import COMMAND, Forked, run_forked

import bert_tf
from bert_tf import training
from bert_tf.checkpoint import load_checkpoint, save_checkpoint
from bert_tf.cli import flags as flags_module
from bert_tf.cli.main import main
from bert_tf.config import BertConfig, Classification, Pretraining
from bert_tf.heads import BertClassifier, BertPretrainer
from bert_tf.masking import Masker, MaskingRule
from bert_tf.modeling import BertModel
from bert_tf.predictor import Predictor
from bert_tf.random_bits import key_of_seed, random_bits
from bert_tf.tasks import pretraining
from bert_tf.tasks.pretraining_batches import PretrainingBatches
from bert_tf.tasks.pretraining_objective import Objective, PretrainingEvaluator
from bert_tf.tfrecord import encode_records, frame_records, pretraining_schema
from bert_tf.tokenization import Vocabulary

S, P = 13, 4  # max_seq_length, max_predictions_per_seq
CONFIG = BertConfig(
    vocab_size=41,
    hidden_size=12,
    num_hidden_layers=1,
    num_attention_heads=3,
    intermediate_size=20,
    max_position_embeddings=17,
    type_vocab_size=2,
    initializer_range=0.1,
)
CLS, SEP, MASK = 2, 3, 4
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(30))]
PIECES += [f"##x{i}" for i in range(6)]


def random_values(n, seed, seq_length=S, predictions=P):
    """Records' values: rows of different lengths, with masks of different numbers."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(7, seq_length + 1, n)
    inside = np.arange(seq_length) < lengths[:, None]
    first_sep = rng.integers(2, lengths - 2)
    ids = rng.integers(5, 41, (n, seq_length)) * inside
    ids[:, 0] = CLS
    ids[np.arange(n), first_sep] = SEP
    ids[np.arange(n), lengths - 1] = SEP
    values = {
        "input_ids": ids,
        "input_mask": inside.astype(np.int64),
        "segment_ids": (inside & (np.arange(seq_length) > first_sep[:, None])).astype(np.int64),
        "next_sentence_labels": rng.integers(0, 2, (n, 1)),
    }
    used = np.arange(predictions) < rng.integers(1, predictions + 1, (n, 1))
    positions = np.sort(np.argsort(rng.random((n, 5)), axis=1)[:, :predictions] + 1, axis=1)
    masked = {
        "masked_lm_positions": positions * used,
        "masked_lm_ids": np.take_along_axis(ids, positions, axis=1) * used,
        "masked_lm_weights": used.astype(np.float32),
    }
    return values, masked


def write_records(path, n, seed, seq_length=S, dynamic=False, **changes):
    values, masked = random_values(n, seed, seq_length)
    schema = pretraining_schema(seq_length, None if dynamic else P)
    if not dynamic:
        values |= masked
    for name, value in changes.items():
        values[name][-1, 0] = value
    content = frame_records(*encode_records(schema, values))
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A configuration with its vocabulary, and records: 45 + 6 to train on, 19 held out."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "bert_config.json").write_text(CONFIG.to_json_string())
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES))
    for kind, dynamic in (("static", False), ("dynamic", True)):
        write_records(folder / f"{kind}-0.tfrecord", 45, 1, dynamic=dynamic)
        write_records(folder / f"{kind}-1.tfrecord.gz", 6, 2, dynamic=dynamic)
        write_records(folder / f"held_out_{kind}.tfrecord", 19, 3, dynamic=dynamic)
        (folder / f"{kind}-x.manifest.json").write_text("{}")  # globs find it too
    write_records(folder / "long.tfrecord", 23, 4, seq_length=17)
    return folder


def flags_of(world, kind="static", **settings):
    """The flags of a small run; ``settings`` come on top, None leaves one out."""
    settings = {
        "input_file": world / f"{kind}-*",
        "bert_config_file": world / "bert_config.json",
        "masking": kind,
        "max_seq_length": S,
        "max_predictions_per_seq": P,
        "train_batch_size": 6,
        "num_train_steps": 12,
        "num_warmup_steps": 3,
        "learning_rate": 0.01,
        "log_steps": 4,
        **settings,
    }
    return [f"--{name}={value}" for name, value in settings.items() if value is not None]


def run(*arguments):
    """Runs ``bert-tf run_pretraining``; returns what it printed on stdout."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = main(["run_pretraining", *(str(argument) for argument in arguments)])
    assert status == 0
    return json.loads(printed.getvalue() or "{}")


def tensors(folder):
    reader = tf.train.load_checkpoint(str(folder / "bert_model.ckpt"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def assert_same_tensors(one, other):
    assert set(one) == set(other)
    for name, value in one.items():
        np.testing.assert_array_equal(other[name], value, err_msg=name)


def read_log(folder):
    return [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """A finished run with evaluation on held-out records, meanwhile and at the end."""
    folder = tmp_path_factory.mktemp("runs") / "static"
    results = run(
        "--do_train", "--do_eval", f"--output_dir={folder}",
        *flags_of(world, eval_input_file=world / "held_out_static.tfrecord", eval_steps=6),
    )  # fmt: skip
    return folder, results


# --- evaluation ---------------------------------------------------------------------------------


def test_the_best_model_is_kept_apart(trained, world, tmp_path):
    folder, _ = trained
    best = json.loads((folder / "best" / "eval_results.json").read_text())
    evaluated = [line for line in read_log(folder) if "eval_loss" in line]
    lowest = min(evaluated, key=lambda line: line["eval_loss"])
    assert len(evaluated) > 1
    assert (best["global_step"], best["eval_loss"]) == (lowest["step"], lowest["eval_loss"])
    again = run(
        "--do_eval", f"--output_dir={tmp_path / 'again'}",
        *flags_of(
            world,
            init_checkpoint=folder / "best" / "bert_model.ckpt",
            input_file=world / "held_out_static.tfrecord",
        ),
    )  # fmt: skip
    assert again["loss"] == pytest.approx(best["eval_loss"], rel=1e-5)


def test_evaluation_equals_the_originals(shared, tmp_path):
    golden = shared / "goldens" / "original_tiny"
    results = run(
        "--do_eval", f"--input_file={golden / 'pretrain.tfrecord'}", "--max_eval_steps=50",
        f"--bert_config_file={golden / 'bert_config.json'}", "--max_seq_length=64",
        f"--init_checkpoint={golden / 'model.ckpt-300'}", "--max_predictions_per_seq=10",
        f"--output_dir={tmp_path / 'out'}",
    )  # fmt: skip
    lines = (golden / "eval_results.txt").read_text().splitlines()
    expected = {name: float(value) for name, value in (line.split(" = ") for line in lines)}
    assert expected["global_step"] == 300
    assert results == pytest.approx(expected, abs=1e-6)
    assert list(results) == list(expected)
    assert json.loads((tmp_path / "out/eval_results.json").read_text()) == results
    # The same format; the last digit of a float32 may be another.
    for line, wanted in zip(
        (tmp_path / "out/eval_results.txt").read_text().splitlines(), lines, strict=True
    ):
        assert line.split(" = ")[0] == wanted.split(" = ")[0]
        assert abs(len(line) - len(wanted)) <= 2


def naive_evaluation(model, values, batch_size):
    """The original's metrics, record by record and prediction by prediction."""
    n = len(values["input_ids"])
    nll, right, next_nll, next_right, losses = [], [], [], [], []
    for start in range(0, n, batch_size):
        batch_nll, batch_next = [], []
        for row in range(start, min(start + batch_size, n)):
            length = values["input_mask"][row].sum()
            outputs = model(
                {
                    "input_ids": values["input_ids"][row : row + 1, :length],
                    "segment_ids": values["segment_ids"][row : row + 1, :length],
                    "masked_lm_positions": values["masked_lm_positions"][row : row + 1],
                }
            )
            logits = np.array(outputs["masked_lm_logits"][0], np.float64)
            for i, label in enumerate(values["masked_lm_ids"][row]):
                if values["masked_lm_weights"][row, i]:
                    batch_nll.append(np.log(np.exp(logits[i]).sum()) - logits[i, label])
                    right.append(logits[i].argmax() == label)
            logits = np.array(outputs["next_sentence_logits"][0], np.float64)
            label = values["next_sentence_labels"][row, 0]
            batch_next.append(np.log(np.exp(logits).sum()) - logits[label])
            next_right.append(logits.argmax() == label)
        losses.append(sum(batch_nll) / (len(batch_nll) + 1e-5) + np.mean(batch_next))
        nll += batch_nll
        next_nll += batch_next
    return {
        "loss": np.mean(losses),
        "masked_lm_accuracy": np.mean(right),
        "masked_lm_loss": np.mean(nll),
        "next_sentence_accuracy": np.mean(next_right),
        "next_sentence_loss": np.mean(next_nll),
    }


@pytest.mark.parametrize(("batch_size", "max_eval_steps", "used"), [(8, 100, 19), (5, 2, 10)])
def test_evaluation_counts_each_record_once(
    trained, world, tmp_path, batch_size, max_eval_steps, used
):
    folder, _ = trained
    results = run(
        "--do_eval", f"--output_dir={tmp_path / 'out'}",
        *flags_of(
            world,
            init_checkpoint=folder / "bert_model.ckpt",
            input_file=world / "held_out_static.tfrecord",
            eval_batch_size=batch_size,
            max_eval_steps=max_eval_steps,
        ),
    )  # fmt: skip
    model = BertPretrainer(CONFIG)
    load_checkpoint(model, folder / "bert_model.ckpt")
    values, masked = random_values(19, 3)
    values = {name: value[:used] for name, value in (values | masked).items()}
    assert results.pop("global_step") == 12
    assert results == pytest.approx(naive_evaluation(model, values, batch_size), rel=1e-5)
    assert not (tmp_path / "out" / "bert_model.ckpt.index").exists()


def test_padding_is_no_prediction():
    # The second row's padding, id 0 with the weight 0, would be right.
    logits = np.zeros((2, 3, 7), np.float32)
    for row, column, highest in ((0, 0, 5), (0, 1, 4), (0, 2, 1), (1, 0, 6), (1, 1, 0), (1, 2, 0)):
        logits[row, column, highest] = 1.0
    batch = {
        "masked_lm_ids": tf.constant([[5, 3, 1], [6, 0, 0]]),
        "masked_lm_weights": tf.constant([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]),
        "next_sentence_labels": tf.constant([[1], [1]]),
    }
    outputs = {
        "masked_lm_logits": tf.constant(logits),
        "next_sentence_logits": tf.constant([[0.0, 2.0], [3.0, 2.0]]),
    }
    objective = Objective(next_sentence=True)
    metrics = {
        name: (float(term.total), float(term.weight))
        for name, term in objective.metrics(outputs, batch).items()
    }
    assert metrics == {"masked_lm_accuracy": (3.0, 4.0), "next_sentence_accuracy": (1.0, 2.0)}
    terms, weights = objective.loss.terms(outputs, batch), objective.loss.weights(batch)
    assert list(terms) == list(weights) == ["masked_lm_loss", "next_sentence_loss"]
    for name, term in terms.items():
        assert float(term.weight) == float(weights[name]) == {"m": 4.0, "n": 2.0}[name[0]]


def test_a_trained_folder_is_evaluated_again(trained, tmp_path, capsys):
    folder, results = trained
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    command = ["run_pretraining", "--do_eval", f"--output_dir={copy}"]
    assert main(command) == 2  # what is there is not replaced unasked
    assert "eval_results.json is there already" in capsys.readouterr().err
    # All else, max_seq_length and the held-out records among it, is the trained run's.
    again = run(*command[1:], "--overwrite")
    assert again == pytest.approx(results, rel=1e-6)
    assert_same_tensors(tensors(copy), tensors(folder))
    assert main([*command, "--overwrite", "--init_checkpoint=other.ckpt"]) == 2
    assert "a model of its own" in capsys.readouterr().err


# --- training -----------------------------------------------------------------------------------


def test_the_folder_of_a_run_is_whole(trained, world):
    folder, results = trained
    assert json.loads((folder / "eval_results.json").read_text()) == results
    text = (folder / "eval_results.txt").read_text()
    assert {line.split(" = ")[0]: float(line.split(" = ")[1]) for line in text.splitlines()} == (
        pytest.approx(results, rel=1e-6)
    )
    assert text.splitlines()[0] == "global_step = 12"
    assert BertConfig.from_json_file(folder / "bert_config.json") == CONFIG
    # Found beside bert_config.json.
    assert (folder / "vocab.txt").read_text() == (world / "vocab.txt").read_text()
    log = read_log(folder)
    assert [line["step"] for line in log] == [4, 6, 8, 12]
    values = {
        "loss", "masked_lm_loss", "next_sentence_loss", "masked_lm_accuracy",
        "next_sentence_accuracy", "learning_rate", "grad_norm", "examples_per_second",
        "tokens_per_second",
    }  # fmt: skip
    evaluated = {f"eval_{name}" for name in results if name != "global_step"}
    assert set(log[0]) == {"step", *values}
    assert set(log[1]) == set(log[3]) == {"step", *values, *evaluated}
    for name in evaluated:
        assert log[3][name] == pytest.approx(results[name.removeprefix("eval_")], rel=1e-6)
    assert log[1]["loss"] == pytest.approx(
        log[1]["masked_lm_loss"] + log[1]["next_sentence_loss"], rel=1e-6
    )
    assert log[3]["learning_rate"] == pytest.approx(0.01 * (1 - 11 / 12), rel=1e-5)
    assert list(folder.glob("events.out.tfevents.*"))
    assert not list(folder.glob("*.tmp*"))
    saved = tensors(folder)
    assert saved["global_step"] == 12
    model = BertPretrainer(CONFIG)
    names = {variable.path.removeprefix(f"{model.name}/") for variable in model.weights}
    assert len(names) == len(saved) // 3
    for name in ("cls/predictions/output_bias", "bert/pooler/dense/kernel"):
        assert np.abs(saved[f"{name}/adam_m"]).max() > 0
        assert np.abs(saved[f"{name}/adam_v"]).max() > 0


def test_the_result_loads_in_a_classifier(trained, tmp_path):
    folder, _ = trained
    report = load_checkpoint(
        BertClassifier(CONFIG, 3), folder / "bert_model.ckpt", allow_missing=["output_*"]
    )
    assert set(report.missing) == {"output_weights", "output_bias"}
    assert any(name.startswith("cls/predictions") for name in report.unused)
    (tmp_path / "train.tsv").write_text(
        "text\tlabel\n" + "".join(f"w{i} w{i + 1}\t{i % 2}\n" for i in range(9))
    )
    arguments = [
        "run_classifier", "--do_train", f"--checkpoint={folder}", "--max_seq_length=9",
        f"--train_file={tmp_path / 'train.tsv'}", f"--output_dir={tmp_path / 'out'}",
        "--train_batch_size=4", "--num_train_epochs=1",
    ]  # fmt: skip
    assert main(arguments) == 0
    assert bert_tf.Predictor.load(tmp_path / "out").predict(["w3"])[0]["label"] in "01"


def test_training_learns(world, tmp_path):
    config = dataclasses.replace(
        CONFIG, hidden_size=48, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    (tmp_path / "bert_config.json").write_text(config.to_json_string())
    flags = flags_of(
        world, bert_config_file=tmp_path / "bert_config.json", output_dir=tmp_path / "out",
        num_train_steps=120, num_warmup_steps=12, learning_rate=0.003, log_steps=12,
    )  # fmt: skip
    run("--do_train", *flags)
    log = read_log(tmp_path / "out")
    # From ln 41 = 3.7; the inputs of these records do show what is asked for.
    assert log[-1]["masked_lm_loss"] < 0.5
    assert log[-1]["masked_lm_accuracy"] > 0.9


def command_line(world, folder):
    flags = flags_of(
        world, "dynamic", num_train_steps=60, num_warmup_steps=6, log_steps=1,
        save_checkpoints_steps=8, micro_batch_size=3, do_span_mask=True, eval_steps=25,
        eval_input_file=world / "held_out_dynamic.tfrecord", output_dir=folder,
    )  # fmt: skip
    return ["--do_train", *flags]


def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(world, tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    run(*command_line(world, undisturbed))
    command = ["run_pretraining", *command_line(world, killed)]
    process = Forked(COMMAND, *command)
    log = killed / "train_log.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and len(log.read_text().splitlines()) >= 27):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "bert_model.ckpt.index").exists()

    resumed = run_forked(COMMAND, *command)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming at step" in resumed.stderr
    assert_same_tensors(tensors(killed), tensors(undisturbed))
    logs = [
        [{k: v for k, v in line.items() if not k.endswith("per_second")} for line in read_log(path)]
        for path in (undisturbed, killed)
    ]
    assert logs[0] == logs[1]
    assert len(logs[0]) == 60
    assert sum("eval_loss" in line for line in logs[0]) == 3


# --- starting from a checkpoint -----------------------------------------------------------------


def test_a_run_in_two_parts_is_the_run_in_one(world, tmp_path, caplog):
    def part(name, *arguments):
        folder = tmp_path / name
        flags = flags_of(world, num_train_steps=13, output_dir=folder)
        run("--do_train", *flags, *arguments)
        return folder

    whole, first = part("whole"), part("first", "--stop_at_step=7")
    assert tensors(first)["global_step"] == 7
    assert run("--do_eval", f"--output_dir={first}")["global_step"] == 7
    with caplog.at_level("INFO", "bert_tf"):
        second = part("second", "--resume_optimizer", f"--init_checkpoint={first}/bert_model.ckpt")
    assert "51 records in 2 files; 6 steps of 6 are 0.7 epochs" in caplog.text
    assert_same_tensors(tensors(second), tensors(whole))
    assert [line["step"] for line in read_log(second)] == [8, 12, 13]


def test_a_second_phase_with_longer_sequences(trained, world, tmp_path):
    folder, _ = trained
    flags = flags_of(
        world, input_file=world / "long.tfrecord", max_seq_length=17, num_train_steps=15,
        output_dir=tmp_path / "second", init_checkpoint=folder / "bert_model.ckpt", do_eval=True,
    )  # fmt: skip
    assert run("--do_train", "--resume_optimizer", *flags)["global_step"] == 15
    assert tensors(tmp_path / "second")["global_step"] == 15
    assert read_log(tmp_path / "second")[0]["learning_rate"] == pytest.approx(0.01 * (1 - 14 / 15))
    # Without the optimizer, the checkpoint is but where the weights start.
    flags = [flag.replace("/second", "/anew") for flag in flags]
    assert run("--do_train", *flags)["global_step"] == 15
    assert [line["step"] for line in read_log(tmp_path / "anew")] == [4, 8, 12, 15]


def test_heads_that_the_checkpoint_lacks_are_new_and_reported(world, tmp_path, caplog):
    encoder = BertModel(CONFIG)
    save_checkpoint(encoder, tmp_path / "encoder.ckpt")
    flags = flags_of(world, num_train_steps=1, num_warmup_steps=1, output_dir=tmp_path / "out")
    with caplog.at_level("INFO", "bert_tf"):
        run("--do_train", f"--init_checkpoint={tmp_path / 'encoder.ckpt'}", *flags)
    assert "missing in the file: cls/predictions" in caplog.text
    saved = tensors(tmp_path / "out")  # the only update had the rate 0
    for variable in encoder.weights:
        name = "bert/" + variable.path.partition("/")[2]
        np.testing.assert_array_equal(saved[name], variable.value, err_msg=name)


# --- options ------------------------------------------------------------------------------------


def settings_of(world, kind="dynamic", **changes):
    return Pretraining(
        **{
            "do_train": True,
            "do_eval": True,
            "output_dir": "x",
            "input_file": str(world / f"{kind}-*"),
            "masking": kind,
            "max_seq_length": S,
            "max_predictions_per_seq": P,
            "train_batch_size": 6,
            "eval_batch_size": 4,
            "masked_lm_prob": 0.3,
            **changes,
        }
    )


def test_dynamic_masks_are_those_of_the_records_number(world):
    vocabulary = Vocabulary(world / "vocab.txt")
    rule = MaskingRule(masked_lm_prob=0.3, max_predictions_per_seq=P, unit="whole_word")
    masker = Masker(vocabulary, rule)
    settings = settings_of(world, do_whole_word_mask=True, seed=9)
    batches = PretrainingBatches(settings, CONFIG, vocabulary)
    unmasked = PretrainingBatches(settings, CONFIG, vocabulary)
    unmasked._masker = None
    key = random_bits(key_of_seed(9), 3)
    for step, (batch, plain) in enumerate(
        zip(batches.training(0).take(20), unmasked.training(0).take(20), strict=True)
    ):
        assert batch["masked_lm_ids"].shape == (6, P)
        for row in range(6):
            ids, mask = plain["input_ids"][row : row + 1].numpy(), plain["input_mask"][row].numpy()
            keys = random_bits(key, np.array([step * 6 + row]))
            one = masker(ids, np.array([mask.sum()]), keys)
            for name in (
                "input_ids", "masked_lm_positions", "masked_lm_ids", "masked_lm_weights"
            ):  # fmt: skip
                np.testing.assert_array_equal(batch[name][row], getattr(one, name)[0])
    assert batches.training(0).element_spec["masked_lm_positions"].shape == (6, P)


def stacked(dataset, name, count=None):
    dataset = dataset if count is None else dataset.take(count)
    return np.concatenate([batch[name].numpy() for batch in dataset])


def test_dynamic_masks_are_new_in_each_epoch_and_fixed_in_evaluation(world):
    vocabulary = Vocabulary(world / "vocab.txt")
    batches = PretrainingBatches(settings_of(world), CONFIG, vocabulary)
    names = ("segment_ids", "next_sentence_labels", "masked_lm_positions")
    two_epochs = np.concatenate([stacked(batches.training(0), name, 17) for name in names], axis=1)
    first, second = ({tuple(row) for row in epoch} for epoch in np.split(two_epochs, 2))
    assert len(first & second) < 15  # of 51
    resumed = stacked(batches.training(5), "input_ids", 4)
    np.testing.assert_array_equal(resumed, stacked(batches.training(0), "input_ids", 9)[30:])
    evaluated = stacked(batches.evaluation(), "input_ids")
    assert evaluated.shape == (51, S)
    assert (evaluated == MASK).any()
    other = settings_of(world, seed=77, eval_batch_size=7)
    np.testing.assert_array_equal(
        stacked(PretrainingBatches(other, CONFIG, vocabulary).evaluation(), "input_ids"), evaluated
    )


@pytest.mark.parametrize(("masking", "rate"), [("static", 0.15), ("dynamic", 0.3)])
def test_evaluation_on_a_tpu_has_batches_of_one_size_and_the_same_values(world, masking, rate):
    vocabulary = Vocabulary(world / "vocab.txt")
    keras.utils.set_random_seed(6)
    evaluator = PretrainingEvaluator(BertPretrainer(CONFIG), Objective(next_sentence=True))
    results = []
    for on_tpu in (False, True):
        settings = settings_of(world, masking, masked_lm_prob=rate, use_tpu=on_tpu)
        batches = PretrainingBatches(settings, CONFIG, vocabulary)
        dataset = batches.evaluation()
        sizes = [len(batch["input_ids"]) for batch in dataset]
        assert sizes == [*[4] * 12, 4 if on_tpu else 3]  # 51 records
        results.append(evaluator(dataset, batches.num_evaluation_batches))
    assert results[1] == pytest.approx(results[0], rel=1e-6)


def test_without_next_sentences_their_head_stays_as_it_is(world, tmp_path):
    out = tmp_path / "out"
    results = run("--do_train", "--do_eval", f"--output_dir={out}", *flags_of(
        world, next_sentence="none", num_train_steps=4, optimizer="lamb", micro_batch_size=2,
    ))  # fmt: skip
    assert set(results) == {"global_step", "loss", "masked_lm_loss", "masked_lm_accuracy"}
    assert results["loss"] == pytest.approx(results["masked_lm_loss"], rel=0.05)
    (line,) = read_log(out)
    assert "next_sentence_loss" not in line
    assert line["masked_lm_loss"] == pytest.approx(line["loss"], rel=1e-5)
    saved = tensors(out)
    assert (saved["cls/seq_relationship/output_bias"] == 0).all()
    assert (saved["cls/seq_relationship/output_weights/adam_v"] == 0).all()
    assert (saved["cls/predictions/transform/dense/kernel/adam_v"] != 0).any()


def test_the_optimizer_is_the_one_asked_for(world, tmp_path):
    steps = {}
    for name in ("adamw", "lamb"):
        flags = flags_of(world, num_train_steps=1, num_warmup_steps=0, optimizer=name)
        run("--do_train", f"--output_dir={tmp_path / name}", *flags)
        steps[name] = tensors(tmp_path / name)["bert/pooler/dense/bias"]
    # Biases start from 0, are not decayed, and have no trust ratio. Adam's first step is
    # (1 - b1) / sqrt(1 - b2) of the rate, LAMB's, which corrects the bias, the rate itself.
    clear = np.abs(steps["lamb"]) > 0.009995  # not so small that epsilon counts
    assert clear.any()
    np.testing.assert_allclose(
        steps["adamw"][clear], steps["lamb"][clear] * 0.1 / 0.001**0.5, rtol=0.02
    )


def test_what_saves_memory_reaches_the_training_step(world, tmp_path, monkeypatch):
    given = []

    class Step(pretraining.TrainStep):
        def __init__(self, *arguments, micro_batch_size, **more):
            given.append((micro_batch_size, more["recompute"]))
            super().__init__(*arguments, micro_batch_size=micro_batch_size, **more)

    monkeypatch.setattr(pretraining, "TrainStep", Step)
    flags = flags_of(world, num_train_steps=1, micro_batch_size=3, output_dir=tmp_path / "out")
    run("--do_train", "--recompute", *flags)
    assert given == [(3, True)]


def test_a_run_without_a_vocabulary(world, tmp_path, caplog):
    bare = tmp_path / "config"
    bare.mkdir()
    shutil.copy(world / "bert_config.json", bare)
    flags = flags_of(
        world, bert_config_file=bare / "bert_config.json", num_train_steps=2,
        output_dir=tmp_path / "out",
    )  # fmt: skip
    with caplog.at_level("INFO", "bert_tf"):
        run("--do_train", *flags)
    assert "give --vocab_file" in caplog.text
    assert not (tmp_path / "out" / "vocab.txt").exists()
    assert run("--do_eval", f"--output_dir={tmp_path / 'out'}")["global_step"] == 2
    given = [flag.replace("/out", "/given") for flag in flags]
    run("--do_train", f"--vocab_file={world / 'vocab.txt'}", *given)
    assert (tmp_path / "given" / "vocab.txt").read_text() == (world / "vocab.txt").read_text()


# --- whether text is lower-cased ----------------------------------------------------------------


def write_manifest(records, **changes):
    manifest = {
        "configuration": {"next_sentence": "nsp", "do_lower_case": False} | changes,
        "vocabulary": {"num_pieces": 41, "sha256": Vocabulary(records.parent / "vocab.txt").sha256},
    }
    (records.parent / f"{records.name}.manifest.json").write_text(json.dumps(manifest))


def test_casing_goes_from_the_records_into_the_model(world, tmp_path, capsys):
    pieces = [piece.replace("w", "W") for piece in PIECES]
    (tmp_path / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces))
    records = tmp_path / "r"
    write_records(records, 23, 6)
    write_manifest(records)
    out = tmp_path / "out"
    flags = flags_of(
        world, input_file=records, vocab_file=tmp_path / "vocab.txt", num_train_steps=2,
        num_warmup_steps=1, output_dir=out,
    )  # fmt: skip
    assert main(["run_pretraining", "--do_train", "--do_lower_case", *flags]) == 2
    assert "made with --do_lower_case=false" in capsys.readouterr().err
    run("--do_train", *flags)
    assert "do_lower_case: false" in (out / "run_config.yaml").read_text()
    # In lower case, the vocabulary would have none of the words.
    for given in (f"--model_dir={out}", f"--checkpoint={out}"):
        assert main(["predict", "--task=fill_mask", given, "W1 [MASK]"]) == 0
        assert json.loads(capsys.readouterr().out)["text"] == "W1 [MASK]"
    assert Predictor.load(out)._answers._tokenizer.tokenize("W1") == ["W1"]
    settings, _ = flags_module.parse(
        Classification, ["--do_train", "--output_dir=x", f"--checkpoint={out}"], ""
    )
    assert settings.do_lower_case is False


# --- mistakes -----------------------------------------------------------------------------------


class TestBadInput:
    """Each mistake: exit status 2, one clear message, and no output folder left behind."""

    @pytest.fixture
    def fails(self, world, tmp_path, capsys):
        def check(*arguments, says, kind="static", **settings):
            folder = tmp_path / "out"
            jobs = [] if "--do_eval" in arguments else ["--do_train"]
            flags = flags_of(world, kind, output_dir=folder, **settings)
            status = main(["run_pretraining", *jobs, *flags, *arguments])
            message = capsys.readouterr().err
            assert status == 2, message
            for part in says if isinstance(says, tuple) else (says,):
                assert part in message
            assert "Traceback" not in message
            assert not folder.exists()

        return check

    def test_files(self, fails, world, tmp_path):
        fails(input_file=None, says="--input_file is missing")
        fails(input_file=tmp_path / "no.tfrecord", says=("--input_file", "no.tfrecord"))
        fails(eval_steps=3, eval_input_file=tmp_path / "no", says=("--eval_input_file", "no"))
        fails(bert_config_file=None, says="--bert_config_file is missing")
        (tmp_path / "empty.tfrecord").touch()
        fails(input_file=tmp_path / "empty.tfrecord", says=("empty.tfrecord", "no records"))
        content = (world / "static-0.tfrecord").read_bytes()
        (tmp_path / "cut.tfrecord").write_bytes(content[:-5])
        fails(input_file=f"{world}/static-*,{tmp_path}/cut.tfrecord", says=("cut.tfrecord", "45"))

    def test_records_that_do_not_fit_the_settings(self, fails, world):
        fails(max_seq_length=12, says=("static-0", "13 values", "--max_seq_length is 12"))
        fails(max_predictions_per_seq=5, says=("static-0", "--max_predictions_per_seq is 5"))
        fails(input_file=world / "dynamic-*", says=("dynamic-0", "--masking=dynamic"))
        fails(kind="dynamic", input_file=world / "static-*", says="leave out --masking=dynamic")
        fails(max_seq_length=18, says=("--max_seq_length=18", "max_position_embeddings, 17"))

    def test_a_vocabulary_that_does_not_fit(self, fails, world, tmp_path):
        (tmp_path / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES[:-2]))
        fails(vocab_file=tmp_path / "vocab.txt", says=("39 pieces", "vocab_size 41"))
        smaller = dataclasses.replace(CONFIG, vocab_size=39)
        (tmp_path / "bert_config.json").write_text(smaller.to_json_string())
        fails(bert_config_file=tmp_path / "bert_config.json",
              says="static-0.tfrecord: values of a record are out of range: input_ids")  # fmt: skip
        (tmp_path / "vocab.txt").unlink()
        (tmp_path / "bert_config.json").write_text(CONFIG.to_json_string())
        fails(bert_config_file=tmp_path / "bert_config.json", kind="dynamic",
              says=("--masking=dynamic", "--vocab_file is missing"))  # fmt: skip

    def test_records_whose_manifest_says_that_they_do_not_fit(self, fails, tmp_path):
        records = tmp_path / "r-00000-of-00001"
        write_records(records, 23, 6)
        manifest = {
            "configuration": {"next_sentence": "none", "do_lower_case": True},
            "vocabulary": {"num_pieces": 41, "sha256": "of another one"},
        }
        (tmp_path / "r.manifest.json").write_text(json.dumps(manifest))
        fails(input_file=records, says=("r-00000-of-00001", "--next_sentence=none here too"))
        fails(input_file=records, next_sentence="none", says=("another vocabulary", "vocab.txt"))

    def test_a_bad_value_deep_inside_the_records(self, world, tmp_path, capsys):
        path = tmp_path / "deep.tfrecord"
        write_records(path, 101, 5, next_sentence_labels=2)
        flags = flags_of(world, input_file=path, output_dir=tmp_path / "out", num_train_steps=30)
        assert main(["run_pretraining", "--do_train", *flags]) == 2
        message = capsys.readouterr().err
        assert "deep.tfrecord" in message
        assert "next_sentence_labels must lie in 0 to 1" in message
        assert "Traceback" not in message

    def test_gzip_records_that_tensorflow_would_not_read_to_the_end(self, world, tmp_path, capsys):
        # Of a file of several parts it stops where its input buffer ends within the few bytes
        # that end a part.
        path = tmp_path / "parts.tfrecord.gz"
        values, masked = random_values(40, 1)
        content = frame_records(*encode_records(pretraining_schema(S, P), values | masked))
        name = bytes(262_148 - len(gzip.compress(content)) - 1).replace(b"\0", b"x") + b"\0"
        first = bytearray(gzip.compress(content))
        first[3] |= 8  # there is a name
        path.write_bytes(bytes(first[:10]) + name + bytes(first[10:]) + gzip.compress(content))
        flags = flags_of(world, input_file=path, output_dir=tmp_path / "out", num_train_steps=30)
        assert main(["run_pretraining", "--do_train", *flags]) == 2
        message = capsys.readouterr().err
        assert "parts.tfrecord.gz: TensorFlow finds another number of records" in message
        assert "Traceback" not in message

    def test_what_changed_since_a_run_was_cut_off(self, world, tmp_path, capsys, caplog):
        for name in ("static-0.tfrecord", "static-1.tfrecord.gz", "bert_config.json", "vocab.txt"):
            shutil.copy(world / name, tmp_path)
        out = tmp_path / "out"
        flags = flags_of(tmp_path, output_dir=out, save_checkpoints_steps=4)
        real = training.TrainLog.__call__

        def stop(self, step, *arguments):
            if step == 6:
                raise KeyboardInterrupt
            return real(self, step, *arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training.TrainLog, "__call__", stop)
            patch.setattr(training, "_LOOP_SECONDS", 0.0)
            assert main(["run_pretraining", "--do_train", *flags]) == 130
        assert (out / "resume" / "ckpt-4.index").exists()

        def refused(*words):
            before = sorted(out.rglob("*"))
            for job in ("--do_train", "--do_train --do_eval"):
                assert main(["run_pretraining", *job.split(), *flags]) == 2
                message = capsys.readouterr().err
                assert all(word in message for word in words) and "Traceback" not in message
            assert sorted(out.rglob("*")) == before

        assert main(["run_pretraining", "--do_eval", *flags]) == 2
        assert "the run there is not finished" in capsys.readouterr().err
        write_records(tmp_path / "static-2.tfrecord", 3, 8)
        refused("since the run there was cut off, input_file changed")
        (tmp_path / "static-2.tfrecord").unlink()
        changed = dataclasses.replace(CONFIG, hidden_dropout_prob=0.3)
        (tmp_path / "bert_config.json").write_text(changed.to_json_string())
        refused("since the run there was cut off, bert_config_file changed")
        shutil.copy(world / "bert_config.json", tmp_path)
        assert main(["run_pretraining", "--do_train", *flags]) == 0
        assert "resuming at step 4 of 12" in caplog.text

    def test_results_of_the_weights_that_training_begins_with(
        self, trained, world, tmp_path, capsys
    ):
        folder, _ = trained
        flags = flags_of(
            world, init_checkpoint=folder / "bert_model.ckpt", output_dir=tmp_path / "out"
        )
        run("--do_eval", *flags)
        results = (tmp_path / "out" / "eval_results.json").read_text()
        assert main(["run_pretraining", "--do_train", *flags]) == 2
        assert main(["run_pretraining", "--do_train", "--do_eval", *flags]) == 2
        assert "eval_results.json is there already" in capsys.readouterr().err
        assert (tmp_path / "out" / "eval_results.json").read_text() == results

    def test_checkpoints(self, fails, trained, world, tmp_path):
        folder, _ = trained
        checkpoint = folder / "bert_model.ckpt"
        fails("--resume_optimizer", says="--init_checkpoint is missing")
        fails("--resume_optimizer", init_checkpoint=checkpoint,
              says=("--num_train_steps=12", "12 steps already"))  # fmt: skip
        save_checkpoint(BertPretrainer(CONFIG), tmp_path / "bare.ckpt")
        fails("--resume_optimizer", init_checkpoint=tmp_path / "bare.ckpt",
              says=("bare.ckpt", "no state of an optimizer"))  # fmt: skip
        fails("--do_eval", says="--init_checkpoint is missing")
        deeper = dataclasses.replace(CONFIG, num_hidden_layers=3)
        (tmp_path / "bert_config.json").write_text(deeper.to_json_string())
        fails(bert_config_file=tmp_path / "bert_config.json", init_checkpoint=checkpoint,
              says=("bert_config.json does not belong", "num_hidden_layers is 3"))  # fmt: skip

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"eval_steps": 3}, "--eval_steps: evaluation while training needs --eval_input_file"),
            ({"eval_input_file": "x"}, "--eval_input_file: nothing evaluates on it"),
            ({"micro_batch_size": 4}, "--micro_batch_size=4 does not divide"),
            ({"num_train_steps": 0}, "--num_train_steps must be at least 1"),
            ({"num_warmup_steps": -1}, "--num_warmup_steps"),
            ({"do_span_mask": True}, "--do_span_mask=true: the records of --masking=static"),
            ({"masked_lm_prob": 0.3}, "--masked_lm_prob=0.3: the records of --masking=static"),
            ({"stop_at_step": 13}, "--stop_at_step=13 is more than --num_train_steps=12"),
            ({"stop_at_step": 0}, "--stop_at_step must be at least 1"),
            ({"do_span_mask": True, "do_whole_word_mask": True}, "not both"),
            ({"masking": "dynamic", "masked_lm_prob": 0.5}, "at least that"),
            ({"use_tpu": True, "strategy": "one_device"}, "--strategy=one_device and a TPU"),
        ],
    )
    def test_settings(self, fails, settings, message):
        fails(says=message, **settings)

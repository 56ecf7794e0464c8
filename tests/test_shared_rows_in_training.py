"""``--pack_examples``: updates are those of rows of their own, and runs as a user gives them."""

import contextlib
import dataclasses
import io
import json
import logging

import numpy as np
import pytest
import tensorflow as tf

from bert_tf import training
from bert_tf.answer_spans import Span
from bert_tf.cli.main import main
from bert_tf.config import Classification, QuestionAnswering, Tagging
from bert_tf.input_pipeline import training_plan
from bert_tf.optimization import create_optimizer
from bert_tf.shared_rows import num_shares, share_rows
from bert_tf.tasks.answer_finder import AnswerFinder
from bert_tf.tasks.text_classifier import TextClassifier
from bert_tf.tasks.word_tagger import WordTagger
from bert_tf.tokenization import FullTokenizer
from bert_tf.training import MODEL_INPUTS, TrainStep

S = 40  # max_seq_length
WORDS = ["good", "bad", "film", "story", "the", "a", "city", "music", "war", "love", "of", "in"]


@pytest.fixture(scope="module")
def world(original_tiny, testdata):
    """A configuration without dropout, and a tokenizer."""
    config = dataclasses.replace(
        original_tiny[0], hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    return config, FullTokenizer(str(testdata / "original_tiny" / "vocab.txt"), do_lower_case=True)


def texts(n, seed, longest=11):
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(1, longest))) for _ in range(n)]


def text_classifier(world, task_type):
    config, tokenizer = world
    labels = () if task_type == "regression" else ("no", "perhaps", "yes")
    settings = Classification(do_train=True, output_dir="out", max_seq_length=S)
    learner = TextClassifier(settings, config, tokenizer, labels, task_type)
    random = np.random.default_rng(7)
    label_ids = {
        "single_label": random.integers(0, 3, 30).astype(np.int32),
        "multi_label": random.integers(0, 2, (30, 3)).astype(np.float32),
        "regression": random.normal(size=30).astype(np.float32),
    }[task_type]
    return learner, learner.features(texts(30, 1), texts(30, 2, longest=6), label_ids)


def word_tagger(world, crf):
    config, tokenizer = world
    settings = Tagging(do_train=True, output_dir="out", max_seq_length=S, crf=crf)
    labels = ("B-X", "I-X", "O")
    learner = WordTagger(settings, config, tokenizer, labels)
    random = np.random.default_rng(8)
    if crf:  # they are zeros at first
        for part in learner.model.crf.parts.values():
            part.assign(random.normal(size=part.shape))
    # One sentence is longer than a row, so that it is two.
    sentences = [text.split() for text in [*texts(30, 3), " ".join(WORDS * 4)]]
    windows = learner.windows(sentences, np.arange(31))
    tags = []
    for sentence in sentences:  # I-X only inside of an entity, as the tag scheme wants it
        for i in range(len(sentence)):
            may_go_on = i > 0 and tags[-1] != 2
            tags.append(int(random.choice([0, 1, 2] if may_go_on else [0, 2])))
    return learner, learner.features(windows, np.array(tags, np.int32))


def answer_finder(world):
    config, tokenizer = world
    settings = QuestionAnswering(
        do_train=True, train_file="questions", output_dir="out",
        max_seq_length=S, max_query_length=6, doc_stride=12,
    )  # fmt: skip
    learner = AnswerFinder(settings, config, tokenizer)
    # Four contexts are several rows, of which some have no answer.
    contexts = [*texts(20, 9, longest=12), *(" ".join(WORDS * 4) for _ in range(4))]
    asked = learner.ask(texts(24, 10, longest=5), contexts, range(24))
    random = np.random.default_rng(11)
    spans = []
    for context in asked.contexts:
        first = int(random.integers(len(context.ids)))
        spans.append(Span(first, int(random.integers(first, len(context.ids)))))
    spans[3] = None
    return learner, learner.features(asked, spans)


def loss_and_gradients(learner, batch):
    with tf.GradientTape() as tape:
        inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
        outputs = learner.model(inputs, training=True, dropout_seed=tf.constant([1, 2]))
        (term,) = learner.loss.terms(outputs, batch).values()
        loss = term.total / term.weight
    (weight,) = learner.loss.weights(batch).values()
    assert float(weight) == float(term.weight)
    variables = [variable.value for variable in learner.model.trainable_variables]
    gradients = tape.gradient(loss, variables, unconnected_gradients="zero")
    return float(loss), [tf.convert_to_tensor(gradient).numpy() for gradient in gradients]


LEARNERS = {
    "single_label": lambda world: text_classifier(world, "single_label"),
    "multi_label": lambda world: text_classifier(world, "multi_label"),
    "regression": lambda world: text_classifier(world, "regression"),
    "tagger": lambda world: word_tagger(world, crf=False),
    "tagger with CRF": lambda world: word_tagger(world, crf=True),
    "answer finder": answer_finder,
}


@pytest.mark.parametrize("kind", LEARNERS)
def test_loss_and_gradients_are_those_of_rows_of_their_own(world, kind):
    learner, features = LEARNERS[kind](world)
    plan = training_plan(features.lengths, 9, 2, seed=4, is_spread=True)
    rows = share_rows(plan, features.lengths, S, multiple=4)
    assert rows.shape[1] < 9
    assert rows.shape[2] > 2
    assert (rows < 0).all(axis=2).any()  # there is a row with nothing in it
    for alone, shared in zip(
        learner.batches(features, plan), learner.batches(features, rows), strict=True
    ):
        assert shared["input_ids"].shape == (rows.shape[1], S)
        assert int(tf.reduce_sum(shared["input_mask"])) == int(tf.reduce_sum(alone["input_mask"]))
        expected, goals = loss_and_gradients(learner, alone)
        found, gradients = loss_and_gradients(learner, shared)
        assert found == pytest.approx(expected, rel=1e-5)
        for gradient, goal in zip(gradients, goals, strict=True):
            np.testing.assert_allclose(gradient, goal, rtol=0, atol=1e-5 * max(1, abs(goal).max()))
        assert sum(abs(goal).max() > 1e-4 for goal in goals) > 20


def test_all_shapes_are_known(world):
    learner, features = LEARNERS["tagger"](world)
    plan = training_plan(features.lengths, 9, 3, seed=4, is_spread=True)
    rows = share_rows(plan, features.lengths, S)
    for spec in learner.batches(features, rows).element_spec.values():
        assert spec.shape.is_fully_defined()


def test_micro_batches_of_rows_give_the_update_of_the_whole_batch(world):
    learner, features = LEARNERS["single_label"](world)
    plan = training_plan(features.lengths, 12, 2, seed=4, is_spread=True)
    initial = learner.model.get_weights()
    found = []
    for micro_batch_size in (None, 4):
        shares = num_shares(12, micro_batch_size, 1)
        rows = share_rows(plan, features.lengths, S, shares)
        assert rows.shape[1] % shares == 0
        learner.model.set_weights(initial)
        step = TrainStep(
            learner.model,
            create_optimizer(1e-3, 5, 0),
            learner.loss,
            3,
            micro_batch_size=micro_batch_size and rows.shape[1] // shares,
        )
        values = [step(batch) for batch in learner.batches(features, rows)]
        found.append([float(value[name]) for value in values for name in ("loss", "grad_norm")])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


# --- as a user runs it --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Texts with a word that tells the label, and sentences with words that are entities."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "tags").mkdir()
    entities = ("good", "bad", "war", "love")
    for split, size in (("train", 61), ("dev", 23)):
        lines, sentences = ["text\tlabel"], []
        for number, text in enumerate(texts(size, size)):
            words = text.split()
            told = ("great", "dead")[number % 2]
            others = " ".join(word for word in words[:4] if word not in entities)
            lines.append(f"{told} {told} {others} {told}\t{('pos', 'neg')[number % 2]}")
            sentences += [f"{word} {'B-X' if word in entities else 'O'}" for word in words] + [""]
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
        (folder / "tags" / f"{split}.txt").write_text("\n".join(sentences) + "\n")
    return folder


@pytest.fixture(scope="module")
def flags(testdata, data_dir):
    folder = testdata / "original_tiny"
    return [
        f"--vocab_file={folder / 'vocab.txt'}",
        f"--bert_config_file={folder / 'bert_config.json'}",
        f"--init_checkpoint={folder / 'model.ckpt-300'}",
        *("--max_seq_length=32", "--train_batch_size=10", "--num_train_epochs=2", "--log_steps=1"),
        *("--learning_rate=1e-3", "--bias_correction", "--pack_examples", f"--data_dir={data_dir}"),
    ]


def run(*arguments):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = main([str(argument) for argument in arguments])
    assert status == 0
    return json.loads(printed.getvalue() or "{}")


def weights(folder):
    reader = tf.train.load_checkpoint(str(folder / "bert_model.ckpt"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def read_log(folder):
    lines = (folder / "train_log.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if not k.endswith("per_second")}
        for line in lines
    ]


class CutOff(Exception):
    """In the place of a power cut."""


def test_a_run_learns_and_goes_on_bit_for_bit_where_it_was_cut_off(
    flags, tmp_path, monkeypatch, caplog
):
    caplog.set_level(logging.INFO, "bert_tf")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    command = ["run_classifier", "--do_train", "--do_eval", "--save_checkpoints_steps=25", *flags]
    command.append("--num_train_epochs=17")
    results = run(*command, f"--output_dir={whole}")
    assert results["global_step"] == 103
    assert results["eval_accuracy"] > 0.8
    assert "the 10 examples of a step share" in caplog.text
    log = read_log(whole)
    assert [line["step"] for line in log] == list(range(1, 104))
    assert log[-1]["loss"] < log[0]["loss"]

    ask = training.TrainLog.__call__

    def cut_off(self, step, *arguments):
        if step > 60:
            raise CutOff
        return ask(self, step, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training.TrainLog, "__call__", cut_off)
        with pytest.raises(CutOff):
            run(*command, f"--output_dir={cut}")
    assert run(*command, f"--output_dir={cut}") == results
    assert "resuming at step 50 of 103" in caplog.text
    assert read_log(cut) == log
    expected = weights(whole)
    for name, value in weights(cut).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_a_tagger_with_a_crf_learns_in_micro_batches(flags, data_dir, tmp_path):
    flags = [*flags, f"--data_dir={data_dir / 'tags'}", "--num_train_epochs=14"]
    flags.append("--micro_batch_size=5")
    results = run(
        "run_tagger", "--do_train", "--do_eval", "--crf", *flags, f"--output_dir={tmp_path / 'out'}"
    )
    assert results["eval_f1"] > 0.8


def test_what_cannot_share_rows_is_refused(flags, tmp_path, capsys):
    flags = [*flags, f"--output_dir={tmp_path / 'out'}", "--do_train"]
    for command, *more in (
        ("run_multiple_choice",),
        ("run_classifier", "--long_text=windows"),
    ):
        assert main([command, *flags, *more]) == 2
        assert "--pack_examples: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

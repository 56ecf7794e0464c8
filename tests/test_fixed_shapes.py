"""Evaluation in batches of one shape, as a TPU takes them, equals that in batches as they come."""

import dataclasses

import keras
import numpy as np
import pytest

from bert_tf.config import Classification, MultipleChoice, QuestionAnswering, Tagging
from bert_tf.losses import Loss
from bert_tf.tasks.answer_finder import AnswerFinder
from bert_tf.tasks.choice_data import Question
from bert_tf.tasks.choice_scorer import ChoiceScorer
from bert_tf.tasks.feature_runner import FeatureRunner
from bert_tf.tasks.text_classifier import TextClassifier
from bert_tf.tasks.word_tagger import WordTagger
from bert_tf.tokenization import FullTokenizer

S = 24  # max_seq_length
BATCH_SIZE = 5
TEXTS = ["good film", "bad", "the story of a city", "war", "love and death", "music of the war"]
LABELS = {
    "single_label": np.array([0, 1, 2, 0, 1, 2], np.int32),
    "multi_label": np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]],
    "regression": np.arange(6, dtype=np.float32),
}


def classifier(config, tokenizer, task_type):
    labels = () if task_type == "regression" else ("a", "b", "c")
    settings = Classification(do_train=True, output_dir="-", max_seq_length=S)
    learner = TextClassifier(settings, config, tokenizer, labels, task_type)
    return settings, learner, learner.features(TEXTS, None, LABELS[task_type])


def tagger(config, tokenizer, crf):
    settings = Tagging(do_train=True, output_dir="-", max_seq_length=S, crf=crf)
    learner = WordTagger(settings, config, tokenizer, ("B-X", "I-X", "O"))
    for part in learner.model.crf.parts.values() if crf else ():  # they are zeros at first
        part.assign(np.random.default_rng(4).normal(size=part.shape))
    words = [text.split() for text in TEXTS]
    tags = np.array([2 * (i % 2) for i in range(sum(map(len, words)))], np.int32)
    return settings, learner, learner.features(learner.windows(words, np.arange(6)), tags)


def answers(config, tokenizer):
    settings = QuestionAnswering(
        do_train=True,
        train_file="-",
        output_dir="-",
        max_seq_length=S,
        max_query_length=8,
        doc_stride=4,
    )
    learner = AnswerFinder(settings, config, tokenizer)
    asked = learner.ask(["good", "bad"], [" ".join(TEXTS * 3)], [0, 0])
    spans = [asked.context_of(0).span(0, 9), None]
    return settings, learner, learner.features(asked, spans)


def choices(config, tokenizer):
    settings = MultipleChoice(do_train=True, output_dir="-", max_seq_length=S)
    learner = ChoiceScorer(settings, config, tokenizer)
    questions = [
        Question(text, ["good", "bad", "war"][: 2 + i % 2]) for i, text in enumerate(TEXTS)
    ]
    return settings, learner, learner.features(questions, np.array([0, 1, 0, 1, 0, 2], np.int32))


LEARNERS = {
    **{kind: lambda *world, kind=kind: classifier(*world, kind) for kind in LABELS},
    "tagger": lambda *world: tagger(*world, crf=False),
    "tagger with CRF": lambda *world: tagger(*world, crf=True),
    "answers": answers,
    "choices": choices,
}


@pytest.mark.parametrize("kind", LEARNERS)
def test_evaluation_in_batches_of_one_shape(original_tiny, testdata, kind):
    config = dataclasses.replace(original_tiny[0], initializer_range=0.3)
    tokenizer = FullTokenizer(testdata / "original_tiny" / "vocab.txt", do_lower_case=True)
    keras.utils.set_random_seed(5)
    settings, learner, features = LEARNERS[kind](config, tokenizer)
    assert len(features) % BATCH_SIZE  # else there is nothing to fill up
    shapes = []

    def terms(outputs, batch):
        shapes.append(batch["input_ids"].shape.as_list())
        return learner.loss.terms(outputs, batch)

    loss = Loss(terms, learner.loss.weights)
    expected = FeatureRunner(settings, learner.model, loss)(features, BATCH_SIZE)
    assert None in shapes.pop()
    fixed = dataclasses.replace(settings, fixed_length=True)
    found = FeatureRunner(fixed, learner.model, loss)(features, BATCH_SIZE)
    [shape] = shapes
    assert shape[0] == BATCH_SIZE and None not in shape
    assert found.losses == pytest.approx(expected.losses, rel=1e-5)
    for one, other, length in zip(found.outputs, expected.outputs, features.lengths, strict=True):
        size = min(len(other), length)
        np.testing.assert_allclose(one[:size], other[:size], rtol=0, atol=1e-5)

"""Tests of bert_tf.tasks.squad_data: what a file holds, and what is wrong with it."""

import copy
import json

import pytest

from bert_tf.errors import InputError
from bert_tf.tasks.squad_data import read_questions

CONTEXT = "The cat sat. The dog ran."
FILE = {
    "version": "2.0",
    "data": [
        {
            "title": "animals",
            "paragraphs": [
                {
                    "context": CONTEXT,
                    "qas": [
                        {
                            "id": "a",
                            "question": "Who sat?",
                            "answers": [{"text": "cat", "answer_start": 4}],
                        },
                        {
                            "id": 7,
                            "question": "Who flew?",
                            "is_impossible": True,
                            "answers": [],
                            "plausible_answers": [{"text": "dog", "answer_start": 17}],
                        },
                    ],
                },
                {"context": "Nothing.", "qas": []},
                {"context": "x y", "qas": [{"id": "c", "question": "?", "answers": []}]},
            ],
        }
    ],
}


def write(tmp_path, change=None):
    content = copy.deepcopy(FILE)
    paragraphs = content["data"][0]["paragraphs"]
    if change is not None:
        change(paragraphs)
    path = tmp_path / "train.json"
    path.write_text(json.dumps(content, indent=1))
    return path


def without_c(paragraphs):
    del paragraphs[2]


def test_questions_and_each_context_once(tmp_path):
    found = read_questions(write(tmp_path), for_training=False)
    assert found.contexts == [CONTEXT, "Nothing.", "x y"]
    assert [(q.id, q.text, q.context, q.is_impossible) for q in found.questions] == [
        ("a", "Who sat?", 0, False),
        ("7", "Who flew?", 0, True),
        ("c", "?", 2, False),
    ]
    assert [q.answers for q in found.questions] == [(("cat", 4),), (), ()]


def test_a_file_to_predict_needs_no_answers(tmp_path):
    def drop(paragraphs):
        del paragraphs[0]["qas"][0]["answers"]

    assert read_questions(write(tmp_path, drop), for_training=False).questions[0].answers == ()


@pytest.mark.parametrize(("said", "start"), [(0, 0), (5, 0), (9, 13), (99, 13), (-3, 0)])
def test_an_answer_at_the_wrong_place_is_looked_for_nearby(tmp_path, caplog, said, start):
    def move(paragraphs):
        without_c(paragraphs)
        paragraphs[0]["qas"][0]["answers"] = [{"text": "The", "answer_start": said}]

    found = read_questions(write(tmp_path, move), for_training=True)
    assert found.questions[0].answers == (("The", start),)
    assert ("1 answers are not where the file says" in caplog.text) == (said != start)
    assert len(found.questions) == 2


def test_an_answer_that_is_nowhere_is_counted_and_left_out_of_training(tmp_path, caplog):
    def lose(paragraphs):
        without_c(paragraphs)
        paragraphs[0]["qas"][0]["answers"][0]["text"] = "bird"

    path = write(tmp_path, lose)
    assert [q.id for q in read_questions(path, for_training=True).questions] == ["7"]
    assert "1 answers are nowhere in their context; left out: a" in caplog.text
    # As a right answer to compare with, its place does not matter.
    assert read_questions(path, for_training=False).questions[0].answers == (("bird", 4),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p[0].pop("context"), "data[0].paragraphs[0] must have 'context', a string"),
        (lambda p: p[0].pop("qas"), "data[0].paragraphs[0] must have 'qas', a list"),
        (lambda p: p[0]["qas"][1].pop("id"), "qas[1] must have 'id', a string or a number"),
        (
            lambda p: p[0]["qas"][0]["answers"].append(3),
            "qas[0].answers[1] must have 'text', a string, as in the files of SQuAD, but there",
        ),
        (
            lambda p: p[0]["qas"][0]["answers"][0].update(answer_start="4"),
            "answers[0] must have 'answer_start', a number",
        ),
        (
            lambda p: p[0]["qas"][1].update(id="a"),
            "the id 'a' is that of data[0].paragraphs[0].qas[0]",
        ),
        (
            lambda p: None,
            "paragraphs[2].qas[0] (id c): for training, a question must have one answer",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path, change, message):
    path = write(tmp_path, change)
    with pytest.raises(InputError) as error:
        read_questions(path, for_training=True)
    assert message in str(error.value)
    assert str(error.value).startswith(str(path))


def test_files_that_are_no_such_file(tmp_path):
    path = tmp_path / "a.json"
    for text, message in (
        ('{"data": [\n3', "a.json:2: not JSON"),
        ("[" * 100_000, "a.json: cannot be read as JSON: maximum recursion depth exceeded"),
        ("1" * 5000, "a.json: cannot be read as JSON: Exceeds the limit"),
        ("[]", "a.json: the file must have 'data', a list"),
        ('{"data": []}', "a.json: there are no questions in it"),
    ):
        path.write_text(text)
        with pytest.raises(InputError) as error:
            read_questions(path, for_training=False)
        assert message in str(error.value)
    with pytest.raises(InputError, match="cannot be read"):
        read_questions(tmp_path / "b.json", for_training=False)

"""Tests of bert_tf.tasks.choice_data: files of questions, and what is wrong with them."""

import json

import numpy as np
import pytest

from bert_tf.errors import InputError
from bert_tf.tasks.choice_data import read_questions, split_names

# The columns of SWAG's files, of which the first has no name.
SWAG = """\
,video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3,label
0,v_1,7,"A man, still. He","A man, still.",He,gold,gets up.,"says ""no"".",is a car.,flies.,1
1,v_2,8,It rains. Then,It rains.,Then,gen,stops.,it stops.,rain.,x,3
"""
SWAG_TEXTS = [
    ("A man, still.", ["He gets up.", 'He says "no".', "He is a car.", "He flies."]),
    ("It rains.", ["Then stops.", "Then it stops.", "Then rain.", "Then x"]),
]
ITEM = {"context": "The sky.", "question": "What colour?", "choices": ["Red", "Blue"], "label": 1}


def write(path, text):
    path.write_text(text)
    return path


def test_the_files_of_swag(tmp_path):
    found = read_questions(write(tmp_path / "val.csv", SWAG))
    assert found.items == SWAG_TEXTS
    assert found.labels.tolist() == [1, 3]
    assert found.labels.dtype == np.int32


def test_columns_go_by_their_names(tmp_path):
    rows = [line.split(",") for line in ["ending1,9,label,sent2,ending0,sent1", "b,x,0,,a,A."]]
    table = "\n".join("\t".join(row) for row in rows)
    found = read_questions(write(tmp_path / "a.tsv", table))
    assert (found.items, found.labels.tolist()) == ([("A.", ["a", "b"])], [0])


def test_jsonl_with_and_without_a_question(tmp_path):
    items = [ITEM, {"label": 0, "choices": ["It is.", "It was."], "context": "So"}]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, items)))
    found = read_questions(path)
    assert found.items == [
        ("The sky.", ["What colour? Red", "What colour? Blue"]),
        ("So", ["It is.", "It was."]),
    ]
    assert found.labels.tolist() == [1, 0]


def test_a_file_to_predict_needs_no_labels(tmp_path):
    rows = [line.rpartition(",")[0] for line in SWAG.splitlines()]
    path = write(tmp_path / "test.csv", "\n".join(rows))
    found = read_questions(path, with_labels=False)
    assert (found.items, found.labels) == (SWAG_TEXTS, None)
    with pytest.raises(InputError, match=r"test.csv:2: there is no column 'label'"):
        read_questions(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context": " "}, "the context is empty"),
        ({"context": None}, "column 'context' has to be a string, but is null"),
        ({"question": 3}, "column 'question' has to be a string, but is 3"),
        ({"choices": ["Red", ""]}, "choice 1 (from 0) is empty"),
        ({"choices": ["Red"]}, "a question needs at least 2 choices, but this one has 1"),
        ({"choices": ["Red", 2]}, """'choices' has to be a list of strings, but is ["Red", 2]"""),
        ({"choices": "Red"}, """'choices' has to be a list of strings, but is "Red\""""),
        ({"choices": ["a", "b", "c"]}, "3 choices, but line 2 has 2"),
        ({"label": 2}, "the label has to be the number of the right choice, 0 to 1, but is 2"),
        ({"label": -1}, "but is -1"),
        ({"label": True}, "but is true"),
        ({"label": 1.0}, "but is 1.0"),
        ({"label": "Blue"}, """but is "Blue\""""),
    ],
)
def test_what_is_wrong_with_a_line_of_json_is_named(tmp_path, changes, message):
    path = write(tmp_path / "a.jsonl", f"\n{json.dumps(ITEM)}\n{json.dumps(ITEM | changes)}\n")
    with pytest.raises(InputError) as error:
        read_questions(path)
    assert str(error.value).startswith(f"{path}:3: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ending1", "end1", "a.csv:2: there is no column 'ending1'"),
        ("ending", "distractor-", "a.csv:2: there is no column 'ending0'"),
        ("sent1", "ctx", "a.csv:2: there is no column 'sent1'"),
        ("sent2", "ctx", "a.csv:2: there is no column 'sent2'"),
        ("is a car.", "", "a.csv:2: choice 2 (from 0) is empty"),
        ("It rains.,Then,", ",Then,", "a.csv:3: the context is empty"),
        (",3\n", ",4\n", "a.csv:3: the label has to be the number of the right choice, 0 to 3"),
        (",3\n", ",\n", "a.csv:3: the label has to be the number of the right choice"),
        (",3\n", "\n", "a.csv:3: the row has 11 columns, but line 1 has 12"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(tmp_path, old, new, message):
    path = write(tmp_path / "a.csv", SWAG.replace(old, new))
    with pytest.raises(InputError) as error:
        read_questions(path)
    assert message in str(error.value)


def test_dev_may_be_called_val_as_swag_does():
    assert split_names("train") == ["train.csv", "train.jsonl"]
    assert split_names("dev") == ["dev.csv", "dev.jsonl", "val.csv", "val.jsonl"]

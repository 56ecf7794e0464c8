"""Tests of bert_tf.tagged_text: what each format holds, and what is wrong with a file."""

import json

import pytest

from bert_tf.errors import InputError
from bert_tf.tagged_text import read_tagged_text, with_predictions

FOUR_COLUMNS = """-DOCSTART- -X- O O

EU NNP I-NP I-ORG
rejects VBZ I-VP O

# 1 more comment of 6 columns
a\u00a0b CD I-NP O


-DOCSTART- -X- O O

Peter NNP I-NP I-PER
"""
TABS = "#tag\tO\n\tO\nNew York\tB-LOC\n\n# a comment\n#\tO\n"
CONLLU = """# newdoc id = 1
# text = I can't
1	I	I	PRON	PRP	_	0	root	_	_
2-3	can't	_	_	_	_	_	_	_	_
2	ca	can	AUX	MD	_	1	aux	_	SpaceAfter=No
3	n't	not	PART	RB	_	1	advmod	_	_
3.1	_	_	_	_	_	_	_	_	_

# text = Yes
1	Yes	yes	INTJ	UH	_	0	root	_	_

# newdoc id = 2
1	.	.	PUNCT	.	_	0	root	_	_
"""


def write(path, text):
    path.write_bytes(text.encode())
    return path


def read(path, *args, **options):
    """(words, tags) of each sentence, and the documents."""
    found = read_tagged_text(path, *args, **options)
    sentences = [([w.text for w in s], [w.tag for w in s]) for s in found.sentences]
    return sentences, found.documents.tolist()


def test_columns_between_spaces(tmp_path):
    path = write(tmp_path / "dev.txt", FOUR_COLUMNS)
    assert read(path) == (
        [
            (["EU", "rejects"], ["I-ORG", "O"]),
            (["a\u00a0b"], ["O"]),
            (["Peter"], ["I-PER"]),
        ],
        [0, 0, 1],
    )
    assert read(path, "1")[0][0] == (["EU", "rejects"], ["NNP", "VBZ"])
    assert [w.line for s in read_tagged_text(path).sentences for w in s] == [3, 4, 7, 12]


def test_columns_between_tabs_may_hold_spaces_or_nothing(tmp_path):
    path = write(tmp_path / "train.tsv", TABS)
    assert read(path) == (
        [(["#tag", "", "New York"], ["O", "O", "B-LOC"]), (["#"], ["O"])],
        [0, 0],
    )


def test_conllu(tmp_path):
    path = write(tmp_path / "train.conllu", CONLLU)
    assert read(path) == (
        [(["I", "ca", "n't"], ["PRON", "AUX", "PART"]), (["Yes"], ["INTJ"]), (["."], ["PUNCT"])],
        [0, 0, 1],
    )
    assert read(path, "xpos")[0][1] == (["Yes"], ["UH"])


def test_jsonl(tmp_path):
    rows = [
        {"tokens": ["A", ""], "tags": ["B-X", "O"], "document": 7},
        {"tokens": ["b"], "tags": ["O"], "document": 7},
        {"tokens": ["c"], "tags": ["O"]},
        {"tokens": ["d"], "tags": ["O"]},
    ]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    sentences, documents = read(path)
    assert sentences[0] == (["A", ""], ["B-X", "O"])
    assert documents == [0, 0, 1, 2]


def test_no_tags_are_needed_where_none_are_read(tmp_path):
    path = write(tmp_path / "test.txt", "EU\nrejects\n\nPeter\n")
    assert read(path, with_tags=False)[0] == [(["EU", "rejects"], ["", ""]), (["Peter"], [""])]
    path = write(tmp_path / "test.jsonl", '{"tokens": ["a"]}\n')
    assert read(path, with_tags=False)[0] == [(["a"], [""])]


def test_line_ends_and_a_missing_last_one_do_not_matter(tmp_path):
    path = write(tmp_path / "a.txt", "a O\r\n\r\nb O")
    assert read(path)[0] == [(["a"], ["O"]), (["b"], ["O"])]


@pytest.mark.parametrize(
    ("name", "text", "column", "message"),
    [
        ("a.txt", "a NN O\nb O\n", None, "a.txt:2: 2 columns, but line 1 has 3"),
        ("a.txt", "# c\na O\nb NN O\n", None, "a.txt:3: 3 columns, but line 2 has 2"),
        ("a.txt", "a\nb\n", None, "a.txt:1: expected a word and a tag"),
        ("a.txt", "a\tX\nNew York\n", None, "a.txt:2: 1 columns, but line 1 has 2"),
        ("a.txt", "a\tX\nNew York\n", None, "Columns stand between tabs in this file"),
        ("a.txt", "a X\nb\tX\n", None, "Columns stand between spaces in this file"),
        ("a.json", '{"tokens": ["a"], "tags": ["O"]}\n', None, "JSON object a line (.jsonl)"),
        (
            "a.conllu",
            CONLLU.replace("\n\n# text = Yes", ""),
            None,
            "a.conllu:8: expected word 4 of the sentence, but its number is 1",
        ),
        ("a.txt", "a O\n", "4", "a.txt:1: expected a column 4 with the tag"),
        ("a.txt", "a O\n", "ner", "--tag_column=ner: the columns of"),
        ("a.txt", "a O\n", "0", "--tag_column=0"),
        ("a.txt", "-DOCSTART- O\n\n\n", None, "a.txt: there are no words in it"),
        ("a.conllu", "1\ta\tO\n", None, "a.conllu:1: expected the 10 columns of CoNLL-U"),
        ("a.conllu", CONLLU.replace("1\tYes", "x\tYes"), None, "a.conllu:10: expected the 10"),
        (
            "a.conllu",
            "# text = a\n\n",
            None,
            "a.conllu:2: the sentence that ends here has no words",
        ),
        ("a.conllu", CONLLU, "ner", "--tag_column=ner"),
        ("a.jsonl", '{"tokens": [], "tags": []}\n', None, "a.jsonl:1: expected at least one token"),
        ("a.jsonl", '{"tokens": ["a"], "tags": []}\n', None, "1 tokens and 0 tags"),
        ("a.jsonl", '{"tokens": ["a"], "tags": "O"}\n', None, "a.jsonl:1: 'tags' must be a list"),
        ("a.jsonl", '{"tokens": ["a"]}\n', None, "a.jsonl:1: there is no column 'tags'"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path, name, text, column, message):
    path = write(tmp_path / name, text)
    with pytest.raises(InputError) as error:
        read_tagged_text(path, column)
    assert message in str(error.value)


def predicted(path, tags):
    return "".join(f"{line}\n" for line in with_predictions(path, tags))


def test_predictions_stand_beside_what_is_there(tmp_path):
    tags = [["B-ORG", "O"], ["B-X"], ["O"]]
    path = write(tmp_path / "dev.txt", FOUR_COLUMNS)
    expected = FOUR_COLUMNS.replace("I-ORG\n", "I-ORG B-ORG\n").replace("I-VP O\n", "I-VP O O\n")
    expected = expected.replace("CD I-NP O", "CD I-NP O B-X").replace("I-PER", "I-PER O")
    assert predicted(path, tags) == expected
    path = write(tmp_path / "train.tsv", TABS)
    assert predicted(path, [["A", "B", "C"], ["D"]]) == (
        "#tag\tO\tA\n\tO\tB\nNew York\tB-LOC\tC\n\n# a comment\n#\tO\tD\n"
    )
    path = write(tmp_path / "a.conllu", CONLLU)
    found = predicted(path, [["A", "B", "C"], ["D"], ["E"]])
    assert "SpaceAfter=No|Predicted=B\n" in found
    assert "\troot\t_\tPredicted=E\n" in found
    back = [line.replace("|Predicted=B", "") for line in found.splitlines()]
    back = [line[: line.index("Predicted")] + "_" if "Predicted" in line else line for line in back]
    assert "\n".join(back) + "\n" == CONLLU
    path = write(tmp_path / "a.jsonl", '{"id": 1, "tokens": ["\u00e4"]}\n')
    assert predicted(path, [["O"]]) == '{"id": 1, "tokens": ["\u00e4"], "predicted_tags": ["O"]}\n'


def test_as_many_predictions_as_words(tmp_path):
    path = write(tmp_path / "dev.txt", FOUR_COLUMNS)
    with pytest.raises((ValueError, RuntimeError)):
        predicted(path, [["O"]])

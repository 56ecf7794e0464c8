"""Tests of bert_tf.tasks.classification_data."""

import dataclasses
import json
import logging
import pathlib

import numpy as np
import pytest

from bert_tf.errors import InputError
from bert_tf.metrics import CLASSIFICATION_METRICS
from bert_tf.tasks.classification_data import (
    SPLITS,
    TASK_TYPES,
    Examples,
    custom_task,
    find_labels,
    find_split_files,
    read_examples,
    read_label_file,
)
from bert_tf.tasks.glue import TASKS, find_task

# Texts as the files of GLUE have them: quotes that nothing closes, characters that some readers
# take for the end of a line, blanks at the ends.
A = '"He said: ""No\u2028'
B = " it 's \x0cnot\x85 so \""
C = "Größe – 漢字\U0001f642 "


def table(*rows: str) -> str:
    """A TSV file; its rows are written here with " | " between the fields, and A, B, C for texts.

    Returns:
        The text of the file, with lines that end as on Windows.
    """
    texts = {"A": A, "B": B, "C": C}
    fields = [[texts.get(field, field) for field in row.split(" | ")] for row in rows]
    return "".join("\t".join(row) + "\r\n" for row in fields)


MNLI_HEAD = (
    "index | promptID | pairID | genre | sentence1_binary_parse | sentence2_binary_parse | "
    "sentence1_parse | sentence2_parse | sentence1 | sentence2"
)
MNLI_ROW = "7 | 31193 | 31193n | travel | ( ( A | ( B | (ROOT ( | (ROOT"
STSB_HEAD = "index | genre | filename | year | old_index | source1 | source2"
STSB_ROW = "0 | main-captions | MSRvid | 2012test | 0001 | none | none"
XNLI_HEAD = (
    "language | gold_label | sentence1_binary_parse | sentence2_binary_parse | sentence1_parse | "
    "sentence2_parse | sentence1 | sentence2 | promptID | pairID | genre | label1 | label2 | "
    "label3 | label4 | label5 | sentence1_tokenized | sentence2_tokenized | match"
)
XNLI_REST = "1 | 2 | face | neutral | neutral | neutral | neutral | neutral | x | y | True"

# For each task: its files in the layout of the distribution, and for each file the split and the
# part it is, its texts and its labels.
LAYOUTS = {
    "cola": {
        "train.tsv": (
            "train",
            "",
            table("gj04 | 1 |  | A", "cj99 | 0 | * | B", "gj04 | 1 |  | C"),
            [(A, None), (B, None), (C, None)],
            [1, 0, 1],
        ),
        "dev.tsv": ("dev", "", table("gj04 | 0 | * | C"), [(C, None)], [0]),
        "test.tsv": (
            "test",
            "",
            table("index | sentence", "0 | B", "1 | A"),
            [(B, None), (A, None)],
            None,
        ),
    },
    "sst-2": {
        "train.tsv": (
            "train",
            "",
            table("sentence | label", "A | 0", "B | 1", "C | 0"),
            [(A, None), (B, None), (C, None)],
            [0, 1, 0],
        ),
        "dev.tsv": ("dev", "", table("sentence | label", "C | 1"), [(C, None)], [1]),
        "test.tsv": ("test", "", table("index | sentence", "0 | A"), [(A, None)], None),
    },
    "mrpc": {
        "train.tsv": (
            "train",
            "",
            "\ufeff"
            + table(
                "Quality | #1 ID | #2 ID | #1 String | #2 String",
                "1 | 702876 | 702977 | A | B",
                "0 | 2108705 | 2108831 | C | A",
            ),
            [(A, B), (C, A)],
            [1, 0],
        ),
        "dev.tsv": (
            "dev",
            "",
            table("Quality | #1 ID | #2 ID | #1 String | #2 String", "0 | 1 | 2 | B | C"),
            [(B, C)],
            [0],
        ),
        "test.tsv": (
            "test",
            "",
            table("index | #1 ID | #2 ID | #1 String | #2 String", "0 | 1 | 2 | C | B"),
            [(C, B)],
            None,
        ),
    },
    "sts-b": {
        "train.tsv": (
            "train",
            "",
            table(
                f"{STSB_HEAD} | sentence1 | sentence2 | score",
                f"{STSB_ROW} | A | B | 5.000",
                f"{STSB_ROW} | B | C | 0.0",
                f"{STSB_ROW} | C | A | 3.25",
            ),
            [(A, B), (B, C), (C, A)],
            [5.0, 0.0, 3.25],
        ),
        "dev.tsv": (
            "dev",
            "",
            table(f"{STSB_HEAD} | sentence1 | sentence2 | score", f"{STSB_ROW} | C | C | 1.2"),
            [(C, C)],
            [1.2],
        ),
        "test.tsv": (
            "test",
            "",
            table(f"{STSB_HEAD} | sentence1 | sentence2", f"{STSB_ROW} | B | A"),
            [(B, A)],
            None,
        ),
    },
    "qqp": {
        "train.tsv": (
            "train",
            "",
            table(
                "id | qid1 | qid2 | question1 | question2 | is_duplicate",
                "133273 | 213221 | 213222 | A | B | 0",
                "402555 | 536040 | 536041 |  | C | 1",
            ),
            [(A, B), ("", C)],
            [0, 1],
        ),
        "dev.tsv": (
            "dev",
            "",
            table(
                "id | qid1 | qid2 | question1 | question2 | is_duplicate", "1 | 2 | 3 | C | A | 1"
            ),
            [(C, A)],
            [1],
        ),
        "test.tsv": (
            "test",
            "",
            table("id | question1 | question2", "0 | B | C"),
            [(B, C)],
            None,
        ),
    },
    "mnli": {
        "train.tsv": (
            "train",
            "",
            table(
                f"{MNLI_HEAD} | label1 | gold_label",
                f"{MNLI_ROW} | A | B | neutral | neutral",
                f"{MNLI_ROW} | B | C | entailment | entailment",
                f"{MNLI_ROW} | C | A | contradiction | contradiction",
            ),
            [(A, B), (B, C), (C, A)],
            [2, 1, 0],
        ),
        "dev_matched.tsv": (
            "dev",
            "",
            table(
                f"{MNLI_HEAD} | label1 | label2 | label3 | label4 | label5 | gold_label",
                f"{MNLI_ROW} | A | C | neutral | entailment | x | y | z | neutral",
            ),
            [(A, C)],
            [2],
        ),
        "dev_mismatched.tsv": (
            "dev",
            "mismatched",
            table(
                f"{MNLI_HEAD} | label1 | label2 | label3 | label4 | label5 | gold_label",
                f"{MNLI_ROW} | B | A | neutral | neutral | x | y | z | entailment",
            ),
            [(B, A)],
            [1],
        ),
        "test_matched.tsv": (
            "test",
            "",
            table(MNLI_HEAD, f"{MNLI_ROW} | C | B"),
            [(C, B)],
            None,
        ),
        "test_mismatched.tsv": (
            "test",
            "mismatched",
            table(MNLI_HEAD, f"{MNLI_ROW} | A | A"),
            [(A, A)],
            None,
        ),
    },
    "qnli": {
        "train.tsv": (
            "train",
            "",
            table(
                "index | question | sentence | label",
                "0 | A | B | entailment",
                "1 | B | C | not_entailment",
            ),
            [(A, B), (B, C)],
            [0, 1],
        ),
        "dev.tsv": (
            "dev",
            "",
            table("index | question | sentence | label", "0 | C | B | not_entailment"),
            [(C, B)],
            [1],
        ),
        "test.tsv": ("test", "", table("index | question | sentence", "0 | A | C"), [(A, C)], None),
    },
    "rte": {
        "train.tsv": (
            "train",
            "",
            table(
                "index | sentence1 | sentence2 | label",
                "0 | A | B | not_entailment",
                "1 | B | C | entailment",
            ),
            [(A, B), (B, C)],
            [1, 0],
        ),
        "dev.tsv": (
            "dev",
            "",
            table("index | sentence1 | sentence2 | label", "0 | C | B | entailment"),
            [(C, B)],
            [0],
        ),
        "test.tsv": (
            "test",
            "",
            table("index | sentence1 | sentence2", "0 | A | C"),
            [(A, C)],
            None,
        ),
    },
    "wnli": {
        "train.tsv": (
            "train",
            "",
            table("index | sentence1 | sentence2 | label", "0 | A | B | 1", "1 | B | C | 0"),
            [(A, B), (B, C)],
            [1, 0],
        ),
        "dev.tsv": (
            "dev",
            "",
            table("index | sentence1 | sentence2 | label", "0 | C | B | 0"),
            [(C, B)],
            [0],
        ),
        "test.tsv": (
            "test",
            "",
            table("index | sentence1 | sentence2", "0 | A | C"),
            [(A, C)],
            None,
        ),
    },
    "ax": {
        "diagnostic.tsv": (
            "test",
            "",
            table("index | sentence1 | sentence2", "0 | A | C", "1 | C | A"),
            [(A, C), (C, A)],
            None,
        ),
    },
    "xnli": {
        "multinli/multinli.train.zh.tsv": (
            "train",
            "",
            table("premise | hypo | label", "A | B | contradictory", "C | A | neutral"),
            [(A, B), (C, A)],
            [0, 2],
        ),
        "xnli.dev.tsv": (
            "dev",
            "",
            table(
                XNLI_HEAD,
                f"ar | neutral |  |  |  |  | B | A | {XNLI_REST}",
                f"zh | contradiction |  |  |  |  | A | C | {XNLI_REST}",
                f"de | whatever |  |  |  |  | B | A | {XNLI_REST}",
                f"zh | entailment |  |  |  |  | C | B | {XNLI_REST}",
            ),
            [(A, C), (C, B)],
            [0, 1],
        ),
        "xnli.test.tsv": (
            "test",
            "",
            table(XNLI_HEAD, f"zh | neutral |  |  |  |  | B | A | {XNLI_REST}"),
            [(B, A)],
            [2],
        ),
    },
    "goemotions": {
        "train.tsv": (
            "train",
            "",
            table("A | 2 | eebbqej", "B | 0,4 | ed00q6i", "C | 3 | eezlygj"),
            [(A, None), (B, None), (C, None)],
            [[0, 0, 1, 0, 0], [1, 0, 0, 0, 1], [0, 0, 0, 1, 0]],
        ),
        "dev.tsv": ("dev", "", table("C | 1,2,3 | x"), [(C, None)], [[0, 1, 1, 1, 0]]),
        "test.tsv": ("test", "", table("B | 4 | y"), [(B, None)], [[0, 0, 0, 0, 1]]),
    },
    "sick": {
        "train.tsv": (
            "train",
            "",
            table(
                "pair_ID | sentence_A | sentence_B | relatedness_score | entailment_judgment",
                "1 | A | B | 4.5 | NEUTRAL",
                "2 | B | C | 1 | CONTRADICTION",
            ),
            [(A, B), (B, C)],
            [4.5, 1.0],
        ),
        "dev.tsv": (
            "dev",
            "",
            table(
                "pair_ID | sentence_A | sentence_B | relatedness_score | entailment_judgment",
                "4 | C | A | 3.615 | ENTAILMENT",
            ),
            [(C, A)],
            [3.615],
        ),
    },
}
# The same files, with another column for the label.
LAYOUTS["sick_entailment"] = {
    name: (*LAYOUTS["sick"][name][:4], labels)
    for name, labels in {"train.tsv": [2, 0], "dev.tsv": [1]}.items()
}


def write(folder: pathlib.Path, name: str, text: str) -> pathlib.Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def texts(examples: Examples) -> list[tuple[str, str | None]]:
    text_b = examples.text_b if examples.text_b is not None else [None] * len(examples)
    return list(zip(examples.text_a, text_b, strict=True))


def check_labels(labels: np.ndarray | None, expected: list | None, task_type: str) -> None:
    if expected is None:
        assert labels is None
        return
    assert labels.dtype == (np.int32 if task_type == "single_label" else np.float32)
    np.testing.assert_array_equal(labels, np.array(expected, labels.dtype))


def test_every_task_is_tested():
    assert set(LAYOUTS) == {task.name for task in TASKS.values()}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_of_the_distribution(tmp_path, name):
    task = TASKS[name]
    for file_name, (_, _, text, _, _) in LAYOUTS[name].items():
        write(tmp_path, file_name, text)
    write(tmp_path, "labels.txt", "joy\r\nfear\nanger\nlove\ngrief\n")
    found = {
        (split, part): path
        for split in {split for split, *_ in LAYOUTS[name].values()}
        for part, path in find_split_files(task, tmp_path, split).items()
    }
    assert len(found) == len(LAYOUTS[name])
    train_file = found.get(("train", ""))
    labels = find_labels(task, tmp_path, train_file)
    for file_name, (split, part, _, expected_texts, expected_labels) in LAYOUTS[name].items():
        path = found[split, part]
        assert path == tmp_path / file_name
        labelled = expected_labels is not None
        examples = read_examples(task, path, labels, split=split, with_labels=labelled)
        assert texts(examples) == expected_texts
        assert len(examples) == len(examples.lines) == len(expected_texts)
        check_labels(examples.labels, expected_labels, task.task_type)
        # Labels are not looked at when they are not wanted.
        assert read_examples(task, path, labels, split=split, with_labels=False).labels is None
        if not labelled:
            with pytest.raises(InputError, match=f"The test files of task {name} have no labels"):
                read_examples(task, path, labels, split=split)


def test_lines_of_examples_are_those_of_the_file(tmp_path):
    path = write(tmp_path, "xnli.dev.tsv", LAYOUTS["xnli"]["xnli.dev.tsv"][2])
    task = TASKS["xnli"]
    examples = read_examples(task, path, task.labels, split="dev")
    assert (examples.path, examples.lines) == (path, [3, 5])


def test_label_order_is_the_originals():
    # run_classifier.py, get_labels of each processor.
    assert TASKS["mnli"].labels == ("contradiction", "entailment", "neutral")
    assert TASKS["xnli"].labels == TASKS["ax"].labels == TASKS["mnli"].labels
    assert TASKS["cola"].labels == TASKS["mrpc"].labels == ("0", "1")


def test_settings_of_tasks():
    assert TASKS["sst2"] is TASKS["sst-2"] and TASKS["stsb"] is TASKS["sts-b"]
    for task in TASKS.values():
        assert task.task_type in TASK_TYPES
        assert set(task.files) == set(task.layouts) <= set(SPLITS)
        assert set(task.metrics) <= set(CLASSIFICATION_METRICS[task.task_type])
    # The first decides which of several seeds is best.
    firsts = {name: task.metrics[0] for name, task in TASKS.items()}
    assert firsts["cola"] == "mcc"
    assert firsts["mrpc"] == firsts["mnli"] == "accuracy"
    assert firsts["sts-b"] == "pearson"
    for task_type in TASK_TYPES:
        task = custom_task(task_type, text_column=0, label_column=1)
        assert set(task.metrics) <= set(CLASSIFICATION_METRICS[task_type])


def test_find_task():
    assert find_task("MRPC") is find_task("mrpc") is TASKS["mrpc"]
    with pytest.raises(
        InputError, match="--task_name=mrcp is not a known task; did you mean 'mrpc"
    ):
        find_task("mrcp")


@pytest.mark.parametrize("name", ["AX.tsv", "ax.tsv"])
def test_other_names_of_the_diagnostic_set(tmp_path, name):
    path = write(tmp_path, name, LAYOUTS["ax"]["diagnostic.tsv"][2])
    assert find_split_files(TASKS["ax"], tmp_path, "test") == {"": path}


def test_xnli_as_its_archives_unpack(tmp_path):
    train = write(tmp_path, "XNLI-MT-1.0/multinli/multinli.train.zh.tsv", "x")
    dev = write(tmp_path, "XNLI-1.0/xnli.dev.tsv", "x")
    assert find_split_files(TASKS["xnli"], tmp_path, "train") == {"": train}
    assert find_split_files(TASKS["xnli"], tmp_path, "dev") == {"": dev}


def test_mnli_without_the_mismatched_set(tmp_path):
    path = write(tmp_path, "dev_matched.tsv", "x")
    assert find_split_files(TASKS["mnli"], tmp_path, "dev") == {"": path}


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(InputError) as error:
        find_split_files(TASKS["mnli"], tmp_path, "dev")
    assert f"{tmp_path} has no dev file of task mnli: looked for dev_matched.tsv." in str(
        error.value
    )
    with pytest.raises(
        InputError, match=r"looked for train.tsv, train.csv, train.jsonl.*--train_file"
    ):
        find_split_files(
            custom_task("regression", text_column=0, label_column=1), tmp_path, "train"
        )
    with pytest.raises(InputError, match="Task ax has no train files; it has test files only"):
        find_split_files(TASKS["ax"], tmp_path, "train")
    with pytest.raises(InputError, match="Task ax has no dev files; it has test files only"):
        read_examples(TASKS["ax"], tmp_path / "x.tsv", ("a", "b"), split="dev")
    with pytest.raises(InputError, match=r"--data_dir=.*nowhere is not a folder"):
        find_split_files(TASKS["cola"], tmp_path / "nowhere", "train")


def test_two_files_that_could_be_meant(tmp_path):
    task = custom_task("single_label", text_column="text", label_column="label")
    write(tmp_path, "train.tsv", "x")
    write(tmp_path, "train.jsonl", "x")
    with pytest.raises(InputError, match=r"holds train.tsv and train.jsonl, and each could"):
        find_split_files(task, tmp_path, "train")


QQP_HEAD = "id | qid1 | qid2 | question1 | question2 | is_duplicate"


def test_broken_rows_of_qqp_are_skipped_and_counted(tmp_path, caplog):
    # A question with a newline in it, as three of them look in the distributed file.
    text = table(
        QQP_HEAD, "1 | 2 | 3 | A | B | 1", "4 | 5 | 6 | C", "A | B | 0", "7 | 8 | 9 | B | C | 0"
    )
    path = write(tmp_path, "train.tsv", text)
    task = TASKS["qqp"]
    with caplog.at_level(logging.WARNING):
        examples = read_examples(task, path, task.labels, split="train")
    assert examples.lines == [2, 5]
    assert examples.labels.tolist() == [1, 0]
    (record,) = caplog.records
    assert "left out 2 rows with fewer than 6 columns; the first is line 3" in record.getMessage()


@pytest.mark.parametrize(("name", "split"), [("mrpc", "train"), ("qqp", "test"), ("cola", "dev")])
def test_broken_rows_elsewhere_are_errors(tmp_path, name, split):
    text = LAYOUTS[name][f"{split}.tsv"][2] + "0\tbroken\r\n"
    path = write(tmp_path, f"{split}.tsv", text)
    line = text.count("\n")
    with pytest.raises(InputError, match=f"tsv:{line}: the row has 2 columns, but line 1 has"):
        read_examples(TASKS[name], path, ("0", "1"), split=split, with_labels=False)


def test_xnli_without_chinese(tmp_path):
    path = write(
        tmp_path, "d.tsv", table(XNLI_HEAD, f"ar | neutral |  |  |  |  | B | A | {XNLI_REST}")
    )
    with pytest.raises(InputError, match="no row has 'zh' in column 'language'"):
        read_examples(TASKS["xnli"], path, TASKS["xnli"].labels, split="dev")


CUSTOM = {
    "data.tsv": "id\ttext\tother\tlabel\n7\ta\tx\tspam\n8\tb, c\t\tham \n",
    "data.csv": 'id,text,other,label\n7,a,x,spam\n8,"b, c",,ham\n',
    "data.jsonl": '{"id": 7, "text": "a", "other": "x", "label": "spam"}\n'
    '{"label": "ham", "other": "", "text": "b, c"}\n',
}


@pytest.mark.parametrize("name", CUSTOM)
@pytest.mark.parametrize("pair", [True, False])
def test_custom_files(tmp_path, name, pair):
    path = write(tmp_path, name, CUSTOM[name])
    task = custom_task(
        "single_label",
        text_column="text",
        text_b_column="other" if pair else None,
        label_column="label",
    )
    labels = find_labels(task, tmp_path, path)
    assert labels == ("ham", "spam")
    examples = read_examples(task, path, labels, split="train")
    assert examples.text_a == ["a", "b, c"]
    assert examples.text_b == (["x", ""] if pair else None)
    check_labels(examples.labels, [1, 0], "single_label")


@pytest.mark.parametrize("columns", [(1, 2, 3), ("1", "2", "3")])
def test_custom_files_without_a_header(tmp_path, columns):
    path = write(tmp_path, "data.csv", CUSTOM["data.csv"].split("\n", 1)[1])
    a, b, label = columns
    task = custom_task(
        "single_label", text_column=a, text_b_column=b, label_column=label, has_header=False
    )
    examples = read_examples(task, path, ("spam", "ham"), split="dev")
    assert texts(examples) == [("a", "x"), ("b, c", "")]
    check_labels(examples.labels, [0, 1], "single_label")


def test_custom_files_in_a_folder(tmp_path):
    task = custom_task("single_label", text_column="text", label_column="label")
    paths = {
        split: write(tmp_path, f"{split}{ending}", CUSTOM[f"data{ending}"])
        for split, ending in zip(SPLITS, (".tsv", ".csv", ".jsonl"), strict=True)
    }
    for split, path in paths.items():
        assert find_split_files(task, tmp_path, split) == {"": path}
        assert len(read_examples(task, path, ("ham", "spam"), split=split)) == 2


def test_labels_given_by_the_caller_come_first_and_labels_txt_second(tmp_path):
    path = write(tmp_path, "data.tsv", CUSTOM["data.tsv"])
    write(tmp_path, "labels.txt", "spam\nham\neggs\n")
    given = custom_task(
        "single_label", text_column="text", label_column="label", labels=["spam", "ham"]
    )
    assert find_labels(given, tmp_path, path) == ("spam", "ham")
    task = dataclasses.replace(given, labels=None)
    assert find_labels(task, tmp_path, path) == ("spam", "ham", "eggs")
    assert find_labels(task, None, path) == ("ham", "spam")
    with pytest.raises(InputError, match=r"there is no labels.txt"):
        find_labels(task, None, None)


def test_goemotions_needs_its_label_names(tmp_path):
    path = write(tmp_path, "train.tsv", LAYOUTS["goemotions"]["train.tsv"][2])
    with pytest.raises(InputError, match=r"task goemotions are not known: .*labels.txt"):
        find_labels(TASKS["goemotions"], tmp_path, path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("data.tsv", "text\tlabel\na\tjoy; fear\nb\t\nc\tlove;joy;love\n"),
        ("data.csv", "text,label\na,joy;fear\nb,\nc, love ; joy\n"),
        (
            "data.jsonl",
            '{"text": "a", "label": ["joy", "fear"]}\n{"text": "b", "label": []}\n'
            '{"text": "c", "label": "love;joy"}\n',
        ),
    ],
)
def test_custom_multi_label(tmp_path, name, text):
    path = write(tmp_path, name, text)
    task = custom_task("multi_label", text_column="text", label_column="label", label_separator=";")
    labels = find_labels(task, tmp_path, path)
    assert labels == ("fear", "joy", "love")
    examples = read_examples(task, path, labels, split="train")
    check_labels(examples.labels, [[1, 1, 0], [0, 0, 0], [0, 1, 1]], "multi_label")


def test_labels_of_jsonl_that_are_no_strings(tmp_path):
    text = "".join(json.dumps({"t": "x", "y": y}) + "\n" for y in [3, True, "3", 1.5])
    path = write(tmp_path, "data.jsonl", text)
    task = custom_task("single_label", text_column="t", label_column="y")
    labels = find_labels(task, None, path)
    assert labels == ("1.5", "3", "true")
    assert read_examples(task, path, labels, split="dev").labels.tolist() == [1, 2, 1, 0]


def test_custom_regression(tmp_path):
    text = "".join(json.dumps({"t": "x", "y": y}) + "\n" for y in [3, "-1.5e1", 0.25])
    path = write(tmp_path, "data.jsonl", text)
    task = custom_task("regression", text_column="t", label_column="y")
    assert find_labels(task, None, path) == ()
    check_labels(
        read_examples(task, path, (), split="dev").labels, [3.0, -15.0, 0.25], "regression"
    )


def read_custom(path, task_type, labels=("a", "b", "c"), **settings):
    task = custom_task(task_type, text_column="t", label_column="y", **settings)
    return read_examples(task, path, labels, split="train")


@pytest.mark.parametrize(
    ("task_type", "settings", "value", "message"),
    [
        ("single_label", {}, "ab", "'ab' is not a label of task custom; did you mean"),
        ("single_label", {}, "a,b", "'a,b' is not a label of task custom"),
        ("single_label", {}, "z", "labels are 'a', 'b', 'c'."),
        ("single_label", {}, " ", "the label in column 'y' is empty"),
        ("single_label", {}, None, "column 'y' has to be a label, but is null"),
        ("single_label", {}, ["a"], 'column \'y\' has to be a label, but is ["a"]'),
        ("multi_label", {}, "a,z", "'z' is not a label of task custom"),
        ("multi_label", {}, "a,,b", "the label in column 'y' is empty"),
        ("multi_label", {}, ["a", ["b"]], "column 'y' has to be a label"),
        ("multi_label", {}, None, "column 'y' has to be a label, but is null"),
        ("multi_label", {"label_ids": True}, "0,3", "label id '3' is not one of task custom, which "
         "has 3 labels: the ids go from 0 to 2"),
        ("multi_label", {"label_ids": True}, "-1", "label id '-1' is not one of"),
        ("single_label", {"label_ids": True}, "a", "label id 'a' is not one of"),
        ("regression", {}, "high", "has to be a finite number, but is \"high\""),
        ("regression", {}, "", 'has to be a finite number, but is ""'),
        ("regression", {}, "nan", "has to be a finite number"),
        ("regression", {}, "-inf", "has to be a finite number"),
        ("regression", {}, "1_5", "has to be a finite number"),
        ("regression", {}, True, "has to be a finite number, but is true"),
        ("regression", {}, None, "has to be a finite number, but is null"),
        ("regression", {}, 10**400, "has to be a finite number"),
    ],
)  # fmt: skip
def test_bad_labels(tmp_path, task_type, settings, value, message):
    good = {"single_label": "0", "multi_label": ["0"], "regression": 0}[task_type]
    if not settings and task_type != "regression":
        good = "a"
    lines = [json.dumps({"t": "x", "y": y}) for y in (good, value)]
    path = write(tmp_path, "data.jsonl", "\n\n".join(lines))
    with pytest.raises(InputError) as error:
        read_custom(path, task_type, **settings)
    assert str(error.value).startswith(f"{path}:3: ")
    assert message in str(error.value)


def test_a_long_list_of_labels_is_cut(tmp_path):
    path = write(tmp_path, "data.tsv", "t\ty\nx\tzzz\n")
    with pytest.raises(InputError, match=r"Its 33 labels are 'label0', .*, 'label19', …\.$"):
        read_custom(path, "single_label", tuple(f"label{k}" for k in range(33)))


def test_text_that_is_not_there(tmp_path):
    path = write(tmp_path, "data.jsonl", '{"t": "", "y": "a"}\n{"t": null, "y": "a"}\n')
    with pytest.raises(InputError, match=":2: column 't' has to be a string, but is null"):
        read_custom(path, "single_label")


def test_missing_columns_and_empty_files(tmp_path):
    path = write(tmp_path, "data.tsv", "text\ty\nx\ta\n")
    with pytest.raises(InputError, match=r":2: there is no column 't'\. The columns.*'text', 'y'"):
        read_custom(path, "single_label")
    for text in ("", "t\ty\n"):
        path = write(tmp_path, "empty.tsv", text)
        with pytest.raises(InputError, match=r"empty.tsv:1: expected at least one row of data"):
            read_custom(path, "single_label")


def test_a_table_without_labels_can_only_be_predicted_on(tmp_path):
    path = write(tmp_path, "data.tsv", "t\nx\n")
    task = custom_task("single_label", text_column="t", label_column=None)
    assert read_examples(task, path, (), split="test", with_labels=False).text_a == ["x"]
    with pytest.raises(InputError, match="The train files of task custom have no labels"):
        find_labels(task, tmp_path, path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a classifier chooses between at least 2 labels, but there are none"),
        ("a\n", "a classifier chooses between at least 2 labels, but there is 1: 'a'"),
        ("a\nb\na\n", "label 'a' is there more than once"),
        ("a\n\nb\n", "label 1 (from 0) is empty"),
    ],
)
def test_bad_label_lists(tmp_path, text, message):
    path = write(tmp_path, "labels.txt", text)
    with pytest.raises(InputError) as error:
        read_label_file(path)
    assert str(error.value).startswith(f"{path}: {message}")
    with pytest.raises(InputError) as error:
        custom_task("single_label", text_column=0, label_column=1, labels=text.splitlines())
    assert str(error.value).startswith(f"--labels: {message}")


def test_training_data_with_one_label(tmp_path):
    path = write(tmp_path, "data.tsv", "t\ty\nx\ta\nz\ta\n")
    task = custom_task("single_label", text_column="t", label_column="y")
    with pytest.raises(InputError, match=r"data.tsv, column 'y': a classifier .* there is 1: 'a'"):
        find_labels(task, None, path)


@pytest.mark.parametrize(
    ("task_type", "settings", "message"),
    [
        ("multilabel", {}, "--task_type has to be one of single_label, multi_label, regression"),
        ("regression", {"labels": ["a", "b"]}, "has numbers and no list of labels"),
        ("regression", {"label_ids": True}, "has numbers and no list of labels"),
        ("multi_label", {"label_separator": ""}, "--label_separator is empty"),
    ],
)
def test_bad_settings(task_type, settings, message):
    with pytest.raises(InputError, match=message):
        custom_task(task_type, text_column=0, label_column=1, **settings)


@pytest.mark.parametrize(
    ("name", "folder", "num_train", "num_dev"),
    [
        ("sst-2", "SST-2", 6920, 872),
        ("mrpc", "MRPC", 3668, 408),
        ("cola", "CoLA", 8551, 527),
        ("sick", "sick", 4500, 500),
        ("sick_entailment", "sick", 4500, 500),
        ("goemotions", "goemotions", 43410, 5426),
    ],
)
def test_real_data(shared, name, folder, num_train, num_dev):
    task, data_dir = TASKS[name], shared / "data" / folder
    for split, num_examples in {"train": num_train, "dev": num_dev}.items():
        path = find_split_files(task, data_dir, split)[""]
        labels = find_labels(task, data_dir, path)
        examples = read_examples(task, path, labels, split=split)
        assert len(examples) == len(examples.labels) == num_examples
        assert all(examples.text_a)
        if task.task_type == "single_label":
            assert set(examples.labels.tolist()) == set(range(len(task.labels)))
        elif task.task_type == "multi_label":
            assert examples.labels.shape == (num_examples, 28)
            assert examples.labels.sum(axis=1).min() >= 1
        else:
            assert examples.labels.min() >= 1 and examples.labels.max() <= 5


def test_movie_reviews(shared):
    task = custom_task("single_label", text_column="text", label_column="label")
    data_dir = shared / "data" / "movie_reviews"
    train_file = find_split_files(task, data_dir, "train")[""]
    labels = find_labels(task, data_dir, train_file)
    assert labels == ("neg", "pos")
    assert len(read_examples(task, train_file, labels, split="train")) == 1400
    dev_file = find_split_files(task, data_dir, "dev")[""]
    assert len(read_examples(task, dev_file, labels, split="dev")) == 300

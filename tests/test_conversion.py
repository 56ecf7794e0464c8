"""Tests of bert_tf.interop.conversion: what a folder is seen to be, and what the command does."""

import re
import subprocess
import sys

import pytest
import yaml
from file_server import full_disk
from original_folders import (
    CONFIG,
    ENCODER,
    PIECES,
    PRETRAINING,
    assert_same_bits,
    make_folder,
    read,
)
from small_models import PAIRS, TEXTS, make_run

from bert_tf import Predictor
from bert_tf.cli.main import main
from bert_tf.config import CHECKPOINT_FORMATS, BertConfig
from bert_tf.errors import InputError
from bert_tf.heads import BertClassifier, BertMultipleChoice, BertSpanLabeler, BertTagger
from bert_tf.interop.conversion import convert, recognise


def test_each_format_is_recognised(tmp_path):
    source = make_folder(tmp_path / "uncased_L-3")
    assert recognise(source) == "original"
    for to_format in ("huggingface", "keras_hub", "model_garden"):
        result = convert(source, tmp_path / to_format, to_format)
        assert recognise(result.target) == to_format == result.to_format
        with pytest.raises(InputError, match=rf"is of the format {to_format} already; give --to_"):
            convert(result.target, tmp_path / "other", to_format)
    with pytest.raises(InputError, match=r"original already; .* one of huggingface, keras_hub, mo"):
        convert(source, tmp_path / "other")
    for file in (tmp_path / "huggingface").iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    with pytest.raises(InputError, match="weights of two formats, huggingface and original"):
        convert(source, tmp_path / "other", "keras_hub")


def test_other_libraries_into_each_other(tmp_path):
    """By way of the original's terms, so any into any."""
    source = make_folder(tmp_path / "uncased_L-3", (*ENCODER, "masked_lm"))
    folder = convert(source, tmp_path / "0", "huggingface").target
    for i, to_format in enumerate(("keras_hub", "huggingface", "model_garden")):
        folder = convert(folder, tmp_path / f"uncased_L-3_{i}", to_format).target
    folder = convert(folder, tmp_path / "1", "keras_hub", do_lower_case=None).target
    back = convert(folder, tmp_path / "uncased_L-3_back")
    assert_same_bits(source, back.target)
    assert back.config == CONFIG


def test_folders_that_are_none(tmp_path):
    with pytest.raises(InputError, match="nothing: there is no such folder"):
        convert(tmp_path / "nothing", tmp_path / "other")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: holds no weights .* Expected bert_config\.json"):
        convert(tmp_path / "empty", tmp_path / "other")
    (tmp_path / "empty" / "model.index").write_bytes(b"x")
    with pytest.raises(InputError, match=r"model\.index: not a TensorFlow checkpoint"):
        convert(tmp_path / "empty", tmp_path / "other")
    with pytest.raises(InputError, match=r"--to_format must be one of original, .* but is 'onnx'"):
        convert(tmp_path / "empty", tmp_path / "other", "onnx")


def test_the_casing_that_is_given(tmp_path):
    source = make_folder(tmp_path / "uncased_L-3")
    with pytest.raises(InputError, match=r"case=false does not fit .*uncased_L-3, which says true"):
        convert(source, tmp_path / "theirs", "huggingface", do_lower_case=False)
    garden = convert(source, tmp_path / "theirs", "model_garden").target
    assert "give --do_lower_case" in str(convert(garden, tmp_path / "ours"))
    result = convert(garden, tmp_path / "again", do_lower_case=True)
    assert "use it with --do_lower_case=true" in str(result)
    with pytest.raises(InputError, match=r"cased_L-3: a folder of this name stands for"):
        convert(garden, tmp_path / "cased_L-3", do_lower_case=True)


def test_a_target_that_is_not_new(tmp_path):
    source = make_folder(tmp_path / "uncased_L-3")
    with pytest.raises(InputError, match="uncased_L-3: exists and is not an empty folder"):
        convert(source, source, "huggingface")
    assert len(list(source.iterdir())) == 4


def test_a_vocabulary_of_another_size(tmp_path):
    source = make_folder(tmp_path / "uncased_L-3")
    (source / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES[:-1]))
    with pytest.raises(InputError, match=r"vocab\.txt: has 28 word pieces, but vocab_size is 29"):
        convert(source, tmp_path / "theirs", "model_garden")


def test_the_command(tmp_path, capsys):
    source = make_folder(tmp_path / "model", PRETRAINING, labels=())
    arguments = ["convert_checkpoint", f"--from={source}", f"--to={tmp_path / 'theirs'}"]
    assert main([*arguments, "--to_format=huggingface"]) == 2
    assert "give --do_lower_case=true for an uncased" in capsys.readouterr().err
    assert main([*arguments, "--to_format=huggingface", "--nodo_lower_case"]) == 0
    output = capsys.readouterr()
    assert output.out == ""
    assert f"{source}: found a folder of the original's layout (bert_model.ckpt)" in output.err
    assert "heads: masked_lm, next_sentence" in output.err
    assert (
        main(["convert_checkpoint", f"--from={tmp_path / 'theirs'}", f"--to={tmp_path / 'b'}"]) == 0
    )
    assert "found a Hugging Face folder (BertForPreTraining)" in capsys.readouterr().err
    assert_same_bits(source, tmp_path / "b")
    assert main(["convert_checkpoint", f"--from={source}"]) == 2
    assert "--to is missing: give a folder" in capsys.readouterr().err
    assert main([*arguments, "--to_format=onnx"]) == 2
    assert "onnx" in capsys.readouterr().err


def test_help_is_light():
    code = (
        "import sys; from bert_tf.cli.main import main\n"
        "try: main(['convert_checkpoint', '--help'])\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "model_garden" in run.stdout
    assert set(run.stderr.split()) & {"tensorflow", "keras", "keras_hub", "numpy", "h5py"} == set()


def test_an_activation_of_the_original_comes_back_through_another(tmp_path):
    config = BertConfig.from_dict(CONFIG.to_dict() | {"hidden_act": "gelu_erf"})
    source = make_folder(tmp_path / "uncased_L-3", config=config)
    folder = convert(source, tmp_path / "0", "huggingface").target
    with pytest.raises(InputError, match="the activation is gelu_erf, but Model Garden"):
        convert(folder, tmp_path / "1", "model_garden")
    result = convert(folder, tmp_path / "1", "model_garden", hidden_act="gelu")
    assert "hidden_act is gelu, as asked for; the source has gelu_erf" in str(result)
    back = convert(result.target, tmp_path / "uncased_L-3_back")
    assert back.config.hidden_act == "gelu"
    assert read(back.target).keys() == read(source).keys()


LABELS = ("schön", "so so", "bad")
TRAINED = {
    "classification": (lambda config: BertClassifier(config, 3), "run_classifier", LABELS),
    "multi_label": (lambda config: BertClassifier(config, 3), "run_classifier", LABELS),
    "regression": (lambda config: BertClassifier(config, 1), "run_classifier", ()),
    "tagging": (lambda config: BertTagger(config, 3), "run_tagger", ("B-PER", "I-PER", "O")),
    "multiple_choice": (BertMultipleChoice, "run_multiple_choice", ()),
    "question_answering": (BertSpanLabeler, "run_squad", ()),
}


@pytest.mark.parametrize("kind", TRAINED)
def test_a_trained_model_predicts_when_it_is_back(tmp_path, kind):
    make, command, labels = TRAINED[kind]
    settings = {"max_seq_length": 41, "do_lower_case": True}
    if kind in ("multi_label", "regression"):
        settings["task_type"] = kind
    if command == "run_squad":
        settings |= {"train_file": "unused", "max_query_length": 20}
    run = make_run(tmp_path / "run", make, command, settings, labels)
    convert(run, tmp_path / "there", "huggingface")
    convert(tmp_path / "there", tmp_path / "back", "original")
    texts = {
        "multiple_choice": [("the river", ["a", "unable"]), ("the", ["o", "of", "x"])],
        "question_answering": PAIRS,
    }.get(kind, TEXTS)
    texts = [text for text in texts if "" not in text] if kind == "question_answering" else texts
    expected = Predictor.load(run).predict(texts)
    assert Predictor.load(tmp_path / "back").predict(texts) == expected


@pytest.mark.parametrize("settings", [{"text_b_column": "b"}, {"task_name": "MRPC"}])
def test_a_classifier_of_pairs_takes_pairs_when_it_is_back(tmp_path, capsys, settings):
    run = make_run(
        tmp_path / "run",
        lambda config: BertClassifier(config, 2),
        "run_classifier",
        {"max_seq_length": 41, "do_lower_case": True, **settings},
        ("0", "1"),
    )
    there = convert(run, tmp_path / "there", "huggingface")
    assert there.remarks == ("--pairs has no place there; give it on the way back",)
    back = convert(there.target, tmp_path / "back", pairs=True)
    assert back.remarks == ()
    assert Predictor.load(back.target).predict(PAIRS) == Predictor.load(run).predict(PAIRS)
    with pytest.raises(InputError, match=r"--pairs=false does not fit .*run, which says true"):
        convert(run, tmp_path / "other", "huggingface", pairs=False)

    arguments = ["convert_checkpoint", f"--from={there.target}"]
    assert main([*arguments, f"--to={tmp_path / 'unsaid'}"]) == 0
    assert "nothing says whether the classifier takes pairs of texts" in capsys.readouterr().err
    with pytest.raises(InputError, match="must be a str for this model"):
        Predictor.load(tmp_path / "unsaid").predict(PAIRS)
    for flag, takes_pairs in (("--pairs", True), ("--nopairs", False)):
        target = tmp_path / flag
        assert main([*arguments, f"--to={target}", flag]) == 0
        assert "nothing says" not in capsys.readouterr().err
        assert ("text_b_column" in (target / "run_config.yaml").read_text()) == takes_pairs


def test_pairs_are_for_classifiers_of_texts(tmp_path):
    run = make_run(
        tmp_path / "run", BertMultipleChoice, "run_multiple_choice", {"do_lower_case": True}
    )
    with pytest.raises(InputError, match=r"--pairs: it is for a head of texts, and .*run has none"):
        convert(run, tmp_path / "there", "huggingface", pairs=True)


@pytest.mark.parametrize(
    ("labels", "others"),
    [
        (("B-LOC", "I-LOC", "I-PER", "O"), "1 labels .*: I-PER"),  # IOB1
        (("I-LOC", "I-PER", "O"), "2 labels .*: I-LOC, I-PER"),
        (("B-PER", "E-PER", "I-PER", "O", "S-PER"), "2 labels .*: E-PER, S-PER"),
        (("B-PER", "I-PER", "O", "X"), "1 labels .*: X"),
    ],
)
def test_tags_that_are_not_iob2_stay_as_they_are(tmp_path, labels, others):
    folder = _tagger_of_huggingface(tmp_path, labels)
    result = convert(folder, tmp_path / "back")
    assert re.search(f"{others}$", result.remarks[0])
    assert "no entities are made of them" in result.remarks[0]
    assert _settings_of(result)["tag_scheme"] == "none"
    expected = Predictor.load(tmp_path / "run").predict(TEXTS)
    assert Predictor.load(result.target).predict(TEXTS) == expected
    assert not any("entities" in found for found in expected)
    tags = {word["tag"] for found in expected for word in found["words"]}
    assert tags & {"I-PER", "S-PER", "E-PER", "X"}
    with pytest.raises(InputError, match=r"--tag_scheme=iob2 does not fit .*there, which says no"):
        convert(folder, tmp_path / "other", tag_scheme="iob2")


def test_tags_that_may_be_iob2(tmp_path):
    folder = _tagger_of_huggingface(tmp_path, ("B-PER", "I-PER", "O"))
    result = convert(folder, tmp_path / "assumed")
    assert "taken for IOB2, with --tag_scheme=none" in str(result)
    assert "tag_scheme" not in _settings_of(result)
    assert "scheme" not in str(convert(folder, tmp_path / "said", tag_scheme="iob2"))
    result = convert(folder, tmp_path / "none", tag_scheme="none")
    assert "nothing says" not in str(result)
    assert _settings_of(result)["tag_scheme"] == "none"
    there = convert(result.target, tmp_path / "again", "huggingface")
    assert "--tag_scheme=none has no place there; give it on the way back" in there.remarks


def test_tags_that_are_no_entities(tmp_path):
    result = convert(_tagger_of_huggingface(tmp_path, ("ADJ", "NOUN", "X")), tmp_path / "back")
    assert "scheme" not in str(result)
    assert "tag_scheme" not in _settings_of(result)


def _tagger_of_huggingface(tmp_path, labels):
    run = make_run(
        tmp_path / "run",
        lambda config: BertTagger(config, len(labels)),
        "run_tagger",
        {"max_seq_length": 41, "do_lower_case": True, "tag_scheme": "none"},
        labels,
    )
    return convert(run, tmp_path / "there", "huggingface").target


def _settings_of(result):
    return yaml.safe_load((result.target / "run_config.yaml").read_text())


def test_a_task_type_that_huggingface_does_not_say(tmp_path):
    there = make_folder(tmp_path / "uncased_L-3", (*ENCODER, "classifier"))
    folder = convert(there, tmp_path / "there", "huggingface").target
    assert "problem_type" not in (folder / "config.json").read_text()
    result = convert(folder, tmp_path / "assumed")
    assert "nothing says the task type of the classifier; taken for single_label" in str(result)
    assert _settings_of(result)["task_type"] == "single_label"
    result = convert(folder, tmp_path / "said", task_type="multi_label")
    assert "task type" not in str(result)
    assert _settings_of(result)["task_type"] == "multi_label"
    folder = convert(there, tmp_path / "named", "huggingface", task_type="multi_label").target
    with pytest.raises(InputError, match=r"type=single_label does not fit .* says multi_label"):
        convert(folder, tmp_path / "other", task_type="single_label")


def test_whether_there_may_be_no_answer(tmp_path):
    run = make_run(
        tmp_path / "run",
        BertSpanLabeler,
        "run_squad",
        {
            "max_seq_length": 41,
            "do_lower_case": True,
            "train_file": "unused",
            "max_query_length": 20,
            "version_2_with_negative": True,
            "null_score_diff_threshold": 0.0,
        },
    )
    (run / "null_threshold.json").write_text('{"null_score_diff_threshold": 1.5}')
    there = convert(run, tmp_path / "there", "huggingface")
    remarks = "\n".join(there.remarks)
    assert "null_threshold.json, from where on there is no answer, is not carried over" in remarks
    assert "--version_2_with_negative has no place there; give it on the way back" in remarks
    back = convert(there.target, tmp_path / "back", version_2_with_negative=True)
    assert "nothing says" not in str(back)
    pairs = [("the river", "of the river unable"), ("a b c", "d e f the"), ("x", "the able")]
    expected = Predictor.load(run).predict(pairs)
    assert Predictor.load(back.target).predict(pairs) == expected
    back = convert(there.target, tmp_path / "assumed")
    assert "nothing says whether there may be no answer; taken for a model that alw" in str(back)
    assert Predictor.load(back.target).predict(pairs) != expected


@pytest.mark.parametrize("long_text", ["head", "tail", "head_tail", "windows"])
def test_what_is_shown_of_a_long_text_is_named(tmp_path, long_text):
    parts = (*ENCODER, "classifier")
    run = {"command": "run_classifier", "do_lower_case": True, "long_text": long_text}
    source = make_folder(tmp_path / "run", parts, **run)
    result = convert(source, tmp_path / "there", "huggingface")
    assert (f"--long_text={long_text} is not carried over" in str(result)) == (long_text != "head")


# Enough for all files but the largest, which is that of the weights.
@pytest.mark.parametrize("to_format", CHECKPOINT_FORMATS)
def test_a_full_disk_leaves_nothing(tmp_path, to_format):
    source = make_folder(tmp_path / "uncased_L-3")
    if to_format == "original":
        source = convert(source, tmp_path / "source", "huggingface").target
    whole = convert(source, tmp_path / "whole", to_format).target
    sizes = sorted(path.stat().st_size for path in whole.rglob("*.*") if path.is_file())
    before = sorted(tmp_path.iterdir())
    for room in (0, sizes[-2] + 1, sizes[-1] - 1):
        with full_disk(room), pytest.raises(InputError, match="cannot write") as error:
            convert(source, tmp_path / "target", to_format)
        assert "target" in str(error.value)
        assert "\n" not in str(error.value)
        assert sorted(tmp_path.iterdir()) == before
    convert(source, tmp_path / "target", to_format)


@pytest.mark.parametrize("crf", [False, True])
def test_the_activation_may_be_all_that_changes(tmp_path, capsys, crf):
    """As ONNX needs it: a run stays what it is, with all of its settings."""
    run = make_run(
        tmp_path / "run",
        lambda config: BertTagger(config, 3, use_crf=crf),
        "run_tagger",
        {"max_seq_length": 23, "do_lower_case": True, "crf": crf, "doc_context": True},
        ("B-PER", "I-PER", "O"),
        hidden_act="gelu_erf",
    )
    arguments = ["convert_checkpoint", f"--from={run}", f"--to={tmp_path / 'new'}"]
    assert main([*arguments, "--hidden_act=gelu_erf"]) == 2
    assert (
        "original already, with the hidden_act gelu_erf; there is noth" in capsys.readouterr().err
    )
    assert main([*arguments, "--hidden_act=gelu"]) == 0
    assert "the source has gelu_erf, so the outputs differ a little" in capsys.readouterr().err
    names = sorted(path.name for path in run.iterdir())
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == names
    for name in names:
        same = (run / name).read_bytes() == (tmp_path / "new" / name).read_bytes()
        assert same == (name != "bert_config.json"), name
    config = BertConfig.from_json_file(tmp_path / "new" / "bert_config.json")
    assert config.hidden_act == "gelu"
    assert len(Predictor.load(tmp_path / "new").predict(TEXTS)) == len(TEXTS)

    if not crf:
        there = convert(run, tmp_path / "there", "huggingface").target
        again = convert(there, tmp_path / "again", "huggingface", hidden_act="gelu").target
        assert '"hidden_act": "gelu_new"' in (again / "config.json").read_text()

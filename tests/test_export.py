"""What is exported says what Predictor says; a session loads it, as TF Serving does."""

import importlib.resources
import json
import signal
import time

import numpy as np
import pytest
import tensorflow as tf
from file_server import full_disk
from forked import COMMAND, Forked
from served import examples, exporting
from small_models import PAIRS, TEXTS, make_run

import bert_tf
from bert_tf.cli.main import main
from bert_tf.export import litert, onnx_file, saved_model
from bert_tf.export.exporter import EXPORTERS
from bert_tf.export.saved_model import new_version
from bert_tf.heads import BertClassifier, BertMultipleChoice, BertPretrainer
from bert_tf.tasks import classification
from bert_tf.use_config import Export

LABELS = ("billing", "delivery", "other")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of runs, by name."""
    root = tmp_path_factory.mktemp("runs")

    def classifier(name, num_labels, pooling=None, **settings):
        return make_run(
            root / name,
            lambda config: BertClassifier(config, num_labels, window_pooling=pooling),
            "run_classifier",
            {"max_seq_length": 19, **settings},
            LABELS[:num_labels] if settings.get("task_type") != "regression" else (),
        )

    return {
        "single": classifier("single", 3),
        "multi": classifier("multi", 3, task_type="multi_label"),
        "regression": classifier("regression", 1, task_type="regression"),
        "pairs": classifier("pairs", 2, text_b_column="text_b"),
        "tail": classifier("tail", 3, long_text="tail"),
        "head_tail": classifier("head_tail", 3, long_text="head_tail"),
        "windows": classifier(
            "windows", 3, "attention", long_text="windows", window_pooling="attention"
        ),
        # Its weights are larger than any other file of an export.
        "large": make_run(
            root / "large",
            lambda config: BertClassifier(config, 3),
            "run_classifier",
            {"max_seq_length": 7},
            LABELS,
            num_hidden_layers=1,
            max_position_embeddings=30_011,
        ),
        "choices": make_run(
            root / "choices",
            BertMultipleChoice,
            "run_multiple_choice",
            {"max_seq_length": 19},
        ),
        "pretraining": make_run(root / "pretraining", BertPretrainer, "run_pretraining", {}),
    }


@pytest.fixture(scope="module")
def export(runs, tmp_path_factory):
    return exporting(runs.__getitem__, tmp_path_factory)


def encoded(texts):
    """Inputs of a signature: text, and of pairs text_b."""
    if isinstance(texts[0], str):
        return {"text": [text.encode() for text in texts]}
    return {
        name: [pair[part].encode() for pair in texts]
        for part, name in enumerate(("text", "text_b"))
    }


def texts_or_pairs(mixed):
    """Inputs text and text_b, which is None of a single text."""
    pairs = [(text, None) if isinstance(text, str) else text for text in mixed]
    return dict(zip(("text", "text_b"), zip(*pairs, strict=True), strict=True))


def assert_labels(found, expected):
    """A classifier's outputs are an answer of Predictor."""
    if "probabilities" not in expected:
        assert set(found) == {"score"}
    else:
        assert found["label"].decode() == expected["label"]
        classes = [name.decode() for name in found["classes"]]
        np.testing.assert_allclose(
            found["probabilities"],
            [expected["probabilities"][name] for name in classes],
            atol=1e-5,
        )
    if "labels" in expected:
        assert [name.decode() for name in found["labels"] if name] == expected["labels"]
    np.testing.assert_allclose(found["score"], expected["score"], atol=1e-5)


CLASSIFIERS = ["single", "multi", "regression", "pairs", "tail", "head_tail", "windows"]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers(name, runs, export):
    texts = PAIRS if name == "pairs" else TEXTS
    expected = bert_tf.Predictor.load(runs[name]).predict(texts)
    scores = [answer["score"] for answer in expected]
    assert np.ptp(scores) > 0.1  # or else nothing would be compared
    inputs = encoded(texts)
    for size in (1, 3, len(texts)):
        for found, answer in zip(export(name).in_batches(inputs, size), expected, strict=True):
            assert_labels(found, answer)
    of_examples = export(name).in_batches({"examples": examples(inputs)}, 4, "examples")
    for found, answer in zip(of_examples, expected, strict=True):
        assert_labels(found, answer)


def test_tokens_take_ids(runs, export):
    ids = np.array([[2, 58, 59, 3], [2, 60, 3, 0]], np.int32)
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0]], np.int32)
    found = export("single")("tokens", input_ids=ids, input_mask=mask, segment_ids=0 * ids)
    assert found["probabilities"].shape == (2, 3)
    one = export("single")(
        "tokens", input_ids=ids[1:, :3], input_mask=mask[1:, :3], segment_ids=0 * ids[1:, :3]
    )
    np.testing.assert_allclose(found["probabilities"][1:], one["probabilities"], atol=1e-5)


def test_choices(runs, export):
    texts = [text for text in TEXTS if text.strip()]
    questions = [(text, [*texts[i:], *texts][: 2 + i % 3]) for i, text in enumerate(texts)]
    expected = bert_tf.Predictor.load(runs["choices"]).predict(questions)
    most = max(len(choices) for _, choices in questions)
    inputs = {
        "text": [text.encode() for text, _ in questions],
        "choices": [
            [choice.encode() for choice in choices] + [b""] * (most - len(choices))
            for _, choices in questions
        ],
    }
    served = export("choices")
    for found in (
        served.in_batches(inputs, 3),
        served.in_batches({"examples": examples(inputs)}, 4, "examples"),
    ):
        for answer, other in zip(found, expected, strict=True):
            count = len(other["probabilities"])
            assert answer["label"] == other["label"]
            assert answer["choice"].decode() == other["choice"]
            np.testing.assert_allclose(
                answer["probabilities"][:count], other["probabilities"], atol=1e-5
            )
            assert not answer["probabilities"][count:].any()


@pytest.mark.parametrize("flags", [(), ("--pooling=max", "--layer=0", "--normalize")])
def test_vectors(flags, runs, export):
    options = dict(flag[2:].partition("=")[::2] for flag in flags)
    options = {name: value or True for name, value in options.items()}
    if "layer" in options:
        options["layer"] = int(options["layer"])
    predictor = bert_tf.Predictor.load(runs["single"], task="features", **options)
    served = export("single", "--task=features", *flags)
    for texts, name in ((TEXTS, "serving_default"), (PAIRS, "pairs")):
        expected = [answer["vector"] for answer in predictor.predict(texts)]
        found = served.in_batches(encoded(texts), 3, name)
        np.testing.assert_allclose([one["vector"] for one in found], expected, atol=1e-5)
    mixed = [*TEXTS[:3], *PAIRS, *TEXTS[3:]]
    expected = [answer["vector"] for answer in predictor.predict(mixed)]
    found = served.in_batches({"examples": examples(texts_or_pairs(mixed))}, 7, "examples")
    np.testing.assert_allclose([one["vector"] for one in found], expected, atol=1e-5)


MASKED = [
    "[MASK]",
    "the [MASK] of [MASK] able",
    "un[MASK]able[MASK] 中文 🙂 é [MASK]",
    "The [mask] and [CLS], [MASK]!",
]
MASKED_PAIRS = [
    ("[MASK] the", "of"),
    ("the [MASK]", ""),
    ("a", "[MASK][MASK]"),
    ("the [MASK]", "ée [MASK] b"),
    ("", "[MASK]"),
]


def test_masks(runs, export):
    predictor = bert_tf.Predictor.load(runs["pretraining"], top_k=3)
    served = export("pretraining", "--top_k=3")
    mixed = [*MASKED[:2], *MASKED_PAIRS, *MASKED[2:]]
    for inputs, texts, name in (
        (encoded(MASKED), MASKED, "serving_default"),
        (encoded(MASKED_PAIRS), MASKED_PAIRS, "pairs"),
        ({"examples": examples(texts_or_pairs(mixed))}, mixed, "examples"),
    ):
        expected = predictor.predict(texts)
        for size in (1, 4):
            for found, answer in zip(served.in_batches(inputs, size, name), expected, strict=True):
                count = len(answer["masks"])
                assert (found["position"][count:] == -1).all()
                for number, mask in enumerate(answer["masks"]):
                    assert found["position"][number] == mask["position"]
                    assert "in" not in mask or found["in"][number].decode() == mask["in"]
                    assert [piece.decode() for piece in found["pieces"][number]] == [
                        prediction["piece"] for prediction in mask["predictions"]
                    ]
                    np.testing.assert_allclose(
                        found["scores"][number],
                        [prediction["score"] for prediction in mask["predictions"]],
                        atol=1e-5,
                    )
                if name != "serving_default":
                    np.testing.assert_allclose(
                        found["next_sentence_probability"],
                        answer.get("next_sentence_probability", -1),
                        atol=1e-5,
                    )


def test_an_example_with_several_second_texts(export):
    serialized = examples({"text": ["a", "b"], "text_b": [["c", "d"], ["e"]]})
    with pytest.raises(tf.errors.InvalidArgumentError, match="text_b: more than one value"):
        export("pretraining", "--top_k=3")("examples", examples=serialized)


def test_masks_that_are_cut_away(runs, export):
    served = export("pretraining", "--top_k=3")
    found = served(text=[b"a" * 60 + b" [MASK]", b"no mask", b"[MASK]" * 2])
    assert found["position"].tolist() == [[61, -1], [-1, -1], [0, 6]]
    assert (found["pieces"][:2] == b"").all() and not found["scores"][:2].any()
    assert (found["pieces"][2] != b"").all() and found["scores"][2].all()
    whole = served("pairs", text=[b"[MASK]"], text_b=[b"a [MASK]"])
    cut = served("pairs", text=[b"[MASK]" + b" b" * 60 + b"[MASK]"], text_b=[b"a [MASK]"])
    assert cut["in"].tolist() == [[b"text", b"text", b"text_b"]]
    assert (cut["scores"][0].sum(axis=-1) > 0).tolist() == [True, False, True]
    assert whole["in"].tolist() == [[b"text", b"text_b"]]


def test_the_model_is_asked_about_the_masks_in_rows_alone(runs, monkeypatch):
    asked = []
    call = BertPretrainer.call

    def recorded(self, inputs, **named):
        asked.append(inputs["masked_lm_positions"].numpy().tolist())
        return call(self, inputs, **named)

    monkeypatch.setattr(BertPretrainer, "call", recorded)
    settings = Export(model_dir="-", export_dir="-", max_seq_length=9)
    signatures = EXPORTERS["fill_mask"](runs["pretraining"], settings).signatures
    asked.clear()
    many = tf.constant(["[MASK] a [MASK]" + "[MASK]" * 500, "a [MASK]", ""])
    found = signatures["serving_default"].function({"text": many})
    assert asked.pop() == [[1, 3, 4, 5, 6, 7], [2, 0, 0, 0, 0, 0], [0] * 6]
    assert found["scores"].shape == (3, 502, 5)
    assert tf.reduce_any(found["scores"] > 0, axis=2).numpy().sum(axis=1).tolist() == [6, 1, 0]
    found = signatures["pairs"].function({"text": many, "text_b": many[::-1]})
    assert asked.pop() == [[1, 3, 4, 5, 6], [2, 5, 0, 0, 0], [2, 4, 5, 6, 7]]
    assert tf.reduce_any(found["scores"] > 0, axis=2).numpy().sum(axis=1).tolist() == [5, 2, 5]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision(precision, runs, export):
    exact, half = export("single"), export("single", f"--precision={precision}")
    inputs = encoded(TEXTS)
    difference = np.abs(exact(**inputs)["probabilities"] - half(**inputs)["probabilities"])
    assert 1e-6 < difference.max() < 0.2
    sizes = [
        (one.folder / "variables/variables.data-00000-of-00001").stat().st_size
        for one in (exact, half)
    ]
    assert sizes[1] < 0.7 * sizes[0]
    assert half(**inputs)["probabilities"].dtype == np.float32


def test_fixed_shapes(runs, export):
    served = export("single", "--batch_size=4", "--fixed_length", "--max_seq_length=11")
    found = served(**encoded(TEXTS[:4]))
    rows = bert_tf.Predictor.load(runs["single"]).predict(TEXTS[:4])
    short = [i for i in range(4) if len(TEXTS[i]) < 5]
    for i in short:
        assert_labels({key: value[i] for key, value in found.items()}, rows[i])
    with pytest.raises(ValueError, match="Cannot feed"):
        served(**encoded(TEXTS[:3]))


class TestTheFolder:
    def test_what_is_in_it(self, runs, export):
        folder = export("single").folder
        extra = folder / "assets.extra"
        card = json.loads((extra / "model_card.json").read_text())
        assert card["task"] == "classification"
        assert set(card["signatures"]) == {"serving_default", "tokens", "examples"}
        assert card["signatures"]["serving_default"]["inputs"] == {"text": "string [None]"}
        assert card["exported"] == {
            "max_seq_length": 19,
            "do_lower_case": True,
            "task_type": "single_label",
            "long_text": "head",
            "fixed_length": False,
            "batch_size": "any",
        }
        assert "## Export\n\n- max_seq_length: 19\n" in (extra / "model_card.md").read_text()
        assert (extra / "labels.txt").read_text().split() == list(LABELS)
        for name in ("vocab.txt", "bert_config.json"):
            assert (extra / name).read_text() == (runs["single"] / name).read_text()
        assert "`serving_default`" in (extra / "model_card.md").read_text()

    def test_each_weight_is_there_once(self, runs, export):
        names = tf.train.list_variables(str(export("single").folder / "variables/variables"))
        weights = [shape for name, shape in names if name.startswith("weights/")]
        of_run = tf.train.list_variables(str(runs["single"] / "bert_model.ckpt"))
        # Three projections of a layer are one, in the first of two: the last asks for [CLS] alone.
        assert sum(map(np.prod, weights)) == sum(np.prod(shape) for _, shape in of_run)
        assert len(weights) == len(of_run) - (6 - 2)

    def test_the_next_version(self, runs, tmp_path, capsys):
        command = ["export", f"--model_dir={runs['single']}", f"--export_dir={tmp_path}"]
        (tmp_path / "7").mkdir()
        (tmp_path / "notes").mkdir()
        assert main(command) == 0
        assert capsys.readouterr().out == f"{tmp_path / '8'}\n"
        assert main([*command, "--version=8"]) == 2
        assert "version 8 is there already" in capsys.readouterr().err

    def test_of_a_folder_of_versions_the_latest_answers(self, export, tmp_path, capsys):
        for number, name in ((9, "single"), (10, "regression")):
            (tmp_path / f"{number}").symlink_to(export(name).folder)
        (tmp_path / "11").mkdir()  # empty
        capsys.readouterr()
        assert main(["predict", f"--model_dir={tmp_path}", "the"]) == 0
        assert set(json.loads(capsys.readouterr().out)) == {"text", "score"}
        assert main(["predict", f"--model_dir={tmp_path / '9'}", "the"]) == 0
        assert json.loads(capsys.readouterr().out)["label"] in LABELS
        assert main(["predict", f"--model_dir={tmp_path}", "--top_k=3", "the"]) == 2
        assert f"{tmp_path / '10'}: an export for classification" in capsys.readouterr().err

    def test_what_a_killed_export_left_is_removed_and_nothing_else(self, tmp_path):
        with new_version(tmp_path, None) as (folder, _):
            unfinished = folder.name
        (tmp_path / unfinished / "variables").mkdir(parents=True)
        others = {
            ".cache.tmp",
            ".1.tmp",
            ".1.copy.0123abcd.tmp",
            ".x.0123abcd.tmp",
            "1.0123abcd.tmp",
        }
        for name in others:
            (tmp_path / name).mkdir()
        with new_version(tmp_path, None) as (folder, number):
            assert number == 2
            there = {item.name for item in tmp_path.iterdir()}
            assert there == {*others, "1", ".lock", folder.name} - {unfinished}


def tree(folder):
    """Each file below a folder and its content, each folder and None."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.name != ".lock"
    }


class TestAFailure:
    """It is one line that names the folder, leaves nothing, and the same command succeeds then."""

    @pytest.fixture
    def command(self, runs):
        return ["export", f"--model_dir={runs['large']}"]

    @pytest.fixture
    def fails(self, command, tmp_path, capsys):
        """Checks that an export fails, and that it leaves what was there; returns what it says."""
        export_dir = tmp_path / "versions"

        def fails(*flags):
            before = tree(tmp_path)
            capsys.readouterr()
            assert main([*command, f"--export_dir={export_dir}", *flags]) == 2
            printed = capsys.readouterr()
            assert printed.out == ""
            (said,) = [line for line in printed.err.splitlines() if line.startswith("bert-tf: ")]
            assert printed.err.endswith(f"{said}\n")
            assert str(export_dir) in said
            assert ".tmp" not in said  # a folder that is gone
            assert tree(tmp_path) == {**before, "versions": None}
            return said

        return fails

    @pytest.mark.parametrize(
        ("runtime", "weights", "less"),
        [
            ("tensorflow", "variables/variables.data-00000-of-00001", 1),
            ("litert", litert.FILE, 1),
            ("onnx", onnx_file.FILE, 5000),  # names in it have numbers that become longer
        ],
    )
    def test_a_full_disk(self, runtime, weights, less, command, fails, tmp_path):
        if runtime == "onnx":
            pytest.importorskip("tf2onnx", reason="the extra onnx is not installed")
        flag = f"--runtime={runtime}"

        def fails_with(room):
            with full_disk(room):
                said = fails(flag)
            assert "cannot write" in said and "File too large" in said

        fails_with(0)
        fails_with(1000)
        assert main([*command, f"--export_dir={tmp_path / 'versions'}", flag]) == 0
        folder = tmp_path / "versions" / "1"
        sizes = {str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*.*")}
        assert max(sizes, key=sizes.get) == weights
        # What has a version already is as it would be without one.
        fails_with(sizes[weights] - less)

    def test_a_disk_that_is_full_at_the_last(self, fails, monkeypatch):
        write_warm_up = saved_model.write_warm_up

        def without_room(*arguments, **named):
            with full_disk(0):
                write_warm_up(*arguments, **named)

        monkeypatch.setattr(saved_model, "write_warm_up", without_room)
        assert "cannot write the warm-up requests: " in fails()

    def test_a_killed_process(self, command, tmp_path, capsys):
        """At the last moment, when all is written but the version has no name yet."""
        command = [*command, f"--export_dir={tmp_path}"]
        wait = "from bert_tf.export import exporter; import signal\n"
        wait += "exporter.write_model_card = lambda *arguments: signal.pause()\n"
        process = Forked(wait + COMMAND, *command)
        while not list(tmp_path.glob(".1.*.tmp/assets.extra/labels.txt")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        assert main(command) == 2
        assert f"--export_dir {tmp_path}: in use by another process" in capsys.readouterr().err
        process.kill()
        assert process.wait(60) == -signal.SIGKILL
        left = {item.name for item in tmp_path.iterdir()}
        assert len(left) == 2 and ".lock" in left  # and a name that no server takes for a version
        assert main(command) == 0
        assert {item.name for item in tmp_path.iterdir()} == {".lock", "1"}
        assert tree(tmp_path)["1/assets.extra/model_card.json"]

    @pytest.mark.parametrize(
        ("name", "why"),
        [
            ("file", "File exists"),
            ("file/deep/versions", "Not a directory"),
            ("n" * 300, "File name too long"),
        ],
    )
    def test_a_folder_that_cannot_be_made(self, name, why, command, tmp_path, capsys):
        (tmp_path / "file").write_text("mine")
        folder = tmp_path / name
        assert main([*command, f"--export_dir={folder}"]) == 2
        said = capsys.readouterr().err
        assert said == f"bert-tf: --export_dir {folder}: cannot write there: {why}\n"
        assert tree(tmp_path) == {"file": b"mine"}
        if name == "file/deep/versions":
            (tmp_path / "file").unlink()
            assert main([*command, f"--export_dir={folder}"]) == 0
            assert (folder / "1" / "saved_model.pb").is_file()


def test_quickstart_leaves_what_is_in_the_export_dir(tmp_path, monkeypatch, capsys):
    sample = importlib.resources.files("bert_tf") / "data" / "support_messages"
    run = make_run(
        tmp_path / "run",
        lambda config: BertClassifier(config, 3),
        "run_classifier",
        {"max_seq_length": 19, "train_file": str(sample / "train.tsv")},
        LABELS,
    )
    monkeypatch.setattr("bert_tf.default_checkpoint.obtain", lambda folder: folder)
    monkeypatch.setattr(classification, "run", lambda settings: {"eval_accuracy": 0.5})
    (tmp_path / "versions" / "1").mkdir(parents=True)
    (tmp_path / "versions" / "1" / "mine.txt").write_text("mine")
    flags = [f"--output_dir={run}", f"--export_dir={tmp_path / 'versions'}", "--text=the"]
    for version in ("2", "3"):
        assert main(["quickstart", *flags]) == 0
        printed = capsys.readouterr()
        assert json.loads(printed.out)["label"] in LABELS
        assert str(tmp_path / "versions" / version) in printed.err
    assert (tmp_path / "versions" / "1" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("single", ["--task=tagging"], "not the folder of a run_tagger run"),
        ("single", ["--task=similarity"], "task 'similarity' is not known"),
        ("single", ["--top_k=3"], "top_k is no option of classification"),
        ("single", ["--max_seq_length=42"], "max_position_embeddings, 41"),
        ("single", ["--max_seq_length=2"], "max_seq_length 2 is too small"),
        ("single", ["--max_seq_length=2", "--runtime=litert"], "it must be at least 3"),
        ("tail", ["--max_seq_length=2"], "leaves no room beside [CLS] and [SEP]"),
        ("pairs", ["--max_seq_length=4"], "it must be at least 5"),
        ("choices", ["--max_seq_length=4"], "it must be at least 5"),
        ("pretraining", ["--max_seq_length=4"], "it must be at least 5"),
        ("single", ["--max_seq_length=4", "--task=features"], "it must be at least 5"),
        ("single", ["--batch_size=0"], "--batch_size must be at least 1"),
        ("pretraining", ["--top_k=100"], "top_k must lie in 1 to"),
        ("single", ["--precision=int8"], "--runtime=tensorflow has float32, bfloat16, float16"),
        ("single", ["--dev_file=dev.tsv"], "for conversions to another --runtime"),
        ("single", ["--runtime=onnx", "--batch_size=3"], "the shapes are those of what is fed"),
    ],
)
def test_wrong_flags(name, flags, message, runs, tmp_path, capsys):
    folder = tmp_path / "versions"
    assert main(["export", f"--model_dir={runs[name]}", f"--export_dir={folder}", *flags]) == 2
    assert message in capsys.readouterr().err
    assert [item.name for item in folder.glob("*")] in ([], [".lock"])


@pytest.mark.parametrize(
    ("task", "flags", "settings"),
    [
        ("fill_mask", {"top_k": 3, "do_lower_case": False}, {}),
        ("features", {"pooling": "max", "layer": 0}, {"normalize": False, "do_lower_case": True}),
    ],
)
def test_what_a_model_is_exported_with_is_known(task, flags, settings, runs):
    served = EXPORTERS[task](runs["pretraining"], Export(model_dir="-", export_dir="-"), **flags)
    assert served.settings == {"max_seq_length": 41, **flags, **settings}


@pytest.mark.parametrize(
    "task", ["classification", "tagging", "multiple_choice", "question_answering"]
)
def test_a_bare_checkpoint_has_no_such_head(task, runs, tmp_path, capsys):
    prefix = runs["single"]
    files = [
        f"--vocab_file={prefix / 'vocab.txt'}",
        f"--bert_config_file={prefix / 'bert_config.json'}",
        f"--init_checkpoint={prefix / 'bert_model.ckpt'}",
    ]
    assert main(["export", f"--task={task}", f"--export_dir={tmp_path}", *files]) == 2
    assert "give its folder as --model_dir" in capsys.readouterr().err


def test_no_export_dir(runs, capsys):
    assert main(["export", f"--model_dir={runs['single']}"]) == 2
    assert "--export_dir is missing" in capsys.readouterr().err

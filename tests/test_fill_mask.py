"""Tests of bert_tf.tasks.fill_mask, and of how Predictor and ``bert-tf predict`` come to it."""

import json
import shutil
import string

import keras
import numpy as np
import pytest

import bert_tf
from bert_tf import run_folder
from bert_tf.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, write_tensors
from bert_tf.cli.main import main
from bert_tf.config import BertConfig, ModelFiles
from bert_tf.errors import InputError
from bert_tf.heads import BertPretrainer
from bert_tf.predictor import LOADERS, Predictor
from bert_tf.tasks.fill_mask import MaskFiller, Pretrained
from bert_tf.tasks.model_task import TASKS
from bert_tf.tokenization import FullTokenizer, Vocabulary
from bert_tf.use_config import Prediction

LONGEST = 37  # positions of the model; no multiple of what rows are padded to

TEXTS = [
    "[MASK]",
    "the river of [MASK] daughter",
    ("he went to the [MASK]", "it was [MASK][MASK] then"),
    "un[MASK]able [MASK]",
    ("the river is long", "many towns are there"),
    "The [mask] and [CLS] and [SEP] and [unused0], [MASK]!",
    ("", "[MASK] of nothing"),
    "naïve \t café [MASK]\n[MASK] 中文 [MASK]",
    ("[MASK] [MASK] a b c d e f", "g"),
]


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A model with strong random weights, so that each place has another answer."""
    folder = tmp_path_factory.mktemp("released") / "uncased_L-2_H-12_A-3"
    folder.mkdir()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]"]
    letters = [mark + letter for letter in string.ascii_lowercase for mark in ("", "##")]
    pieces = [*special, *letters, *"[]!中", "the", "of", "river", "##able"]
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=20,
        max_position_embeddings=LONGEST,
        type_vocab_size=2,
        initializer_range=0.7,
    )
    (folder / "bert_config.json").write_text(config.to_json_string())
    keras.utils.set_random_seed(3)
    save_checkpoint(BertPretrainer(config), folder / "bert_model.ckpt")
    return folder


@pytest.fixture(scope="module")
def model(released):
    return load_model(released, "bert_model.ckpt")


def load_model(folder, name):
    model = BertPretrainer(BertConfig.from_json_file(folder / "bert_config.json"))
    load_checkpoint(model, folder / name)
    return model


@pytest.fixture(scope="module")
def predictor(released):
    return Predictor.load(released, 2, task="fill_mask", top_k=3)


@pytest.fixture(scope="module")
def expected(predictor):
    return predictor.predict(TEXTS)


def assert_same(results, expected):
    """Equal, but for what padding and the size of a batch do to floats."""
    for result, other in zip(results, expected, strict=True):
        assert _pieces(result) == _pieces(other)
        np.testing.assert_allclose(_scores(result), _scores(other), rtol=1e-4)


def _pieces(result):
    kept = {key: value for key, value in result.items() if key != "next_sentence_probability"}
    masks = [
        {**mask, "predictions": [prediction["piece"] for prediction in mask["predictions"]]}
        for mask in result["masks"]
    ]
    return {**kept, "masks": masks}


def _scores(result):
    scores = [p["score"] for mask in result["masks"] for p in mask["predictions"]]
    return [result.get("next_sentence_probability", 0.0), *scores]


def copy_of(folder, tmp_path, run_config=None):
    """A copy, of a run if it is given what run_config.yaml holds."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    if run_config is not None:
        run_folder.write_json(copy / "run_config.yaml", run_config)  # JSON is YAML
    return copy


def softmax(logits):
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def one_by_one(model, tokenizer, text):
    """What the model says of one text alone, without padding: probabilities, and of the pair."""
    pieces, segments = ["[CLS]"], [0]
    for segment, part in enumerate([text] if isinstance(text, str) else text):
        for number, between in enumerate(part.split("[MASK]")):
            pieces += ["[MASK]"] * (number > 0) + tokenizer.tokenize(between)
        pieces.append("[SEP]")
        segments += [segment] * (len(pieces) - len(segments))
    places = [i for i, piece in enumerate(pieces) if piece == "[MASK]"]
    outputs = model(
        {
            "input_ids": np.array([tokenizer.convert_tokens_to_ids(pieces)]),
            "segment_ids": np.array([segments]),
            "masked_lm_positions": np.array([places or [0]]),
        }
    )
    masks = softmax(outputs["masked_lm_logits"].numpy()[0])[: len(places)]
    return masks, softmax(outputs["next_sentence_logits"].numpy()[0])[0]


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_answers_are_the_models_on_each_text_alone(released, model, batch_size):
    tokenizer = FullTokenizer(released / "vocab.txt")
    predictor = Predictor.load(released, batch_size, task="fill_mask", top_k=4)
    results = predictor.predict(TEXTS)
    for text, result in zip(TEXTS, results, strict=True):
        masks, next_sentence = one_by_one(model, tokenizer, text)
        assert len(result["masks"]) == len(masks)
        for mask, probabilities in zip(result["masks"], masks, strict=True):
            named = mask["predictions"]
            scores = [prediction["score"] for prediction in named]
            ids = tokenizer.convert_tokens_to_ids(prediction["piece"] for prediction in named)
            np.testing.assert_allclose(scores, probabilities[ids], rtol=1e-4)
            np.testing.assert_allclose(scores, np.sort(probabilities)[:-5:-1], rtol=1e-4)
        if isinstance(text, str):
            assert list(result) == ["text", "masks"]
            assert result["text"] == text
        else:
            assert list(result) == ["text", "text_b", "next_sentence_probability", "masks"]
            assert (result["text"], result["text_b"]) == text
            assert result["next_sentence_probability"] == pytest.approx(next_sentence, rel=1e-4)


class Numbers:
    """A tokenizer whose texts are ids, written as numbers."""

    def __init__(self, vocabulary):
        self.vocabulary = vocabulary

    def encode_batch(self, texts):
        rows = [[int(number) for number in text.split()] for text in texts]
        return np.concatenate(rows).astype(np.int32), np.cumsum([0, *map(len, rows)])


def test_answers_are_the_originals(testdata):
    folder = testdata / "original_tiny"
    golden = np.load(folder / "forward.npz")
    vocabulary = Vocabulary(folder / "vocab.txt")
    model = load_model(folder, "model.ckpt-300")
    rows = golden["input/input_ids"]
    written = {vocabulary.mask_id: "[MASK]"}
    texts = []
    for row, mask in zip(rows, golden["input/input_mask"], strict=True):
        _, *ids = row[: mask.sum()]
        ends = [i for i, piece in enumerate(ids) if piece == vocabulary.sep_id]
        parts = ids[: ends[0]], ids[ends[0] + 1 : ends[1]]
        texts.append(tuple(" ".join(written.get(i, str(i)) for i in part) for part in parts))
    pretrained = Pretrained(model, Numbers(vocabulary), model.config.max_position_embeddings)
    filler = MaskFiller(pretrained, top_k=len(vocabulary))
    results = filler.predict(texts, 3, str)

    log_probs = golden["mlm_log_probs"].reshape(len(rows), -1, len(vocabulary))
    compared = 0
    for i, result in enumerate(results):
        next_sentence = np.exp(golden["nsp_log_probs"][i, 0])
        assert result["next_sentence_probability"] == pytest.approx(next_sentence, rel=1e-6)
        positions = golden["input/masked_lm_positions"][i]
        masked = np.flatnonzero(rows[i, positions] == vocabulary.mask_id)  # others were not masked
        assert len(masked) == len(result["masks"])
        for number, mask in zip(masked, result["masks"], strict=True):
            scores = {p["piece"]: p["score"] for p in mask["predictions"]}
            found = [scores[piece] for piece in vocabulary.pieces]
            np.testing.assert_allclose(found, np.exp(log_probs[i, number]), rtol=5e-6)
            compared += 1
    assert compared > 20


def test_positions_are_those_in_the_texts(predictor):
    results = predictor.predict(TEXTS)
    for text, result in zip(TEXTS, results, strict=True):
        for mask in result["masks"]:
            assert set(mask) - {"in"} == {"position", "predictions"}
            part = result[mask.get("in", "text")]
            assert part[mask["position"] :].startswith("[MASK]")
            assert ("in" in mask) is isinstance(text, tuple)
            assert len(mask["predictions"]) == 3
        places = [(mask.get("in"), mask["position"]) for mask in result["masks"]]
        assert len(places) == len(set(places)) == str(text).count("[MASK]")
    assert [mask["position"] for mask in results[2]["masks"]] == [15, 7, 13]
    assert [mask["in"] for mask in results[2]["masks"]] == ["text", "text_b", "text_b"]


def test_nothing_gives_nothing(predictor):
    assert predictor.predict([]) == []


def test_the_longest_text_fits_and_a_longer_one_is_refused(predictor):
    assert predictor.predict(["[MASK]" * (LONGEST - 2)])
    with pytest.raises(InputError, match=rf"texts\[1\]: {LONGEST + 1} word pieces .* {LONGEST} "):
        predictor.predict(["[MASK]", "[MASK]" + " the" * (LONGEST - 2)])
    assert predictor.predict([("the " * 16, "[MASK]" * 18)])
    with pytest.raises(InputError, match=rf"texts\[2\]: {LONGEST + 1} word pieces"):
        predictor.predict(["[MASK]", ("a", "a"), ("the " * 16, "[MASK]" * 19)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no mask", r"texts\[1\]: has no \[MASK\] to fill, and is no pair of texts: 'no mask'"),
        ("[mask]", r"texts\[1\]: has no \[MASK\]"),
        (7, r"texts\[1\] must be a str or a pair"),
        (("a", "b", "c"), r"texts\[1\] must be a str or a pair"),
        (("[MASK]", 3), r"texts\[1\] must be a str or a pair"),
    ],
)
def test_other_inputs_are_refused(predictor, text, message):
    with pytest.raises(InputError, match=message):
        predictor.predict(["[MASK]", text])
    with pytest.raises(InputError, match="a list of texts, not one text"):
        predictor.predict("[MASK]")


@pytest.mark.parametrize("top_k", [0, 67])
def test_top_k_is_checked(released, top_k):
    with pytest.raises(InputError, match=f"top_k must lie in 1 to 66.*is {top_k}"):
        Predictor.load(released, task="fill_mask", top_k=top_k)


def files_of(folder):
    return ModelFiles(
        vocab_file=str(folder / "vocab.txt"),
        bert_config_file=str(folder / "bert_config.json"),
        init_checkpoint=str(folder / "bert_model.ckpt"),
    )


PRETRAINING = {"command": "run_pretraining", "do_lower_case": None, "next_sentence": "nsp"}


class TestLoading:
    def test_a_pretraining_run_fills_masks_by_itself(self, released, expected, tmp_path):
        folder = copy_of(released, tmp_path, PRETRAINING)
        assert_same(Predictor.load(folder, top_k=3).predict(TEXTS), expected)
        assert len(Predictor.load(folder).predict(["[MASK]"])[0]["masks"][0]["predictions"]) == 5

    def test_named_files(self, released, expected):
        files = files_of(released)
        loaded = Predictor.load(files, task="fill_mask", top_k=3)
        assert_same(loaded.predict(TEXTS), expected)
        with pytest.raises(InputError, match="give a task: fill_mask"):
            Predictor.load(files)
        with pytest.raises(InputError, match="--model_dir"):
            Predictor.load(files, task="classification")
        with pytest.raises(InputError, match="--vocab_file is missing"):
            Predictor.load(ModelFiles(bert_config_file=files.bert_config_file), task="fill_mask")

    def test_casing_is_the_runs_or_the_names_or_what_is_given(self, released, tmp_path):
        def pieces(folder, **options):
            texts = ["The The [MASK]"]
            predictor = Predictor.load(folder, task="fill_mask", top_k=1, **options)
            return predictor.predict(texts)[0]["masks"][0]["predictions"][0]["score"]

        uncased, cased = pieces(released), pieces(released, do_lower_case=False)
        assert uncased != pytest.approx(cased, rel=1e-2)
        run = copy_of(released, tmp_path, {**PRETRAINING, "do_lower_case": False})
        assert pieces(run) == pieces(files_of(run)) == cased
        assert pieces(run, do_lower_case=True) == uncased
        (run / "run_config.yaml").unlink()
        assert pieces(run) == uncased
        assert pieces(shutil.move(run, tmp_path / "cased_L-2_H-12_A-3")) == cased

    def test_a_checkpoint_without_the_masked_lm_head(self, released, tmp_path):
        folder = copy_of(released, tmp_path)
        keep_weights(folder, lambda name: name.startswith("bert/"))
        with pytest.raises(InputError, match=r"ckpt has no masked-LM head \(cls/predictions/…\)"):
            Predictor.load(folder, task="fill_mask")

    def test_half_a_head_is_refused(self, released, tmp_path):
        folder = copy_of(released, tmp_path)
        keep_weights(folder, lambda name: name != "cls/predictions/output_bias")
        with pytest.raises(InputError, match="cls/predictions/output_bias"):
            Predictor.load(folder, task="fill_mask")

    @pytest.mark.parametrize("scope", ["cls/seq_relationship", "bert/pooler"])
    def test_a_checkpoint_without_the_next_sentence_head(
        self, released, predictor, tmp_path, scope
    ):
        folder = copy_of(released, tmp_path)
        keep_weights(folder, lambda name: not name.startswith(scope))
        self.check_without_next_sentence(Predictor.load(folder, task="fill_mask", top_k=3))

    def test_a_run_that_did_not_train_the_next_sentence_head(self, released, tmp_path):
        folder = copy_of(released, tmp_path, {**PRETRAINING, "next_sentence": "none"})
        self.check_without_next_sentence(Predictor.load(folder, top_k=3))
        files = Predictor.load(files_of(folder), task="fill_mask", top_k=3)
        self.check_without_next_sentence(files)

    def check_without_next_sentence(self, predictor):
        (result,) = predictor.predict([("a [MASK]", "b")])
        assert list(result) == ["text", "text_b", "masks"]
        with pytest.raises(InputError, match=r"texts\[0\]: a pair without \[MASK\]"):
            predictor.predict([("a", "b")])

    @pytest.mark.parametrize("name", ["bert_config.json", "vocab.txt", "bert_model.ckpt.index"])
    def test_a_file_that_is_missing_is_named(self, released, tmp_path, name):
        folder = copy_of(released, tmp_path, PRETRAINING)
        (folder / name).unlink()
        with pytest.raises(InputError, match=f"copy: has no {name}"):
            Predictor.load(folder)

    def test_a_vocabulary_of_another_model(self, released, tmp_path):
        folder = copy_of(released, tmp_path)
        with (folder / "vocab.txt").open("a") as file:
            file.write("onemore\n")
        with pytest.raises(InputError, match=r"has 67 pieces, but .* vocab_size 66"):
            Predictor.load(folder, task="fill_mask")

    @pytest.mark.parametrize(
        ("run_config", "options", "message"),
        [
            (None, {}, "no run_config.yaml.*task fill_mask"),
            ({"command": "run_pasta"}, {}, "'run_pasta', from which nothing predicts"),
            (PRETRAINING, {"task": "fill_masks"}, "'fill_masks' is not known.*did you mean"),
            (PRETRAINING, {"task": "classification"}, "not the folder of a run_classifier run"),
            (PRETRAINING, {"topk": 3}, "topk is no option of fill_mask, which has top_k, do_lower"),
            (PRETRAINING, {"batch_size": 0}, "batch_size must be at least 1"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, released, tmp_path, run_config, options, message):
        folder = copy_of(released, tmp_path, run_config)
        with pytest.raises(InputError, match=message):
            Predictor.load(folder, **options)

    def test_no_folder(self, tmp_path):
        with pytest.raises(InputError, match="none: not the folder of a trained model"):
            Predictor.load(tmp_path / "none")
        with pytest.raises(InputError, match=r"none: has no bert_config\.json"):
            Predictor.load(tmp_path / "none", task="fill_mask")


def keep_weights(folder, wanted):
    checkpoint = Checkpoint(folder / "bert_model.ckpt")
    names = [name for name in checkpoint.shapes if wanted(name)]
    assert 0 < len(names) < len(checkpoint.shapes)
    tensors = dict(zip(names, checkpoint.read(names), strict=True))
    write_tensors(tensors, folder / "bert_model.ckpt")


class TestCommand:
    @pytest.mark.parametrize("flag", ["model_dir", "checkpoint"])
    def test_prints_what_python_gives(self, released, predictor, capsys, flag):
        lines = ["the [MASK] of\tthe [MASK]", "[MASK] ïs"]
        flags = ["--task=fill_mask", f"--{flag}={released}", "--top_k=3", "--batch_size=2"]
        assert main(["predict", *flags, *lines]) == 0
        printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert_same(printed, predictor.predict([("the [MASK] of", "the [MASK]"), lines[1]]))

    def test_each_file_by_its_own_flag(self, released, predictor, tmp_path, capsys):
        (tmp_path / "lines.txt").write_text("a [MASK]\nb [MASK]\nc [MASK]\n")
        assert main([
            "predict", "--task=fill_mask", f"--vocab_file={released}/vocab.txt", "--top_k=3",
            f"--bert_config_file={released}/bert_config.json", "--batch_size=2",
            f"--init_checkpoint={released}/bert_model.ckpt",
            f"--input_file={tmp_path}/lines.txt",
        ]) == 0  # fmt: skip
        printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert_same(printed, predictor.predict(["a [MASK]", "b [MASK]", "c [MASK]"]))

    def test_an_error_names_the_inputs_number_in_all(self, released, tmp_path, capsys):
        lines = [*["a [MASK]"] * 64, "b [MASK]", "c"]  # 64 are predicted at once
        (tmp_path / "lines.txt").write_text("".join(f"{line}\n" for line in lines))
        command = ["predict", "--task=fill_mask", f"--model_dir={released}", "--batch_size=1"]
        assert main([*command, f"--input_file={tmp_path}/lines.txt"]) == 2
        printed = capsys.readouterr()
        assert len(printed.out.splitlines()) == 64
        assert "input 66: has no [MASK]" in printed.err
        assert main([*command, "a\tb\tc"]) == 2
        assert "input 1: expected a text, or two with one tab" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            ([], "--model_dir is missing"),
            (["--model_dir=a", "--vocab_file=b"], "give --model_dir or --vocab_file, not both"),
            (["--model_dir=a", "--top_k=0"], "--top_k must be at least 1"),
            (["--model_dir=a", "--task=poetry"], "--task=poetry"),
        ],
    )
    def test_wrong_flags(self, flags, message, capsys):
        assert main(["predict", *flags, "text"]) == 2
        assert message in capsys.readouterr().err

    def test_casing_goes_with_a_folder(self, released, capsys):
        command = ["predict", "--task=fill_mask", f"--model_dir={released}", "The The [MASK]"]
        outputs = []
        for flags in ([], ["--do_lower_case=false"]):
            assert main([*command, *flags]) == 0
            outputs.append(capsys.readouterr().out)
        assert outputs[0] != outputs[1]

    def test_its_tasks_are_the_predictors(self):
        fields = Prediction.__dataclass_fields__
        assert tuple(fields["task"].metadata["choices"]) == tuple(LOADERS) == tuple(TASKS)


def test_a_classifiers_folder_has_no_such_head(released, tmp_path):
    folder = copy_of(released, tmp_path, {"command": "run_classifier"})
    keep_weights(folder, lambda name: not name.startswith("cls/"))
    with pytest.raises(InputError, match="has no masked-LM head"):
        bert_tf.Predictor.load(folder, task="fill_mask")

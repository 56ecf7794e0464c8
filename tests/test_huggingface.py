"""Tests of bert_tf.interop.huggingface: folders made here, against HF's BERT in float64 NumPy."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import scipy.special

from bert_tf.checkpoint import Checkpoint, load_checkpoint
from bert_tf.config import HIDDEN_ACTS, BertConfig
from bert_tf.errors import InputError
from bert_tf.heads import BertClassifier, BertPretrainer
from bert_tf.interop.conversion import convert
from bert_tf.interop.huggingface_names import ACTIVATIONS, NAMES, is_transposed
from bert_tf.interop.weights import PARTS, expand
from bert_tf.modeling import BertModel

VOCAB_SIZE, HIDDEN, LAYERS, HEADS, INNER, POSITIONS, SEGMENTS, LABELS = 29, 12, 3, 2, 20, 17, 5, 7

CONFIG = {
    "architectures": ["BertModel"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.2,
    "hidden_size": HIDDEN,
    "initializer_range": 0.02,
    "intermediate_size": INNER,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": POSITIONS,
    "model_type": "bert",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "type_vocab_size": SEGMENTS,
    "vocab_size": VOCAB_SIZE,
}
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwx"]
STEPS = {
    "normalizer": {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": True,
    },
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "model": {"type": "WordPiece", "vocab": {piece: i for i, piece in enumerate(PIECES)}},
}

INPUTS = {
    "input_ids": np.array([[2, 5, 7, 9, 3], [2, 4, 3, 0, 0]], np.int32),
    "input_mask": np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32),
    "segment_ids": np.array([[0, 0, 1, 4, 2], [0, 3, 3, 0, 0]], np.int32),
}

# A transformers class -> its tensors beside embeddings and layers, as it writes them.
POOLER = {"bert.pooler.dense.weight": (HIDDEN, HIDDEN), "bert.pooler.dense.bias": (HIDDEN,)}
MASKED_LM = {
    "cls.predictions.bias": (VOCAB_SIZE,),
    "cls.predictions.transform.dense.weight": (HIDDEN, HIDDEN),
    "cls.predictions.transform.dense.bias": (HIDDEN,),
    "cls.predictions.transform.LayerNorm.weight": (HIDDEN,),
    "cls.predictions.transform.LayerNorm.bias": (HIDDEN,),
}
NEXT_SENTENCE = {"cls.seq_relationship.weight": (2, HIDDEN), "cls.seq_relationship.bias": (2,)}
CLASSIFIER = {"classifier.weight": (LABELS, HIDDEN), "classifier.bias": (LABELS,)}
SPAN = {"qa_outputs.weight": (2, HIDDEN), "qa_outputs.bias": (2,)}
CLASSES = {
    "BertModel": POOLER,
    "BertForPreTraining": POOLER | MASKED_LM | NEXT_SENTENCE,
    "BertForMaskedLM": MASKED_LM,
    "BertForNextSentencePrediction": POOLER | NEXT_SENTENCE,
    "BertForSequenceClassification": POOLER | CLASSIFIER,
    "BertForTokenClassification": CLASSIFIER,
    "BertForQuestionAnswering": SPAN,
}


def make_tensors(architecture="BertModel"):
    shapes = {
        "bert.embeddings.word_embeddings.weight": (VOCAB_SIZE, HIDDEN),
        "bert.embeddings.position_embeddings.weight": (POSITIONS, HIDDEN),
        "bert.embeddings.token_type_embeddings.weight": (SEGMENTS, HIDDEN),
        "bert.embeddings.LayerNorm.weight": (HIDDEN,),
        "bert.embeddings.LayerNorm.bias": (HIDDEN,),
    }
    for i in range(LAYERS):
        for name, outputs, inputs in (
            ("attention.self.query", HIDDEN, HIDDEN),
            ("attention.self.key", HIDDEN, HIDDEN),
            ("attention.self.value", HIDDEN, HIDDEN),
            ("attention.output.dense", HIDDEN, HIDDEN),
            ("intermediate.dense", INNER, HIDDEN),
            ("output.dense", HIDDEN, INNER),
        ):
            shapes[f"bert.encoder.layer.{i}.{name}.weight"] = (outputs, inputs)
            shapes[f"bert.encoder.layer.{i}.{name}.bias"] = (outputs,)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"bert.encoder.layer.{i}.{name}.weight"] = (HIDDEN,)
            shapes[f"bert.encoder.layer.{i}.{name}.bias"] = (HIDDEN,)
    shapes |= CLASSES[architecture]
    random = np.random.default_rng(3)
    return {name: random.normal(0, 0.4, shape).astype("f") for name, shape in shapes.items()}


def make_folder(folder, tensors=None, architecture="BertModel", tokenizer=None, **config):
    """A folder as transformers writes it; a value None in ``config`` takes the key out."""
    folder.mkdir(parents=True, exist_ok=True)
    values = CONFIG | {"architectures": [architecture]} | config
    if CLASSES[architecture].keys() & CLASSIFIER.keys() and "id2label" not in config:
        values["id2label"] = {str(i): f"label {i}" for i in reversed(range(LABELS))}
    values = {key: value for key, value in values.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"do_lower_case": True} if tokenizer is None else tokenizer)
    )
    tensors = make_tensors(architecture) if tensors is None else tensors
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    return folder


def reference(tensors, activation=lambda x: 0.5 * x * (1 + scipy.special.erf(x / np.sqrt(2)))):
    """HF's BERT in float64: (sequence output, pooled output, masked-LM logits), where there."""
    tensors = {name: value.astype(np.float64) for name, value in tensors.items()}

    def linear(x, name):
        return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    def layer_norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)
        return x * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    table = tensors["bert.embeddings.word_embeddings.weight"]
    x = table[INPUTS["input_ids"]]
    x = x + tensors["bert.embeddings.position_embeddings.weight"][np.newaxis, : x.shape[1]]
    x = x + tensors["bert.embeddings.token_type_embeddings.weight"][INPUTS["segment_ids"]]
    x = layer_norm(x, "bert.embeddings.LayerNorm")
    mask = np.where(INPUTS["input_mask"], 0.0, -np.inf)[:, np.newaxis, np.newaxis]
    for i in range(LAYERS):
        layer = f"bert.encoder.layer.{i}"
        query, key, value = (
            linear(x, f"{layer}.attention.self.{name}").reshape(2, 5, HEADS, -1)
            for name in ("query", "key", "value")
        )
        scores = np.einsum("bfnd,btnd->bnft", query, key) / np.sqrt(HIDDEN // HEADS) + mask
        context = np.einsum("bnft,btnd->bfnd", scipy.special.softmax(scores, -1), value)
        attended = linear(context.reshape(x.shape), f"{layer}.attention.output.dense")
        x = layer_norm(x + attended, f"{layer}.attention.output.LayerNorm")
        inner = activation(linear(x, f"{layer}.intermediate.dense"))
        x = layer_norm(x + linear(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    pooled, logits = None, None
    if "bert.pooler.dense.weight" in tensors:
        pooled = np.tanh(linear(x[:, 0], "bert.pooler.dense"))
    if "cls.predictions.bias" in tensors:
        y = activation(linear(x, "cls.predictions.transform.dense"))
        y = layer_norm(y, "cls.predictions.transform.LayerNorm")
        logits = y @ table.T + tensors["cls.predictions.bias"]
    return x, pooled, logits


def assert_equal_outputs(target, tensors, **arguments):
    model = BertModel(BertConfig.from_json_file(target / "bert_config.json"), seed=1)
    load_checkpoint(model, target, allow_missing=["bert/pooler/*"])
    outputs = model(INPUTS)
    sequence, pooled, _ = reference(tensors, **arguments)
    np.testing.assert_allclose(outputs["sequence_output"], sequence, rtol=0, atol=1e-5)
    if pooled is not None:
        np.testing.assert_allclose(outputs["pooled_output"], pooled, rtol=0, atol=1e-5)


def read(target):
    checkpoint = Checkpoint(target)
    names = list(checkpoint.shapes)
    return dict(zip(names, (value.numpy() for value in checkpoint.read(names)), strict=True))


# --- equal outputs ------------------------------------------------------------------------------


def test_the_result_computes_what_the_source_does(tmp_path):
    tensors = make_tensors()
    source = make_folder(tmp_path / "source", tensors)
    result = convert(source, tmp_path / "new" / "target")
    assert_equal_outputs(result.target, tensors)
    assert sorted(path.name for path in result.target.iterdir()) == [
        "bert_config.json",
        "bert_model.ckpt.data-00000-of-00001",
        "bert_model.ckpt.index",
        "vocab.txt",
    ]
    assert (result.target / "vocab.txt").read_bytes() == (source / "vocab.txt").read_bytes()
    assert result.config.hidden_act == "gelu_erf"
    assert result.config.hidden_dropout_prob == 0.2
    assert (result.model.heads, result.model.labels, result.remarks) == ((), (), ())
    assert result.model.tokenizer.do_lower_case is True
    assert "source: found a Hugging Face folder (BertModel)" in str(result)
    assert "--do_lower_case=true" in str(result)


def test_pretraining_heads(tmp_path):
    tensors = make_tensors("BertForPreTraining")
    # Both copies of a tied tensor may be in the file.
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"]
    source = make_folder(tmp_path / "source", tensors, "BertForPreTraining")
    result = convert(source, tmp_path / "target")
    assert result.model.heads == ("masked_lm", "next_sentence")
    assert result.remarks == ()
    model = BertPretrainer(result.config, seed=1)
    load_checkpoint(model, result.target)
    positions = np.tile(np.arange(5, dtype=np.int32), [2, 1])
    outputs = model({**INPUTS, "masked_lm_positions": positions})
    _, pooled, logits = reference(tensors)
    np.testing.assert_allclose(outputs["masked_lm_logits"], logits, rtol=0, atol=5e-5)
    next_sentence = pooled @ tensors["cls.seq_relationship.weight"].T
    next_sentence += tensors["cls.seq_relationship.bias"]
    np.testing.assert_allclose(outputs["next_sentence_logits"], next_sentence, rtol=0, atol=1e-5)


def test_classifier(tmp_path):
    architecture = "BertForSequenceClassification"
    tensors = make_tensors(architecture)
    source = make_folder(tmp_path / "source", tensors, architecture)
    result = convert(source, tmp_path / "target")
    assert result.model.heads == ("classifier",)
    assert result.model.labels == tuple(f"label {i}" for i in range(LABELS))
    assert (result.target / "labels.txt").read_text().splitlines() == list(result.model.labels)
    model = BertClassifier(result.config, LABELS, seed=1)
    load_checkpoint(model, result.target)
    expected = reference(tensors)[1] @ tensors["classifier.weight"].T + tensors["classifier.bias"]
    np.testing.assert_allclose(model(INPUTS), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "head", "theirs", "ours"),
    [
        ("BertForTokenClassification", "classifier", "classifier", ""),
        ("BertForQuestionAnswering", "span", "qa_outputs", "cls/squad/"),
        ("BertForMaskedLM", "masked_lm", None, None),
    ],
)
def test_heads_without_a_pooler(tmp_path, architecture, head, theirs, ours):
    tensors = make_tensors(architecture)
    source = make_folder(tmp_path / "source", tensors, architecture)
    result = convert(source, tmp_path / "target")
    assert result.model.heads == (head,)
    assert (
        "2 weights that the source's architecture does not have: bert/pooler/dense/kernel, "
        "bert/pooler/dense/bias"
    ) in result.remarks
    assert len(result.remarks) == 1 + (head == "span")  # whether there may be no answer
    assert_equal_outputs(result.target, tensors)
    written = read(result.target)
    assert "bert/pooler/dense/kernel" not in written
    if theirs:
        np.testing.assert_array_equal(written[f"{ours}output_weights"], tensors[f"{theirs}.weight"])
        np.testing.assert_array_equal(written[f"{ours}output_bias"], tensors[f"{theirs}.bias"])
    assert len(result.model.labels) == (LABELS if head == "classifier" else 0)


@pytest.mark.parametrize("theirs", ["gelu_new", "gelu_pytorch_tanh", "relu", "tanh"])
def test_activations(tmp_path, theirs):
    tensors = make_tensors()
    source = make_folder(tmp_path / "source", tensors, hidden_act=theirs)
    result = convert(source, tmp_path / "target")
    functions = {
        "gelu": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
        "relu": lambda x: np.maximum(x, 0),
        "tanh": np.tanh,
    }
    assert_equal_outputs(result.target, tensors, activation=functions[result.config.hidden_act])


def test_every_activation_is_one_of_ours():
    assert set(ACTIVATIONS.values()) == set(HIDDEN_ACTS)


def test_the_activation_may_be_another(tmp_path):
    source = make_folder(tmp_path / "source")
    result = convert(source, tmp_path / "target", hidden_act="gelu")
    assert BertConfig.from_json_file(tmp_path / "target" / "bert_config.json").hidden_act == "gelu"
    assert (result.config.hidden_act, result.model.config.hidden_act) == ("gelu", "gelu_erf")
    assert "hidden_act is gelu, as asked for; the source has gelu_erf" in str(result)
    with pytest.raises(InputError, match="hidden_act must be one of"):
        convert(source, tmp_path / "other", hidden_act="swish")
    assert not (tmp_path / "other").exists()


def test_names_without_bert_and_of_old_files(tmp_path):
    tensors = make_tensors()
    old = {
        name.removeprefix("bert.")
        .replace("LayerNorm.weight", "LayerNorm.gamma")
        .replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in tensors.items()
    }
    old["embeddings.position_ids"] = np.arange(POSITIONS)[np.newaxis]
    source = make_folder(tmp_path / "source", old)
    result = convert(source, tmp_path / "target")
    assert_equal_outputs(result.target, tensors)
    assert "1 tensors not used: embeddings.position_ids" in str(result)


def test_a_tied_tensor_may_stand_for_the_other(tmp_path):
    tensors = make_tensors("BertForMaskedLM")
    table = tensors["bert.embeddings.word_embeddings.weight"]
    bias = tensors.pop("cls.predictions.bias")
    source = make_folder(
        tmp_path / "source", {**tensors, "cls.predictions.decoder.bias": bias}, "BertForMaskedLM"
    )
    written = read(convert(source, tmp_path / "target").target)
    np.testing.assert_array_equal(written["cls/predictions/output_bias"], bias)
    np.testing.assert_array_equal(written["bert/embeddings/word_embeddings"], table)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_becomes_float32(tmp_path, dtype):
    tensors = {name: value.astype(dtype) for name, value in make_tensors().items()}
    result = convert(make_folder(tmp_path / "source", tensors), tmp_path / "target")
    assert {value.dtype for value in read(result.target).values()} == {np.dtype(np.float32)}
    assert_equal_outputs(result.target, tensors)


def test_shards(tmp_path):
    tensors = make_tensors()
    source = make_folder(tmp_path / "source", tensors)
    (source / "model.safetensors").unlink()
    shards = {f"part-{i}.safetensors": list(tensors)[i::3] for i in range(3)}
    for shard, names in shards.items():
        safetensors.numpy.save_file({name: tensors[name] for name in names}, source / shard)
    weight_map = {name: shard for shard, names in shards.items() for name in names}
    index = source / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert_equal_outputs(convert(source, tmp_path / "target").target, tensors)

    (source / "part-1.safetensors").unlink()
    with pytest.raises(InputError, match=r"part-1\.safetensors: .*there is no such file"):
        convert(source, tmp_path / "other")
    index.write_text(json.dumps({"weight_map": {"a": "../../part-0.safetensors"}}))
    with pytest.raises(InputError, match=r"index\.json: weight_map must be .*in the same folder"):
        convert(source, tmp_path / "other")


def test_real_weights(tmp_path, shared):
    """The package's weights are those of the checkpoint that TensorFlow 1.15 wrote, bit for bit."""
    checkpoint = shared / "checkpoints" / "uncased_L-6_H-384_A-12"
    config = BertConfig.from_json_file(checkpoint / "bert_config.json")
    values = read(checkpoint)
    rows = expand(["embeddings", "layer", "pooler"], config.num_hidden_layers)
    tensors = {
        NAMES[row.name]: np.ascontiguousarray(
            values[row.name].T if is_transposed(row.name) else values[row.name]
        )
        for row in rows
    }
    source = make_folder(tmp_path / "source", tensors, **config.to_dict() | {"hidden_act": "gelu"})
    (source / "vocab.txt").write_bytes((checkpoint / "vocab.txt").read_bytes())
    target = convert(source, tmp_path / checkpoint.name, hidden_act="gelu").target
    for name in ("vocab.txt", "bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001"):
        assert (target / name).read_bytes() == (checkpoint / name).read_bytes(), name
    assert BertConfig.from_json_file(target / "bert_config.json") == config


def test_each_name_is_in_the_map_once():
    rows = expand(PARTS, LAYERS)
    assert len({row.name for row in rows}) == len({NAMES[row.name] for row in rows}) == len(rows)


# --- vocabulary and labels ----------------------------------------------------------------------


def test_vocabulary_of_tokenizer_json(tmp_path):
    source = make_folder(tmp_path / "source", tokenizer={})
    (source / "vocab.txt").unlink()
    model = STEPS["model"] | {"vocab": {piece: i for i, piece in enumerate(PIECES[:-1])}}
    added = [{"id": VOCAB_SIZE - 1, "content": PIECES[-1]}, {"id": 0, "content": "[PAD]"}]
    full = STEPS | {"model": model, "added_tokens": added}
    (source / "tokenizer.json").write_text(json.dumps(full))
    result = convert(source, tmp_path / "target")
    assert (result.target / "vocab.txt").read_text().splitlines() == PIECES
    assert result.model.tokenizer.do_lower_case is True  # as its normalizer does

    model["vocab"]["[MASK]"] = 90
    (source / "tokenizer.json").write_text(json.dumps(full))
    with pytest.raises(InputError, match="the piece 'a' has the id 5, where 4 comes next"):
        convert(source, tmp_path / "other")
    model["vocab"] = {piece: i for i, piece in enumerate([*PIECES[:-2], " a b"])}
    (source / "tokenizer.json").write_text(json.dumps(full))
    with pytest.raises(InputError, match=r"tokenizer\.json: has a word piece with white space"):
        convert(source, tmp_path / "other")
    model["vocab"] = {piece: i for i, piece in enumerate(["x0", "x1", *PIECES[2:-1]])}
    full["added_tokens"] = added[:1]
    (source / "tokenizer.json").write_text(json.dumps(full))
    with pytest.raises(
        InputError, match=r"json: does not make a vocab\.txt: vocab\.txt: .*\[UNK\]"
    ):
        convert(source, tmp_path / "other")
    model["vocab"] = ["a"]
    (source / "tokenizer.json").write_text(json.dumps(full))
    with pytest.raises(InputError, match=r"tokenizer\.json: expected model\.vocab"):
        convert(source, tmp_path / "other")
    (source / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"has neither vocab\.txt nor tokenizer\.json"):
        convert(source, tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]


def test_added_tokens(tmp_path):
    """They are not in vocab.txt."""
    source = make_folder(tmp_path / "source")
    (source / "vocab.txt").write_text("\n".join(PIECES[:-2]) + "\n")
    with pytest.raises(InputError, match=r"vocab\.txt: has 27 word pieces, but vocab_size is 29"):
        convert(source, tmp_path / "target")
    added = {"<e1>": VOCAB_SIZE - 2, "</e1>": VOCAB_SIZE - 1}
    (source / "added_tokens.json").write_text(json.dumps(added))
    tokens = [{"id": number, "content": piece} for piece, number in added.items()]
    model = STEPS["model"] | {"vocab": {piece: i for i, piece in enumerate(PIECES[:-2])}}
    full = STEPS | {"model": model, "added_tokens": tokens}
    (source / "tokenizer.json").write_text(json.dumps(full))
    result = convert(source, tmp_path / "target")
    written = (result.target / "vocab.txt").read_text().splitlines()
    assert written == [*PIECES[:-2], "<e1>", "</e1>"]
    assert result.remarks == (
        "2 added pieces that transformers finds in a text, and the original's tokenizer does not: "
        "<e1>, </e1>",
    )


def test_vocabulary_of_another_size(tmp_path):
    source = make_folder(tmp_path / "source")
    (source / "vocab.txt").write_text("\n".join([*PIECES, "zz"]) + "\n")
    with pytest.raises(InputError, match=r"vocab\.txt: has 30 word pieces, but vocab_size is 29"):
        convert(source, tmp_path / "target")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"do_lower_case": True, "strip_accents": False}, "strip_accents is False"),
        ({"do_lower_case": False, "strip_accents": True}, "strip_accents is True"),
        ({"tokenize_chinese_chars": False}, "tokenize_chinese_chars is False"),
        ({"do_basic_tokenize": False}, "do_basic_tokenize is False"),
        ({"tokenizer_class": "BertJapaneseTokenizer"}, "'BertJapaneseTokenizer', which does not"),
        ({"do_lower_case": "yes"}, "do_lower_case must be true or false, but is 'yes'"),
    ],
)
def test_other_ways_to_split_text_are_refused(tmp_path, settings, message):
    source = make_folder(tmp_path / "source", tokenizer=settings)
    with pytest.raises(InputError, match=rf"tokenizer_config\.json: .*{message}"):
        convert(source, tmp_path / "target")


@pytest.mark.parametrize(
    ("step", "values", "message"),
    [
        ("normalizer", None, "normalizer.type is None; expected 'BertNormalizer'"),
        ("pre_tokenizer", {"type": "Whitespace"}, "pre_tokenizer.type is 'Whitespace'"),
        ("model", {"type": "BPE"}, "model.type is 'BPE'"),
        ("normalizer", {**STEPS["normalizer"], "strip_accents": False}, "strip_accents is False"),
        ("normalizer", {**STEPS["normalizer"], "clean_text": False}, "clean_text is False"),
    ],
)
def test_other_steps_in_tokenizer_json_are_refused(tmp_path, step, values, message):
    source = make_folder(tmp_path / "source")
    (source / "tokenizer.json").write_text(json.dumps(STEPS | {step: values}))
    with pytest.raises(InputError, match=rf"tokenizer\.json: {message}"):
        convert(source, tmp_path / "target")


def test_casing(tmp_path):
    cased = {"tokenizer_class": "BertTokenizerFast", "do_lower_case": False, "strip_accents": False}
    source = make_folder(tmp_path / "source", tokenizer=cased)
    (source / "tokenizer.json").write_text(json.dumps(STEPS | {"added_tokens": []}))
    with pytest.raises(InputError, match=r"uncased_L-3: .*do_lower_case=true, but .* has false"):
        convert(source, tmp_path / "uncased_L-3")
    result = convert(source, tmp_path / "cased_L-3")
    assert result.model.tokenizer.do_lower_case is False
    assert "--do_lower_case" not in str(result)  # the name says it
    (source / "tokenizer_config.json").unlink()
    (source / "tokenizer.json").unlink()
    result = convert(source, tmp_path / "target")
    assert result.model.tokenizer.do_lower_case is None
    assert "does not say whether to lower-case" in str(result)


def test_labels(tmp_path):
    architecture = "BertForTokenClassification"
    tensors = make_tensors(architecture)
    names = {str(i): f"label {i}" for i in range(LABELS)}
    for wrong, message in (
        ({**names, "7": "x"}, "id2label must name the labels 0 to 6"),
        (None, "id2label must name the labels 0 to 6"),
        ({**names, "3": "label 4 "}, "id2label has the label 'label 4'"),
        ({**names, "3": "a\nb"}, r"id2label has the label 'a\\nb'"),
        ({**names, "3": " "}, "id2label has the label ''"),
    ):
        source = make_folder(tmp_path / "source", tensors, architecture, id2label=wrong)
        with pytest.raises(InputError, match=rf"config\.json: {message}"):
            convert(source, tmp_path / "target")
    for rows, expected in ((2, ("LABEL_0", "LABEL_1")), (1, ())):
        for name in CLASSIFIER:
            tensors[name] = tensors[name][:rows]
        source = make_folder(tmp_path / "source", tensors, architecture, id2label=None)
        result = convert(source, tmp_path / f"target{rows}")
        assert result.model.labels == expected
        assert (result.target / "labels.txt").exists() == bool(expected)


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "roberta"}, "model_type is 'roberta'"),
        ({"model_type": None}, "'model_type' is missing"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps is 1e-05; .* has 1e-12"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"pruned_heads": {"1": [0]}}, "pruned_heads is"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is .* has none"),
        ({"auto_map": {"AutoModel": "model.Bert"}}, "auto_map is"),
        ({"hidden_act": "silu"}, "hidden_act must be one of gelu, .*, but is 'silu'"),
        ({"hidden_act": ["gelu"]}, "hidden_act must be one of"),
        ({"num_attention_heads": None}, "'num_attention_heads' is missing"),
        ({"num_attention_heads": 5}, "hidden_size 12 is not a multiple of num_attention_heads 5"),
        ({"hidden_size": "12"}, "hidden_size must be of type int"),
    ],
)
def test_other_models_are_refused(tmp_path, config, message):
    source = make_folder(tmp_path / "source", **config)
    with pytest.raises(InputError, match=rf"config\.json: .*{message}"):
        convert(source, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_keys_without_a_counterpart_are_named(tmp_path):
    config = {"summary_type": "first", "pooler_fc_size": 9, "use_cache": True, "pruned_heads": {}}
    source = make_folder(tmp_path / "source", architectures=None, **config)
    result = convert(source, tmp_path / "target")
    assert result.remarks == ("1 keys of config.json not carried over: summary_type",)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_hidden_layers": 2}, "there are 3 layers, but num_hidden_layers is 2"),
        ({"num_hidden_layers": 4}, r"16 tensors are missing: bert\.encoder\.layer\.3\.attention"),
        (
            {"intermediate_size": 21},
            r"layer\.0\.intermediate\.dense\.weight is \[20, 12\], but .* must be \[21, 12\]",
        ),
        ({"max_position_embeddings": 18}, r"position_embeddings.weight is \[17, 12\], but"),
    ],
)
def test_weights_of_another_configuration(tmp_path, config, message):
    source = make_folder(tmp_path / "source", **config)
    with pytest.raises(InputError, match=message):
        convert(source, tmp_path / "target")


def test_missing_tensors_are_named(tmp_path):
    """A pooler may be missing only where the class has none; a head is there whole or not."""
    no_pooler = make_tensors("BertForMaskedLM")
    del no_pooler["cls.predictions.transform.dense.bias"]
    source = make_folder(tmp_path / "source", no_pooler, "BertForPreTraining")
    with pytest.raises(
        InputError,
        match=r"3 tensors are missing: bert\.pooler\.dense\.weight, bert\.pooler\.dense\.bias, "
        r"cls\.predictions\.transform\.dense\.bias",
    ):
        convert(source, tmp_path / "target")
    other = {"distilbert.embeddings.word_embeddings.weight": np.zeros((2, 3), np.float32)}
    with pytest.raises(InputError, match="55 tensors are missing"):
        convert(make_folder(tmp_path / "source", other), tmp_path / "target")


def test_untied_decoder(tmp_path):
    tensors = make_tensors("BertForMaskedLM")
    tensors["cls.predictions.decoder.weight"] = (
        tensors["bert.embeddings.word_embeddings.weight"] + 1
    )
    source = make_folder(tmp_path / "source", tensors, "BertForMaskedLM")
    with pytest.raises(InputError, match=r"decoder\.weight differs from bert\.embeddings\.word"):
        convert(source, tmp_path / "target")


def test_damaged_files(tmp_path):
    target = tmp_path / "target"
    with pytest.raises(InputError, match="nothing: there is no such folder"):
        convert(tmp_path / "nothing", target)
    source = make_folder(tmp_path / "source")
    weights = source / "model.safetensors"
    content = weights.read_bytes()
    for damaged in (content[:-3], content[:50], b""):
        weights.write_bytes(damaged)
        with pytest.raises(InputError, match=r"model\.safetensors: .* not whole, or damaged"):
            convert(source, target)
    weights.rename(source / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"has pytorch_model\.bin but no model\.safetensors"):
        convert(source, target)
    (source / "pytorch_model.bin").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors: .*there is no such file"):
        convert(source, target)
    (source / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: not a JSON file"):
        convert(source, target)
    (source / "config.json").write_text("[]")
    with pytest.raises(InputError, match=r"config\.json: expected a JSON object, but found list"):
        convert(source, target)


def test_tensors_of_another_type_leave_nothing_behind(tmp_path):
    tensors = make_tensors()
    tensors["bert.pooler.dense.bias"] = np.zeros(HIDDEN, np.int8)
    source = make_folder(tmp_path / "source", tensors)
    with pytest.raises(InputError, match=r"bert\.pooler\.dense\.bias is of type I8"):
        convert(source, tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_the_target_must_be_new(tmp_path):
    source = make_folder(tmp_path / "source")
    target = tmp_path / "target"
    target.mkdir()
    convert(source, target)  # an empty folder is as good as none
    before = (target / "bert_model.ckpt.index").stat()
    with pytest.raises(InputError, match="target: exists and is not an empty folder"):
        convert(source, target)
    assert (target / "bert_model.ckpt.index").stat() == before
    with pytest.raises(InputError, match=r"vocab\.txt: exists and is not an empty folder"):
        convert(source, target / "vocab.txt")
    with pytest.raises(InputError, match="cannot write"):
        convert(source, target / "vocab.txt" / "below")

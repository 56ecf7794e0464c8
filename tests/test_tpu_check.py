"""tools/tpu_check: what can run on a TPU is lowered and compiled, what cannot is refused.

The tests marked ``tpu`` need the TPU's compiler, which tools/tpu_check installs; without
``-m tpu`` they are left out.
"""

import json
import pathlib
import sys

import pytest
import tensorflow as tf
from tensorflow.compiler.xla import xla_data_pb2
from tensorflow.compiler.xla.service import hlo_pb2

from bert_tf.config import BertConfig
from bert_tf.losses import Loss, LossTerm, examples_weight

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "tools" / "tpu"))
import check
import lowering
import training_steps
from refusal import RefusedError

FIGURES = {
    "argument_bytes": 3 * 2**20,
    "output_bytes": 2 * 2**20,
    "aliased_bytes": 2**20,
    "temporary_bytes": 5 * 2**20,
    "peak_bytes": 1029 * 2**20,
    "flops": 7.1234e12,
    "bytes_accessed": 11.0,
    "seconds": 29.0,
    "processor_seconds": 13.2,
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The file of a model small enough to be compiled in seconds, and wide enough for a TPU."""
    path = tmp_path_factory.mktemp("small") / "bert_config.json"
    path.write_text(
        json.dumps(
            dict(vocab_size=997, hidden_size=128, num_hidden_layers=2, num_attention_heads=2)
            | dict(intermediate_size=384, max_position_embeddings=512, type_vocab_size=2)
        )
    )
    return str(path)


@pytest.fixture
def one_layer(tmp_path):
    path = tmp_path / "bert_config.json"
    path.write_text(
        json.dumps(
            dict(vocab_size=37, hidden_size=12, num_hidden_layers=1, num_attention_heads=3)
            | dict(intermediate_size=20, max_position_embeddings=17, type_vocab_size=5)
        )
    )
    return str(path)


@pytest.mark.parametrize(
    ("task", "precision", "optimizer", "unreached"),
    [
        ("classifier", "bfloat16", "adamw", 0),
        ("tagger", "float32", "adamw", 2),  # the pooler's
        ("question_answering", "bfloat16", "adamw", 2),
        ("packed_classifier", "bfloat16", "adamw", 0),
        ("packed_tagger", "bfloat16", "adamw", 2),
        ("packed_question_answering", "bfloat16", "adamw", 2),
        ("pretraining", "bfloat16", "lamb", 0),
        ("packed_pretraining", "bfloat16", "adamw", 0),
    ],
)
def test_a_whole_step_is_lowered(one_layer, task, precision, optimizer, unreached):
    config = BertConfig.from_json_file(one_layer)
    sizes = training_steps.Sizes(batch_size=3, max_seq_length=11, precision=precision)
    step, batch = training_steps.training_step(task, config, sizes, optimizer)
    assert batch["input_ids"] == tf.TensorSpec([3, 11], tf.int32, "input_ids")
    module = hlo_pb2.HloModuleProto.FromString(lowering.lower(step, batch))
    # Updated in place: weights, both slots of each, and the number of updates.
    updated = 3 * (len(step.model.trainable_variables) - unreached) + 1
    assert len(module.input_output_alias.entries) == updated
    shapes = {entry.id: entry.shape for part in module.computations for entry in part.instructions}
    products = [
        {shapes[operand].element_type for operand in instruction.operand_ids}
        for computation in module.computations
        for instruction in computation.instructions
        if instruction.opcode == "dot"
    ]
    is_bfloat16 = [xla_data_pb2.BF16 in kinds for kinds in products]
    # Forward, and backward to inputs and weights: 6 kernels and both products of attention.
    assert sum(is_bfloat16) >= 3 * 8 if precision == "bfloat16" else not any(is_bfloat16)
    assert len(products) >= 3 * 8
    lowering.free(step)
    assert not any(tf.size(weight.value.read_value()) for weight in step.model.weights)
    assert not any(tf.size(slot.value.read_value()) for slot in step.optimizer.adam_v)


def to_text(x):
    return tf.strings.to_number(tf.strings.as_string(x))


def to_python(x):
    return tf.ensure_shape(tf.py_function(lambda y: y, [x], tf.float32), x.shape)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: tf.cast(x, tf.float64) * 2.0, "float64, which a TPU has not; it is in .*Mul"),
        (lambda x: tf.cast(x, tf.complex128), "float64"),
        (lambda x: tf.boolean_mask(x, x > 0.5), "depends on values, .*boolean_mask"),
        (lambda x: tf.where(x > 0.5), "depends on values, .* it is in Where"),
        (lambda x: tf.unique(tf.reshape(x, [-1]))[0], "depends on values"),
        (to_text, r"(?s)XLA cannot .*AsString.*test_tpu_check\.py"),
        (to_python, r"(?s)XLA cannot .*EagerPyFunc.*test_tpu_check\.py"),
    ],
)
def test_what_a_tpu_cannot_run_is_refused(wrong, message):
    def step(batch):
        return tf.abs(wrong(batch["x"]))

    with pytest.raises(RefusedError, match=message):
        lowering.lower(step, {"x": tf.TensorSpec([5, 3])})


@pytest.mark.parametrize("shape", [[None, 3], [5, None]])
def test_an_unknown_batch_or_length_is_refused(shape):
    batch = {"y": tf.TensorSpec([5]), "x": tf.TensorSpec(shape)}
    with pytest.raises(RefusedError, match=r"these of the batch are not: x \(") as error:
        lowering.lower(lambda batch: batch["x"], batch)
    assert "None" in str(error.value)


def shapes_by_value(logits, batch):
    return {"loss": LossTerm(tf.reduce_sum(tf.boolean_mask(logits, batch["label_ids"] > 0)), 1.0)}


def float64_inside(logits, batch):
    return {"loss": LossTerm(tf.cast(tf.reduce_sum(tf.cast(logits, tf.float64)), tf.float32), 1.0)}


@pytest.mark.parametrize(
    ("terms", "message"),
    [(shapes_by_value, "depends on values"), (float64_inside, "float64, which a TPU has not")],
)
def test_a_training_step_with_it_ends_in_exit_status_1(
    one_layer, tmp_path, monkeypatch, capsys, terms, message
):
    def case(config, sizes):
        whole = training_steps._classifier(config, sizes)
        loss = Loss(terms, lambda batch: {"loss": examples_weight(batch["label_ids"])})
        return whole._replace(loss=loss)

    monkeypatch.setitem(training_steps.TASKS, "wrong", case)
    monkeypatch.setattr(check, "compiled", None)  # it does not come to that
    result = tmp_path / "result.json"
    flags = ["--task=wrong", "--batch_size=3", "--max_seq_length=11"]
    assert check.main([*flags, f"--config={one_layer}", f"--json={result}"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert "tpu_check: wrong: refused: " in output.err
    assert message in output.err
    assert message in json.loads(result.read_text())["tasks"]["wrong"]["refused"]


def test_the_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(check, "_lowered", lambda task, config, options: task.encode())
    modules = []

    def compiled(module, topology):
        modules.append((module, topology))
        if module == b"tagger":
            raise RefusedError("too large")
        return FIGURES

    monkeypatch.setattr(check, "compiled", compiled)
    result = tmp_path / "result.json"
    assert check.main(["--topology=v6e:1x1", "--batch_size=7", f"--json={result}"]) == 1
    assert modules == [(task.encode(), "v6e:1x1") for task in training_steps.TASKS]
    output = capsys.readouterr()
    assert "tpu_check: tagger: refused: too large" in output.err
    assert "BASE, bfloat16, adamw, batch 7 x 128, on one chip of v6e:1x1" in output.out
    assert "| classifier | 3 | 2 | 1 | 5 | 1,029 | 7.12 | 13 s |" in output.out
    assert "| tagger" not in output.out
    written = json.loads(result.read_text())
    assert written["tasks"]["pretraining"] == FIGURES
    assert written["tasks"]["tagger"] == {"refused": "too large"}
    assert written["batch_size"] == 7
    assert check.main(["--task=classifier"]) == 0


def test_mistakes_end_in_exit_status_2(one_layer, capsys):
    assert check.main(["--task=taggre"]) == 2
    assert "--task must be all or one of classifier, tagger, " in capsys.readouterr().err
    assert check.main(["--config=nowhere.json"]) == 2
    assert "nowhere.json" in capsys.readouterr().err
    assert check.main(["--task=classifier", f"--config={one_layer}", "--max_seq_length=18"]) == 2
    assert "must have 1 to 17" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        check.main(["--batch_size=0"])


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ("os.abort()", "(?s)ended with SIGABRT.*last words"),
        ("sys.exit(3)", "(?s)ended with exit status 3.*last words"),
        ("", "ended with exit status 0"),  # without a result
    ],
)
def test_a_compiler_that_crashes_is_a_refusal(tmp_path, monkeypatch, end, message):
    script = tmp_path / "script.py"
    script.write_text(f"import os, sys; print('last words', file=sys.stderr, flush=True); {end}")
    monkeypatch.setattr(check, "COMPILER_PYTHON", sys.executable)
    monkeypatch.setattr(check, "COMPILATION", script)
    with pytest.raises(RefusedError, match=message):
        check.compiled(b"", "v5e:2x2")


@pytest.fixture
def compiler():
    if not check.COMPILER_PYTHON.exists():
        pytest.skip("there is no .venv-tpu with the TPU's compiler; tools/tpu_check makes it")


@pytest.mark.tpu
def test_all_training_steps_compile_for_a_tpu(compiler, small, tmp_path, capsys):
    result = tmp_path / "result.json"
    flags = ["--batch_size=5", "--max_seq_length=24", f"--config={small}", f"--json={result}"]
    assert check.main(flags) == 0
    found = json.loads(result.read_text())["tasks"]
    assert list(found) == list(training_steps.TASKS)
    parameters = 997 * 128 + 512 * 128 + 2 * 128 + 2 * (4 * 128 * 128 + 2 * 128 * 384)
    for task, figures in found.items():
        # Weights and slots, float32, in place.
        assert 12 * parameters < figures["aliased_bytes"] < figures["argument_bytes"]
        assert figures["argument_bytes"] < 15 * parameters
        assert figures["temporary_bytes"] > 0
        # 6 for each token and weight of a kernel; a classifier's last layer has keys and values.
        layer = 4 * 128 * 128 + 2 * 128 * 384
        last = 2 * 128 * 128 if task.endswith("classifier") else layer
        assert figures["flops"] > 6 * 5 * 24 * (layer + last)
    assert capsys.readouterr().out.count("\n| ") == 1 + len(found)


@pytest.mark.tpu
def test_a_batch_that_does_not_fit_is_refused(compiler, small, capsys):
    flags = ["--task=classifier", "--batch_size=2999", "--max_seq_length=512"]
    assert check.main([*flags, f"--config={small}"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert "tpu_check: classifier: refused: " in output.err
    assert "CompileTimeHbmOom" in output.err


@pytest.mark.tpu
@pytest.mark.parametrize(
    "wrong", [lambda x: tf.cast(x, tf.float64) * 2.0, lambda x: tf.boolean_mask(x, x > 0.5)]
)
def test_the_compiler_alone_would_let_pass_what_is_refused(compiler, monkeypatch, wrong):
    monkeypatch.setattr(lowering, "check", lambda module: None)
    module = lowering.lower(lambda batch: wrong(batch["x"]), {"x": tf.TensorSpec([5, 3])})
    assert check.compiled(module, "v5e:2x2")["argument_bytes"] > 0

"""An export serves as TF Serving runs it: in a program in C, without Python, in another folder.

TF Serving itself is not among the packages that can be installed; ``serving/run_export.c`` loads a
version by the function that it loads one by, and answers the requests that warm it up and others.
"""

import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import serving_tasks
import tensorflow as tf
from absl.testing import flagsaver
from conftest import SHARED
from served import examples
from tensorflow.python.tools import saved_model_cli
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from bert_tf import Predictor
from bert_tf.errors import InputError
from bert_tf.export import exporter, labels
from bert_tf.export.served_model import DEFAULT, EXAMPLES, saveable
from bert_tf.export.warm_up import WARM_UP
from bert_tf.use_config import Export

SOURCE = pathlib.Path(__file__).parent / "serving" / "run_export.c"
MOST_RECORDS = 1000  # of a file of requests that TF Serving replays


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Builds run_export, linked to the TensorFlow of this Python."""
    if sys.platform != "linux":
        pytest.skip("run_export reads what it has mapped from /proc, which there is on Linux only")
    compiler = next(filter(None, map(shutil.which, ("gcc", "cc", "clang"))), None)
    if compiler is None:
        pytest.skip("there is no C compiler (gcc, cc or clang) to build run_export with")
    libraries = tf.sysconfig.get_lib()
    path = tmp_path_factory.mktemp("build") / "run_export"
    command = [
        compiler, "-std=c11", "-O1", "-Wall", "-Wextra", "-Werror",
        "-isystem", tf.sysconfig.get_include(), SOURCE, "-o", path, f"-L{libraries}",
        "-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2", f"-Wl,-rpath,{libraries}",
    ]  # fmt: skip
    if shutil.which("ld.gold"):
        command.append("-fuse-ld=gold")  # many times faster with a library of 1 GB
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return path


def write_requests(path, requests):
    """A file of requests as that which warms a server up: (signature, name -> array) each."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests:
            request = predict_pb2.PredictRequest()
            request.model_spec.signature_name = signature
            for name, value in inputs.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            log = prediction_log_pb2.PredictLog(request=request)
            entry = prediction_log_pb2.PredictionLog(predict_log=log)
            writer.write(entry.SerializeToString())
    return path


def read_requests(path):
    """The requests of a file: (signature, name -> array) each."""
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        entry = prediction_log_pb2.PredictionLog.FromString(record)
        assert entry.WhichOneof("log_type") == "predict_log"
        request = entry.predict_log.request
        inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        yield request.model_spec.signature_name, inputs


def run(program, folder, *requests):
    """How the program ended, the responses (name -> array), and the files it had mapped."""
    responses, mapped = (requests[0].with_name(name) for name in ("responses", "mapped"))
    finished = subprocess.run(
        [program, folder, responses, mapped, *requests],
        capture_output=True,
        text=True,
        # The same arithmetic as here, and nothing that would lead it to Python's packages.
        env={
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "TF_ENABLE_ONEDNN_OPTS": os.environ["TF_ENABLE_ONEDNN_OPTS"],
        },
        timeout=300,
    )
    if finished.returncode:
        return finished, [], ""
    found = []
    for record in tf.data.TFRecordDataset(str(responses)).as_numpy_iterator():
        outputs = predict_pb2.PredictResponse.FromString(record).outputs
        found.append({name: tf.make_ndarray(value) for name, value in outputs.items()})
    return finished, found, mapped.read_text()


@dataclasses.dataclass(frozen=True)
class Served:
    """An export, what the program was asked of it and what it said.

    Attributes:
        task: which.
        folder: of the version, moved.
        signatures: as Python loads them.
        asked: what a Predictor would be asked, for each of the first requests.
        predictor: the run's.
        expected: what it answers to all of that.
        requests: (signature, name -> array) each.
        responses: name -> array each.
        warming: the requests that warm a server up.
        warmed: the responses to those.
        mapped: what the process had mapped.
    """

    task: str
    folder: pathlib.Path
    signatures: Mapping[str, Callable]
    asked: list
    predictor: Predictor
    expected: list
    requests: list
    responses: list
    warming: list
    warmed: list
    mapped: str


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """Exports a small run of a kind, once: the folder of the run, and that of the version."""
    made = {}

    def export(kind):
        if kind not in made:
            root = tmp_path_factory.mktemp("kind")
            run_folder = serving_tasks.write_run(root / "run", kind)
            task = serving_tasks.KINDS[kind]
            made[kind] = (run_folder, serving_tasks.export_elsewhere(run_folder, task, root))
        return made[kind]

    return export


@pytest.fixture(scope="module", params=list(serving_tasks.KINDS))
def served(request, program, export, testdata, tmp_path_factory):
    task = serving_tasks.KINDS[request.param]
    run_folder, folder = export(request.param)
    signatures = tf.saved_model.load(str(folder)).signatures
    goldens = SHARED / "goldens"
    texts = serving_tasks.hard_texts(task, testdata, goldens if goldens.is_dir() else None)
    inputs = serving_tasks.ranks(signatures[DEFAULT])
    questions = serving_tasks.examples(task, inputs, texts)
    size = serving_tasks.BATCH
    asked = [questions[start : start + size] for start in range(0, len(questions), size)]
    requests = [(DEFAULT, serving_tasks.columns(inputs, part)) for part in asked]
    requests.append((EXAMPLES, {EXAMPLES: np.array(examples(requests[0][1]), object)}))
    requests += [
        (name, serving_tasks.some_inputs(signature, texts))
        for name, signature in signatures.items()
        if name not in (DEFAULT, EXAMPLES)
    ]
    warm_up = folder / "assets.extra" / WARM_UP
    file = write_requests(tmp_path_factory.mktemp("asked") / "requests", requests)
    finished, responses, mapped = run(program, folder, file, warm_up)
    assert finished.returncode == 0, finished.stderr
    predictor = Predictor.load(run_folder, task=task)
    return Served(
        task=task,
        folder=folder,
        signatures=signatures,
        asked=asked,
        predictor=predictor,
        expected=predictor.predict(questions),
        requests=requests,
        responses=responses[: len(requests)],
        warming=list(read_requests(warm_up)),
        warmed=responses[len(requests) :],
        mapped=mapped,
    )


def assert_answers(task, outputs, asked, expected):
    """Outputs of a request are what a Predictor says of what it asks."""
    found = serving_tasks.answers(task, outputs, asked)
    for question, answer, other in zip(asked, found, expected, strict=True):
        said = {key: value for key, value in other.items() if key in answer}
        assert set(other) - set(said) <= set(serving_tasks.ORDER), question
        serving_tasks.assert_same(answer, said, repr(question))


def test_answers_are_those_of_predictor(served):
    assert len(served.expected) >= (serving_tasks.GOLDENS if (SHARED / "goldens").is_dir() else 50)
    start = 0
    for asked, outputs in zip(served.asked, served.responses, strict=False):
        expected = served.expected[start : start + len(asked)]
        assert_answers(served.task, outputs, asked, expected)
        start += len(asked)
    assert start == len(served.expected)


def test_predictor_answers_from_the_export_alone(served):
    asked = [question for part in served.asked[:2] for question in part]
    expected = served.expected[: len(asked)]
    exported = Predictor.load(served.folder, batch_size=7)
    found = exported.predict(asked)
    for question, answer, other in zip(asked, found, expected, strict=True):
        serving_tasks.assert_same(answer, other, repr(question))
    assert list(found[0]) == list(expected[0])
    with pytest.raises(InputError, match="must be a"):
        exported.predict([7])
    with pytest.raises(InputError, match="give no task and no options"):
        Predictor.load(served.folder, task="similarity")


def test_every_signature_gives_what_it_gives_in_python(served):
    assert len(served.responses) == len(served.requests)
    assert {name for name, _ in served.requests} == set(served.signatures)
    for (name, inputs), outputs in zip(served.requests, served.responses, strict=True):
        tensors = {key: tf.constant(value) for key, value in inputs.items()}
        expected = served.signatures[name](**tensors)
        assert set(outputs) == set(expected)
        for key, value in expected.items():
            assert outputs[key].shape == value.shape, (name, key)
            # Each output has a row for each example, as batching needs it.
            assert len(outputs[key]) == len(next(iter(inputs.values()))), (name, key)
            if value.dtype.is_floating:
                np.testing.assert_allclose(outputs[key], value, rtol=1e-5, atol=1e-5)
            else:
                np.testing.assert_array_equal(outputs[key], value)


def test_examples_give_what_texts_give(served):
    number = next(i for i, (name, _) in enumerate(served.requests) if name == EXAMPLES)
    for key, value in served.responses[0].items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(served.responses[number][key], value, rtol=0, atol=1e-5)
        else:
            np.testing.assert_array_equal(served.responses[number][key], value)


def test_requests_that_warm_up_are_answered(served):
    assert 0 < len(served.warming) == len(served.warmed) <= MOST_RECORDS
    assert DEFAULT in {name for name, _ in served.warming}
    sizes = set()
    for (name, inputs), outputs in zip(served.warming, served.warmed, strict=True):
        (size,) = {len(value) for value in [*inputs.values(), *outputs.values()]}
        sizes.add(size)
        assert set(outputs) == set(served.signatures[name].structured_outputs)
        for value in outputs.values():
            assert value.dtype.kind != "f" or np.isfinite(value).all()
    assert {1, 8, 32} <= sizes


def test_requests_that_warm_up_are_answered_as_by_predictor(served):
    """Those of every signature; one that has several times the same is asked about it once here."""
    requests = [serving_tasks.asked(inputs) for _, inputs in served.warming]
    different = {repr(question): question for asked in requests for question in asked}
    found = served.predictor.predict(list(different.values()))
    answers = dict(zip(different, found, strict=True))
    assert len(answers) >= 3
    for asked, outputs in zip(requests, served.warmed, strict=True):
        assert_answers(served.task, outputs, asked, [answers[repr(question)] for question in asked])


def test_the_process_has_no_python_and_no_operations_of_others(served):
    files = {line.split(maxsplit=5)[5] for line in served.mapped.splitlines() if "/" in line}
    libraries = {pathlib.Path(file).name for file in files if ".so" in file}
    assert {"libtensorflow_cc.so.2", "libtensorflow_framework.so.2"} <= libraries
    wrong = re.compile(r"python|pywrap|tensorflow_text|_ops?\.so|tf_?keras|decoding", re.IGNORECASE)
    assert [name for name in libraries if wrong.search(name)] == []
    # What belongs to TensorFlow is those two, and the rest is the system's.
    packages = pathlib.Path(tf.__file__).parent.parent
    ours = {pathlib.Path(file).name for file in files if packages in pathlib.Path(file).parents}
    assert ours == {"libtensorflow_cc.so.2", "libtensorflow_framework.so.2"}


def test_the_folder_was_moved(served):
    assert not (served.folder.parent.parent / "made").exists()
    graph = (served.folder / "saved_model.pb").read_bytes()
    assert str(served.folder.parent.parent / "made").encode() not in graph


@pytest.fixture(scope="module")
def traced(export):
    """A classifier's model, and its default signature traced."""
    run_folder, _ = export("classification")
    models = []
    with pytest.MonkeyPatch.context() as patch:
        # It has one model, of which the export makes its weights.
        patch.setattr(labels, "merge_projections", models.append)
        settings = Export(model_dir=str(run_folder), export_dir="unused")
        _, signatures = saveable(labels.served(run_folder, settings).signatures, None)
    return models[0], signatures[DEFAULT]


WRONG_WAYS = {
    "the model": lambda model: model,
    "a module with the model": lambda model: module_with(model=model),
    "a module with its variables": lambda model: module_with(weights=list(model.variables)),
}


def module_with(**attributes):
    module = tf.Module()
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


@pytest.mark.parametrize("way", WRONG_WAYS)
def test_variables_of_keras_are_not_found(program, traced, tmp_path, way):
    """What loads in Python and nowhere else: the tests above would tell, as this one does."""
    model, signature = traced
    tf.saved_model.save(WRONG_WAYS[way](model), str(tmp_path / "1"), signatures=signature)
    text = np.array(["a text"], object)
    loaded = tf.saved_model.load(str(tmp_path / "1")).signatures[DEFAULT]
    assert loaded(text=tf.constant(text))["score"].shape == [1]
    requests = write_requests(tmp_path / "requests", [(DEFAULT, {"text": text})])
    finished, _, _ = run(program, tmp_path / "1", requests)
    assert finished.returncode == 1
    # The second is what a gather says of the same.
    said = r"Could not find variable|Resource localhost/\S+ does not exist"
    assert re.search(said, finished.stderr), finished.stderr


@pytest.mark.parametrize(
    ("signature", "inputs", "message"),
    [
        ("no_such", {"text": ["a"]}, "no signature 'no_such'"),
        (DEFAULT, {"texts": ["a"]}, "no input 'text'"),
        (DEFAULT, {"text": ["a"], "text_b": ["b"]}, "2 inputs, not 1"),
    ],
)
def test_other_requests_are_refused(program, export, tmp_path, signature, inputs, message):
    requests = write_requests(tmp_path / "requests", [(signature, inputs)])
    finished, _, _ = run(program, export("features")[1], requests)
    assert finished.returncode == 1
    assert message in finished.stderr


@pytest.mark.parametrize(
    ("changes", "batch_sizes", "tolerance"),
    [
        # Of a number of about 1, bfloat16 keeps 2 ** -8; sums may round at other places.
        ({"precision": "bfloat16"}, {1, 8, 32}, 2**-6),
        ({"batch_size": 5, "fixed_length": True}, {5}, 1e-5),
    ],
    ids=["bfloat16", "fixed shapes"],
)
def test_other_exports_answer_what_warms_them_up(
    program, export, tmp_path, changes, batch_sizes, tolerance
):
    settings = {"model_dir": str(export("classification")[0]), "task": "classification"}
    folder = exporter.export(Export(**settings, export_dir=str(tmp_path / "versions"), **changes))
    warm_up = shutil.copy(folder / "assets.extra" / WARM_UP, tmp_path / "requests")
    finished, responses, _ = run(program, folder, warm_up)
    assert finished.returncode == 0, finished.stderr
    signatures = tf.saved_model.load(str(folder)).signatures
    asked = list(read_requests(warm_up))
    assert {len(value) for _, inputs in asked for value in inputs.values()} == batch_sizes
    for (name, inputs), outputs in zip(asked, responses, strict=True):
        expected = signatures[name](**{key: tf.constant(value) for key, value in inputs.items()})
        assert set(outputs) == set(expected)
        for key, value in expected.items():
            if value.dtype.is_floating:
                assert outputs[key].dtype == np.float32 and np.isfinite(outputs[key]).all()
                np.testing.assert_allclose(outputs[key], value, rtol=0, atol=tolerance)
            elif key == "classes":
                np.testing.assert_array_equal(outputs[key], value)
        best = outputs["probabilities"].argmax(axis=1)
        np.testing.assert_array_equal(outputs["label"], outputs["classes"][range(len(best)), best])


def run_saved_model_cli(*arguments):
    with flagsaver.flagsaver():
        arguments = [str(argument) for argument in arguments]
        saved_model_cli.create_parser().parse_args(arguments).func()


def test_saved_model_cli_shows_every_signature(export, capsys):
    run_saved_model_cli("show", "--all", "--dir", export("features")[1])
    shown = capsys.readouterr().out
    assert "MetaGraphDef with tag-set: 'serve'" in shown
    for name in ("serving_default", "pairs", "tokens", "examples"):
        assert f"signature_def['{name}']" in shown
    assert shown.count("Method name is: tensorflow/serving/predict") == 4
    assert "outputs['vector']" in shown


# What is asked, and some of what a signature takes and returns.
CLI = {
    "features": (["the river", "ΟΔΟΣ 中文 🙂", ""], {"text"}, {"vector"}),
    "classification": (["the river", "ΟΔΟΣ 中文 🙂", ""], {"text"}, {"label", "probabilities"}),
    "question_answering": (
        [("the river", "of the river unable"), ("ΟΔΟΣ 中文 🙂", "a b 中 c d e f")],
        {"question", "context"},
        {"answer", "null_odds"},
    ),
}


@pytest.mark.parametrize("kind", CLI)
def test_saved_model_cli_runs_a_signature(export, tmp_path, capsys, kind):
    run_folder, folder = export(kind)
    asked, inputs, outputs = CLI[kind]
    model = ("--dir", folder, "--tag_set", "serve", "--signature_def", DEFAULT)
    run_saved_model_cli("show", *model)
    shown = capsys.readouterr().out
    assert set(re.findall(r"inputs\['(\w+)'\]", shown)) == inputs
    assert outputs <= set(re.findall(r"outputs\['(\w+)'\]", shown))
    values = serving_tasks.columns(dict.fromkeys(inputs, 1), asked)
    expressions = [f"{key}={[text.encode() for text in texts]}" for key, texts in values.items()]
    run_saved_model_cli("run", *model, "--input_exprs", ";".join(expressions), "--outdir", tmp_path)
    found = {path.stem: np.load(path, allow_pickle=True) for path in tmp_path.glob("*.npy")}
    expected = Predictor.load(run_folder, task=kind).predict(asked)
    assert_answers(kind, found, asked, expected)

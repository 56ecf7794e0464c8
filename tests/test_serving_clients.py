"""The clients in docs/serving ask as a server of TF Serving's protocols understands it.

The servers here run exports in Python; what they take, say and refuse follows TF Serving's
prediction_service.proto and https://www.tensorflow.org/tfx/serving/api_rest.
"""

import concurrent.futures
import http.server
import importlib.util
import json
import re
import threading

import grpc
import numpy as np
import pytest
import serving_tasks
import tensorflow as tf
from conftest import REPOSITORY
from small_models import PIECES
from tensorflow_serving.apis import (
    predict_pb2,
    prediction_service_pb2_grpc,
)

from bert_tf import Predictor

TEXTS = ["the river", "ΟΔΟΣ 中文 🙂", 'a "quoted"\\ \t text']
QUESTIONS = [("the river", ["of the", "able!"]), ("naïve", ["中文", "x y z"])]


class Refused(Exception):
    """A request that TF Serving does not answer either: a gRPC status, and a message."""


class Models:
    """Exports by name, as a server has them.

    Args:
        folders: of the versions; their names are the versions' numbers.
    """

    def __init__(self, folders):
        self._versions = {name: folder.name for name, folder in folders.items()}
        self._signatures = {
            name: tf.saved_model.load(str(folder)).signatures for name, folder in folders.items()
        }

    def signature(self, model, version, name):
        if model not in self._signatures or version not in (None, self._versions[model]):
            which = f"Specific({model}, {version})" if version else f"Latest({model})"
            raise Refused(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {which}")
        signatures = self._signatures[model]
        if (name or "serving_default") not in signatures:
            raise Refused(
                grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.'
            )
        return signatures[name or "serving_default"]

    def run(self, signature, inputs):
        """name -> array, of tensors by name."""
        wanted = signature.structured_input_signature[1]
        if set(inputs) != set(wanted):
            message = f"input size does not match signature: {sorted(inputs)} {sorted(wanted)}"
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, message)
        for name, value in inputs.items():
            if not wanted[name].is_compatible_with(value):
                message = f"{name}: {value.dtype} {value.shape}"
                raise Refused(grpc.StatusCode.INVALID_ARGUMENT, message)
        return {name: value.numpy() for name, value in signature(**inputs).items()}


class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
    """PredictionService, of which clients use Predict."""

    def __init__(self, models):
        self._models = models

    def Predict(self, request, context):
        spec = request.model_spec
        version = str(spec.version.value) if spec.HasField("version") else None
        response = predict_pb2.PredictResponse(model_spec=spec)
        try:
            signature = self._models.signature(spec.name, version, spec.signature_name)
            inputs = {
                name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()
            }
            outputs = self._models.run(signature, inputs)
        except Refused as error:
            context.abort(*error.args)
        for name, value in outputs.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        return response


class Handler(http.server.BaseHTTPRequestHandler):
    """POST /v1/models/NAME[/versions/VERSION]:predict."""

    models: Models

    def do_POST(self):
        found = re.fullmatch(r"/v1/models/([^/:]+)(?:/versions/(\d+))?:predict", self.path)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            if found is None:
                raise Refused(grpc.StatusCode.NOT_FOUND, f"Malformed request: POST {self.path}")
            signature = self.models.signature(*found.groups(), body.pop("signature_name", ""))
            status, answer = 200, self._answer(signature, body)
        except Refused as error:
            status = 404 if error.args[0] is grpc.StatusCode.NOT_FOUND else 400
            answer = {"error": error.args[1]}
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _answer(self, signature, body):
        wanted = signature.structured_input_signature[1]
        if len(body) != 1:
            message = f"either instances or inputs, not {sorted(body)}"
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, message)
        if "instances" in body:
            rows = body["instances"]
            if len(wanted) == 1 and not isinstance(rows[0], dict):
                rows = [{next(iter(wanted)): row} for row in rows]
            columns = {name: [row[name] for row in rows] for name in rows[0]}
        else:
            columns = body["inputs"]
            if not isinstance(columns, dict):
                columns = {next(iter(wanted)): columns}
        unknown = set(columns) - set(wanted)
        if unknown:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"no such inputs: {sorted(unknown)}")
        tensors = {name: tf.constant(value, wanted[name].dtype) for name, value in columns.items()}
        outputs = {
            name: _plain(value) for name, value in self.models.run(signature, tensors).items()
        }
        if "inputs" in body:
            return {"outputs": outputs if len(outputs) > 1 else next(iter(outputs.values()))}
        if len(outputs) == 1:
            return {"predictions": next(iter(outputs.values()))}
        rows = zip(*outputs.values(), strict=True)  # all have a row for each instance
        return {"predictions": [dict(zip(outputs, row, strict=True)) for row in rows]}

    def log_message(self, *arguments):
        """Says nothing."""


def _plain(value):
    if isinstance(value, (np.ndarray, list)):
        return [_plain(part) for part in value]
    return value.decode() if isinstance(value, bytes) else value.item()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    tasks = ("features", "multiple_choice")
    return {task: serving_tasks.write_run(root / task, task) for task in tasks}


@pytest.fixture(scope="module")
def predictors(runs):
    return {task: Predictor.load(folder, task=task) for task, folder in runs.items()}


@pytest.fixture(scope="module")
def models(runs, tmp_path_factory):
    return Models(
        {
            task: serving_tasks.export_elsewhere(folder, task, tmp_path_factory.mktemp(task))
            for task, folder in runs.items()
        }
    )


@pytest.fixture(scope="module")
def grpc_server(models):
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(models), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    yield f"localhost:{port}"
    server.stop(None).wait()


@pytest.fixture(scope="module")
def rest_server(models):
    handler = type("ModelsHandler", (Handler,), {"models": models})
    with http.server.ThreadingHTTPServer(("localhost", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"localhost:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(params=["grpc", "rest", "rest --columns"])
def ask(request, no_proxies, capsys):
    """Runs a client as a command: its status, the objects that it prints, and what else it says."""
    kind, *flags = request.param.split()
    spec = importlib.util.spec_from_file_location(
        f"predict_{kind}", REPOSITORY / "docs" / "serving" / f"predict_{kind}.py"
    )
    client = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(client)
    server = request.getfixturevalue(f"{kind}_server")

    def run(*arguments):
        status = client.main([f"--server={server}", *flags, *arguments])
        said = capsys.readouterr()
        return status, [json.loads(line) for line in said.out.splitlines()], said.err

    run.leaves_out_single_names = kind == "rest"
    return run


def test_texts(ask, predictors):
    status, answers, said = ask("--model=features", *TEXTS)
    assert (status, said) == (0, "")
    name = "output" if ask.leaves_out_single_names else "vector"
    expected = predictors["features"].predict(TEXTS)
    assert [answer["text"] for answer in answers] == TEXTS
    for answer, other in zip(answers, expected, strict=True):
        assert set(answer) == {"text", name}
        np.testing.assert_allclose(answer[name], other["vector"], rtol=0, atol=1e-5)


def test_objects(ask, predictors):
    objects = [{"text": text, "choices": choices} for text, choices in QUESTIONS]
    status, answers, said = ask("--model=multiple_choice", *map(json.dumps, objects))
    assert (status, said) == (0, "")
    expected = predictors["multiple_choice"].predict(QUESTIONS)
    for answer, other in zip(answers, expected, strict=True):
        serving_tasks.assert_same(answer, other)


def test_objects_with_different_numbers_of_choices(ask, predictors):
    questions = [*QUESTIONS, ("of the", ["river", "able", "x", "the river"])]
    objects = [{"text": text, "choices": choices} for text, choices in questions]
    status, answers, said = ask("--model=multiple_choice", *map(json.dumps, objects))
    assert (status, said) == (0, "")
    expected = predictors["multiple_choice"].predict(questions)
    for answer, other in zip(answers, expected, strict=True):
        there = len(other["choices"])
        assert answer["probabilities"][there:] == [0.0] * (4 - there)
        answer["probabilities"] = answer["probabilities"][:there]
        serving_tasks.assert_same(answer, other)


def test_another_signature_and_a_version(ask, predictors):
    pair = {"text": "the river", "text_b": "of the"}
    status, answers, _ = ask(
        "--model=features", "--signature=pairs", "--version=7", json.dumps(pair)
    )
    assert status == 0
    (expected,) = predictors["features"].predict([tuple(pair.values())])
    vector = answers[0]["output" if ask.leaves_out_single_names else "vector"]
    np.testing.assert_allclose(vector, expected["vector"], rtol=0, atol=1e-5)


def test_ids(ask, predictors):
    ids = [PIECES.index(piece) for piece in ("[CLS]", "the", "river", "[SEP]")]
    row = {"input_ids": ids, "input_mask": [1] * 4, "segment_ids": [0] * 4}
    status, answers, _ = ask("--model=features", "--signature=tokens", *[json.dumps(row)] * 2)
    assert status == 0
    (expected,) = predictors["features"].predict(["the river"])
    for answer in answers:
        vector = answer["output" if ask.leaves_out_single_names else "vector"]
        np.testing.assert_allclose(vector, expected["vector"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=other", "a"], "Servable not found for request: Latest(other)"),
        (["--model=features", "--version=8", "a"], "Specific(features, 8)"),
        (["--model=features", "--signature=none", "a"], "Serving signature key"),
        (["--model=multiple_choice", "a"], "input size does not match signature"),
    ],
)
def test_what_the_server_refuses_is_said(ask, arguments, message):
    status, answers, said = ask(*arguments)
    assert (status, answers) == (1, [])
    assert message in said


def test_a_server_that_is_not_there(ask):
    status, answers, said = ask("--server=localhost:1", "--model=features", "a")
    assert (status, answers) == (1, [])
    assert said.strip()

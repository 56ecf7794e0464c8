"""Asks a served model over REST, with nothing but Python's standard library.

    python predict_rest.py --model support "Where is my parcel?" "I was charged twice."
    python predict_rest.py --model pairs '{"text": "It rains.", "text_b": "It is wet outside."}'

An example is a text, or a JSON object of the signature's inputs by name. What the model says of
each is printed as one JSON object. The forms are those of
https://www.tensorflow.org/tfx/serving/api_rest: rows ("instances"), or with --columns columns
("inputs").
"""

import argparse
import json
import sys
import urllib.error
import urllib.request


def predict(url, examples, *, signature="serving_default", columns=False, timeout=10.0):
    """Asks for one answer to each example.

    Args:
        url: of the model, http://HOST:PORT/v1/models/NAME, and /versions/NUMBER if it is not to
            be the latest.
        examples: dicts of the signature's inputs by name, of the same names each. Lists of
            different lengths are filled up, see ``filled_up``.
        signature: of the model.
        columns: whether to ask in columns instead of rows; the answers are the same.
        timeout: seconds.

    Returns:
        For each example a dict of the signature's outputs by name; of a signature with a single
        output, what it says, without the name, which the server leaves out.

    Raises:
        RuntimeError: with what the server says, if it refuses the request.
    """
    request = {"signature_name": signature}
    inputs = {name: filled_up([example[name] for example in examples]) for name in examples[0]}
    if columns:
        request["inputs"] = inputs
    else:
        request["instances"] = [
            dict(zip(inputs, row, strict=True)) for row in zip(*inputs.values(), strict=True)
        ]
    try:
        with urllib.request.urlopen(
            urllib.request.Request(
                f"{url}:predict",
                json.dumps(request).encode(),
                {"Content-Type": "application/json"},
            ),
            timeout=timeout,
        ) as response:
            body = response.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        with error:
            body = error.read().decode(errors="replace")
        raise RuntimeError(f"{url}: HTTP {error.code}: {body}") from error
    try:
        answer = json.loads(body)["outputs" if columns else "predictions"]
    except (ValueError, LookupError, TypeError) as error:
        raise RuntimeError(f"{url}: not the answer of TF Serving: {body:.200}") from error
    if isinstance(answer, list):
        return answer
    return [dict(zip(answer, values, strict=True)) for values in zip(*answer.values(), strict=True)]


def filled_up(column):
    """The values of an input, lists being as long as the longest.

    What a model takes for nothing, ``""`` for a choice or 0 for an id, is added at the end.
    """
    if not all(isinstance(value, list) for value in column):
        return column
    filling = "" if any(isinstance(part, str) for value in column for part in value) else 0
    most = max(map(len, column))
    return [value + [filling] * (most - len(value)) for value in column]


def named(example):
    """The inputs of an example, by name: what a JSON object says, or else it is a text."""
    try:
        found = json.loads(example)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"text": example}


def main(arguments=None):
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("examples", nargs="+", help="texts, or JSON objects")
    parser.add_argument("--server", default="localhost:8501", help="host:port (%(default)s)")
    parser.add_argument("--model", required=True, help="the model's name on the server")
    parser.add_argument("--signature", default="serving_default", help="(%(default)s)")
    parser.add_argument("--version", type=int, help="of the model; by default the latest")
    parser.add_argument("--columns", action="store_true", help="ask in columns, not in rows")
    given = parser.parse_args(arguments)
    examples = [named(example) for example in given.examples]
    url = f"http://{given.server}/v1/models/{given.model}"
    if given.version is not None:
        url += f"/versions/{given.version}"
    try:
        answers = predict(url, examples, signature=given.signature, columns=given.columns)
    except (OSError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    for example, answer in zip(examples, answers, strict=True):
        outputs = answer if isinstance(answer, dict) else {"output": answer}
        print(json.dumps({**example, **dict(sorted(outputs.items()))}, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())

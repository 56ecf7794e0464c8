"""Takes a JSON file, returns the object in it; next: original_model."""

import json
import pathlib
from typing import Any

from bert_tf.errors import InputError

Json = dict[str, Any]


def read_json(path: pathlib.Path) -> Json:
    """Reads a JSON file that holds an object.

    Raises:
        InputError: if it cannot be read, or holds anything else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot read it: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: not a JSON file: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a JSON object, but found {type(values).__name__}")
    return values

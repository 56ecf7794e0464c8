"""Takes the folder of an exported version and texts, returns answers; next: predictor.

What a server's client gets is tensors; here they are the same answers as those of the folder that
was exported.
"""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from bert_tf import run_folder
from bert_tf.errors import InputError, reason
from bert_tf.export.model_card import CARD
from bert_tf.export.served_model import DEFAULT, EXTRA, PAIRS, versions
from bert_tf.tasks.choice_predictor import read_question
from bert_tf.tasks.fill_mask import MASK, refuse_without_mask
from bert_tf.tasks.task_predictor import (
    NameOf,
    Text,
    is_pair,
    parse_choices,
    parse_pair,
    parse_question,
    parse_text_or_pair,
)

# One example's outputs: a value or an array for each name; strings are str.
Row = Mapping[str, Any]


def exported(folder: pathlib.Path) -> pathlib.Path | None:
    """The exported version that a folder is; of a folder of versions the latest, as servers do.

    Raises:
        InputError: if that is for another runtime.
    """
    if not (folder / run_folder.BERT_CONFIG).is_file():
        there = {n: version for n, version in versions(folder).items() if _holds_model(version)}
        folder = there[max(there)] if there else folder
    if (folder / CARD).is_file():
        raise InputError(
            f"{folder}: exported for another runtime, LiteRT or ONNX, which takes ids of word "
            "pieces; give a version of --runtime=tensorflow, or the folder of the run that it was "
            "made of"
        )
    return folder if _holds_model(folder) else None


def _holds_model(folder: pathlib.Path) -> bool:
    """Whether a folder is an exported version, for whichever runtime."""
    return (folder / "saved_model.pb").is_file() or (folder / CARD).is_file()


def load(folder: pathlib.Path) -> "ServedPredictor":
    """The predictor of an exported version.

    Raises:
        InputError: if ``bert-tf export`` did not write it, or not all of it is there.
    """
    try:
        task = str(json.loads((folder / EXTRA / CARD).read_text())["task"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"{folder}: a SavedModel, but not one that bert-tf export wrote: it has no readable "
            f"{EXTRA}/{CARD}"
        ) from error
    try:
        model = tf.saved_model.load(str(folder))
    except (OSError, tf.errors.OpError) as error:
        raise InputError(f"{folder}: the SavedModel cannot be loaded: {reason(error)}") from error
    return ServedPredictor(task, model)


class ServedPredictor:
    """Answers texts with an exported model.

    Args:
        task: of those of Predictor.
        model: a loaded SavedModel.
    """

    def __init__(self, task: str, model: Any) -> None:
        self.task = task
        self._model = model  # keeps the weights alive
        self._signatures = model.signatures
        specs = self._signatures[DEFAULT].structured_input_signature[1]
        default = set(specs)
        # Of every request; None for any.
        self._only_size: int | None = next(iter(specs.values())).shape[0]
        self._takes_pairs = "text_b" in default
        # The names of a pair's parts; empty where it takes none.
        self._parts: tuple[str, ...] = ()
        if self._takes_pairs or PAIRS in self._signatures:
            self._parts = ("text", "text_b")
        elif "question" in default:
            self._parts = ("question", "context")
        self._takes_text = default == {"text"}

    def parse(self, line: str, name: str) -> Text:
        """See TaskPredictor."""
        if self._takes_pairs:
            return parse_pair(line, name)
        if PAIRS in self._signatures:
            return parse_text_or_pair(line, name)
        if self.task == "question_answering":
            return parse_question(line, name)
        return parse_choices(line, name) if self.task == "multiple_choice" else line

    def predict(
        self, texts: Sequence[Any], batch_size: int, name_of: NameOf
    ) -> list[dict[str, Any]]:
        """See TaskPredictor."""
        inputs = [self._inputs(text, name_of(number)) for number, text in enumerate(texts)]
        answers: list[dict[str, Any]] = [{} for _ in texts]
        # Similar lengths together, and pairs apart from single texts.
        order = sorted(range(len(texts)), key=lambda i: (len(inputs[i]), len(str(inputs[i]))))
        most = self._only_size or batch_size
        start = 0
        while start < len(order):
            kind = set(inputs[order[start]])
            batch = [i for i in order[start : start + most] if set(inputs[i]) == kind]
            for number, row in zip(batch, self._rows([inputs[i] for i in batch]), strict=True):
                answers[number] = _ANSWERS[self.task](inputs[number], row, name_of(number))
            start += len(batch)
        return answers

    def _inputs(self, text: Any, name: str) -> dict[str, Any]:
        """The values of a signature's inputs for one text."""
        if self.task == "multiple_choice":
            question = read_question(text, name)
            return {"text": question.context, "choices": question.choices}
        if self._parts and is_pair(text):
            return dict(zip(self._parts, text, strict=True))
        if self._takes_text and isinstance(text, str):
            return {"text": text}
        forms = ["a str"] * self._takes_text + ["a pair (str, str)"] * bool(self._parts)
        raise InputError(f"{name} must be {' or '.join(forms)} for this model, but is {text!r:.80}")

    def _rows(self, inputs: Sequence[Mapping[str, Any]]) -> list[Row]:
        """The outputs of each example of a batch of one kind."""
        name = DEFAULT
        if not self._takes_pairs and "text_b" in inputs[0]:
            name = PAIRS
        size = self._only_size or len(inputs)
        filling = [inputs[-1]] * (size - len(inputs))
        values = {key: [one[key] for one in (*inputs, *filling)] for key in inputs[0]}
        if "choices" in values:
            most = max(map(len, values["choices"]))
            values["choices"] = [[*c, *[""] * (most - len(c))] for c in values["choices"]]
        tensors = {key: tf.constant(value) for key, value in values.items()}
        outputs = {key: _decoded(v.numpy()) for key, v in self._signatures[name](**tensors).items()}
        return [{key: value[i] for key, value in outputs.items()} for i in range(len(inputs))]


def _decoded(values: np.ndarray) -> Any:
    """An output, float32 or int32 or bytes, with str for bytes."""
    return np.vectorize(bytes.decode, otypes=[object])(values) if values.dtype == object else values


def _label(inputs: Mapping[str, Any], row: Row, name: str) -> dict[str, Any]:
    if "probabilities" not in row:
        return {**inputs, "score": float(row["score"])}
    named = {
        "label": row["label"],
        "score": float(row["score"]),
        "probabilities": dict(zip(row["classes"], map(float, row["probabilities"]), strict=True)),
    }
    if "labels" in row:
        named = {"labels": [label for label in row["labels"] if label], **named}
    return {**inputs, **named}


def _choice(inputs: Mapping[str, Any], row: Row, name: str) -> dict[str, Any]:
    count = len(inputs["choices"])
    return {
        **inputs,
        "label": int(row["label"]),
        "choice": row["choice"],
        "score": float(row["score"]),
        "probabilities": [float(value) for value in row["probabilities"][:count]],
    }


def _tags(inputs: Mapping[str, Any], row: Row, name: str) -> dict[str, Any]:
    keys = {"word": "words", "start": "word_starts", "end": "word_ends"}
    keys |= {"tag": "tags", "score": "scores"}
    answer = {**inputs, "words": _items(row, keys, "word_starts")}
    if "entity_types" in row:
        keys = {key: f"entity_{key}s" for key in ("type", "text", "start", "end", "score")}
        answer["entities"] = _items(row, keys, "entity_starts")
    return answer


def _items(row: Row, keys: Mapping[str, str], places: str) -> list[dict[str, Any]]:
    """What outputs [W] say of each of several things; where ``places`` is -1, there is none."""
    count = int(np.count_nonzero(row[places] >= 0))
    return [{key: _plain(row[name][i]) for key, name in keys.items()} for i in range(count)]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _answer(inputs: Mapping[str, Any], row: Row, name: str) -> dict[str, Any]:
    def one(answer: str, score: Any, start: Any, end: Any) -> dict[str, Any]:
        places = (int(start), int(end)) if start >= 0 else (None, None)
        return {"answer": answer, "score": float(score), "start": places[0], "end": places[1]}

    names = ("answers", "answer_scores", "answer_starts", "answer_ends")
    several = [one(*values) for values in zip(*(row[name] for name in names), strict=True)]
    answer = {**inputs, **one(*(row[name] for name in ("answer", "score", "start", "end")))}
    if "null_odds" in row:
        answer["null_odds"] = float(row["null_odds"])
    return {**answer, "answers": [each for each in several if each["score"] > 0]}


def _masks(inputs: Mapping[str, Any], row: Row, name: str) -> dict[str, Any]:
    """Refuses what cannot be answered, as MaskFiller does."""
    answer: dict[str, Any] = dict(inputs)
    if "next_sentence_probability" in row:
        answer["next_sentence_probability"] = float(row["next_sentence_probability"])
    answer["masks"] = [
        {
            **({"in": row["in"][number]} if "in" in row else {}),
            "position": int(position),
            "predictions": [
                {"piece": piece, "score": float(score)}
                for piece, score in zip(row["pieces"][number], row["scores"][number], strict=True)
            ],
        }
        for number, position in enumerate(row["position"])
        if position >= 0
    ]
    if not answer["masks"] and "next_sentence_probability" not in answer:
        refuse_without_mask(answer, name)
    # Some piece is the likeliest of each mask that is in its row.
    if any(mask["predictions"][0]["score"] == 0 for mask in answer["masks"]):
        raise InputError(
            f"{name}: a {MASK} is beyond the word pieces that the model takes; shorten the text"
        )
    return answer


# (an example's inputs, its outputs, what messages call it) -> the answer.
_ANSWERS: dict[str, Callable[[Mapping[str, Any], Row, str], dict[str, Any]]] = {
    "classification": _label,
    "tagging": _tags,
    "multiple_choice": _choice,
    "question_answering": _answer,
    "fill_mask": _masks,
    "features": lambda inputs, row, name: {**inputs, "vector": row["vector"].tolist()},
}

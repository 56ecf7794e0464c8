"""Takes a served model, returns what a reader wants to know of it; next: exporter."""

import json
import pathlib
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import tensorflow as tf

from bert_tf import run_folder
from bert_tf.checksum import sha256_of
from bert_tf.config import ModelFiles
from bert_tf.errors import InputError, reason
from bert_tf.export.served_model import ServedModel
from bert_tf.use_config import Export

CARD = "model_card.json"
CARD_TEXT = "model_card.md"


def write_model_card(
    served: ServedModel,
    settings: Export,
    model: pathlib.Path | ModelFiles,
    signatures: Mapping[str, Any],
    folder: pathlib.Path,
    target: pathlib.Path,
) -> None:
    """Writes the card, as JSON for programs and as Markdown for people.

    Args:
        served: the model.
        settings: of the export.
        model: what was exported.
        signatures: the traced functions.
        folder: the version's, with all its other files.
        target: where the card goes.
    """
    card = {
        "task": served.task,
        "signatures": {name: _described(function) for name, function in signatures.items()},
        "runtime": settings.runtime,
        "precision": settings.precision,
        "exported": _exported(served, settings),
        "trained": _training(model),
        "metrics": _metrics(model),
        "made_with": {name: metadata.version(name) for name in ("bert-tf", "tensorflow", "keras")},
        "sha256": {
            str(path.relative_to(folder)): sha256_of(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        },
    }
    run_folder.write_json(target / CARD, card)
    run_folder.write_text(target / CARD_TEXT, _text(card))


def _described(function: Any) -> dict[str, dict[str, str]]:
    """The inputs and outputs of a traced function: dtype and shape."""
    specs = {
        "inputs": function.structured_input_signature[1],
        "outputs": function.structured_outputs,
    }
    return {
        kind: {name: f"{spec.dtype.name} {_shape(spec.shape)}" for name, spec in of.items()}
        for kind, of in specs.items()
    }


def _shape(shape: tf.TensorShape) -> list[int | None]:
    return list(shape) if shape.rank is not None else []


def _exported(served: ServedModel, settings: Export) -> dict[str, Any]:
    """What the model was exported with."""
    shapes = {"fixed_length": settings.fixed_length, "batch_size": settings.batch_size or "any"}
    # Other runtimes take rows of any length and number.
    return {**served.settings, **(shapes if settings.runtime == "tensorflow" else {})}


def _training(model: pathlib.Path | ModelFiles) -> dict[str, Any]:
    """How the model was made, as far as its folder says."""
    if isinstance(model, ModelFiles):
        return {"init_checkpoint": model.init_checkpoint}
    if not (model / run_folder.RUN_CONFIG).is_file():
        return {"init_checkpoint": str(model / run_folder.CHECKPOINT)}
    stored = run_folder.read_run_config(model / run_folder.RUN_CONFIG)
    return {name: value for name, value in stored.items() if value is not None}


def _metrics(model: pathlib.Path | ModelFiles) -> dict[str, Any]:
    """What the run measured, if it evaluated."""
    if isinstance(model, ModelFiles) or not (model / run_folder.EVAL_RESULTS).is_file():
        return {}
    path = model / run_folder.EVAL_RESULTS
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: not readable as JSON ({reason(error)}); evaluate again with --overwrite, or "
            "move it away"
        ) from error
    return found


def _text(card: Mapping[str, Any]) -> str:
    """The card in Markdown."""
    lines = [f"# A BERT model for {card['task']}", ""]
    for name, signature in card["signatures"].items():
        lines += [f"## Signature `{name}`", ""]
        for kind, of in signature.items():
            lines += [f"{kind}:", ""]
            lines += [f"- `{key}`: {what}" for key, what in of.items()] + [""]
    for title, key in (
        ("Export", "exported"),
        ("Metrics", "metrics"),
        ("Training", "trained"),
        ("Made with", "made_with"),
    ):
        lines += [f"## {title}", ""]
        lines += [f"- {name}: {value}" for name, value in card[key].items()] or ["- not known"]
        lines.append("")
    lines += [f"The model computes in {card['precision']}. Checksums of its files (sha256):", ""]
    lines += [f"- `{name}`: {value}" for name, value in card["sha256"].items()]
    return "\n".join(lines) + "\n"

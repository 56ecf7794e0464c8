"""The tree is read downwards: a module imports only modules above it, and starting up is light."""

import ast
import pathlib
import subprocess
import sys

import pytest

import bert_tf

PACKAGE = pathlib.Path(bert_tf.__file__).parent
# From text at the top to a served model at the bottom. A folder is one place in the list; inside
# it, imports may go either way but not in a circle.
ORDER = (
    "errors",
    "config",
    "use_config",
    "checksum",
    "output_file",
    "file_download",
    "released_checkpoints",
    "run_folder",
    "code_points",
    "tokenization",
    "graph_tokenization",
    "packing",
    "random_bits",
    "worker_pool",
    "text_files",
    "vocabulary_learning",
    "corpus",
    "corpus_health",
    "pretraining_data",
    "instance_plan",
    "masking",
    "tfrecord",
    "pretraining_records",
    "record_manifest",
    "gzip_parts",
    "record_shard",
    "pretraining_files",
    "pretraining_sections",
    "pretraining_beam",
    "text_tables",
    "tag_schemes",
    "tagged_text",
    "word_windows",
    "long_text",
    "context_windows",
    "answer_spans",
    "answer_text",
    "shared_rows",
    "input_pipeline",
    "record_dataset",
    "functional",
    "model_inputs",
    "recomputation",
    "modeling",
    "crf",
    "heads",
    "losses",
    "optimization",
    "replicas",
    "checkpoint",
    "best_model",
    "metrics",
    "answer_metrics",
    "calibration",
    "evaluation_plots",
    "distribution",
    "termination",
    "out_of_memory",
    "tensorboard_file",
    "compiled_step",
    "training",
    "training_plot",
    "tasks",
    "interop",
    "checkpoint_download",
    "default_checkpoint",
    "export",
    "predictor",
    "cli",
)
HEAVY = ("tensorflow", "keras", "orbit", "numpy", "scipy", "sklearn", "yaml", "tqdm", "matplotlib")


def module_name(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def modules():
    """name -> path of every module but the package itself, whose names are looked up lazily."""
    return {module_name(path): path for path in sorted(PACKAGE.rglob("*.py")) if module_name(path)}


def resolve(base, names, known):
    """The modules behind ``from base import names``: each name, or the one that defines it."""
    return {
        f"{base}.{name}".strip(".") if f"{base}.{name}".strip(".") in known else base
        for name in names
    }


def imports_of(name, source, known):
    """What a module imports from the package, at its top and inside its functions."""
    found = set()
    is_package = (PACKAGE / name.replace(".", "/")).is_dir()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "bert_tf":
                    found.add(alias.name.removeprefix("bert_tf").lstrip("."))
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = ["bert_tf", *name.split(".")]
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, *([base] if base else [])])
            if base.partition(".")[0] == "bert_tf":
                base = base.removeprefix("bert_tf").lstrip(".")
                found |= resolve(base, [alias.name for alias in node.names], known)
    return found - {name}


def place(name):
    return ORDER.index(name.partition(".")[0])


@pytest.fixture(scope="module")
def imports():
    known = modules()
    return {name: imports_of(name, path.read_text(), known) for name, path in known.items()}


def test_every_module_has_its_place():
    assert {name.partition(".")[0] for name in modules()} - set(ORDER) == set()
    assert len(ORDER) == len(set(ORDER))


def test_a_module_imports_only_modules_above_it(imports):
    wrong = [
        f"{name} imports {other or 'bert_tf'}"
        for name, others in imports.items()
        for other in others
        if name.partition(".")[0] != other.partition(".")[0]
        and (not other or place(other) > place(name))
    ]
    assert wrong == []
    assert sum(map(len, imports.values())) > 30  # the walk does see imports


def test_no_imports_go_in_a_circle(imports):
    left = {name: {o for o in others if o in imports} for name, others in imports.items()}
    while left:
        free = {name for name, others in left.items() if not others & set(left)}
        assert free, f"these import each other: {sorted(left)}"
        left = {name: others for name, others in left.items() if name not in free}


def test_the_walk_sees_every_form_of_import():
    source = """
import bert_tf.errors, os
from bert_tf import config, InputError
from bert_tf.tasks import classification
from . import heads
from .cli.main import main
def late():
    import bert_tf.modeling as m
    from bert_tf.losses import LossTerm
"""
    known = ["errors", "config", "heads", "cli.main", "tasks.classification", "losses", "modeling"]
    assert imports_of("training", source, known) == {
        *("errors", "config", "", "tasks.classification", "heads", "cli.main", "modeling", "losses")
    }
    assert imports_of("cli.predict", "from ..errors import InputError", known) == {"errors"}
    assert imports_of("cli.predict", "from . import main", known) == {"cli.main"}


@pytest.mark.parametrize("module", ["bert_tf", "bert_tf.cli.main"])
def test_starting_up_imports_nothing_heavy(module):
    if not (PACKAGE.parent / (module.replace(".", "/") + ".py")).exists() and module != "bert_tf":
        pytest.skip(f"there is no {module}")
    command = f"import sys, {module}; print(*sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True
    ).stdout
    assert module in output.split()
    assert set(output.split()) & set(HEAVY) == set()


def test_modules_without_tensors_import_no_tensorflow():
    names = ["errors", "config", "tokenization", "packing", "text_tables", "metrics", "run_folder"]
    command = f"import sys, {', '.join(f'bert_tf.{name}' for name in names)}; print(*sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True
    ).stdout
    assert set(output.split()) & {"tensorflow", "keras", "sklearn", "scipy"} == set()

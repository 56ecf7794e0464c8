"""Compiles this project's training steps for a TPU, with the TPU's own compiler, without a TPU.

It shows that a step compiles for the chip, and what memory it takes there. Nothing is run: it says
nothing of speed, of the input pipeline, or of how a job on TPUs starts. BERT BASE takes about 5 GB
and 5 minutes of one core per task.
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from refusal import RefusedError

from bert_tf import run_folder
from bert_tf.config import BertConfig
from bert_tf.errors import InputError

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
COMPILER_PYTHON = REPOSITORY / ".venv-tpu" / "bin" / "python"
COMPILATION = pathlib.Path(__file__).with_name("compilation.py")
BASE = BertConfig(vocab_size=30522, type_vocab_size=2)

# Unless told not to, the compiler's library looks for a TPU, keeps other processes from loading it,
# and writes logs beside the machine's temporary files.
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
}
_MIB = 2**20
_COLUMNS = {
    "arguments, MiB": lambda found: f"{found['argument_bytes'] / _MIB:,.0f}",
    "outputs, MiB": lambda found: f"{found['output_bytes'] / _MIB:,.0f}",
    "of them aliased, MiB": lambda found: f"{found['aliased_bytes'] / _MIB:,.0f}",
    "temporaries, MiB": lambda found: f"{found['temporary_bytes'] / _MIB:,.0f}",
    "peak, MiB": lambda found: f"{found['peak_bytes'] / _MIB:,.0f}",
    "TFLOP": lambda found: f"{found['flops'] / 1e12:.3g}",
    "compiled in": lambda found: f"{found['processor_seconds']:.0f} s",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks the tasks that are asked for; 1 if one is refused, 2 for a user's mistake."""
    options = _options(arguments)
    try:
        config = BertConfig.from_json_file(options.config) if options.config else BASE
        found = {task: _checked(task, config, options) for task in _tasks(options.task)}
        if options.json:
            asked = {name: value for name, value in vars(options).items() if name != "json"}
            run_folder.write_json(pathlib.Path(options.json), {**asked, "tasks": found})
    except InputError as error:
        print(f"tpu_check: {error}", file=sys.stderr)
        return 2
    compiled = {task: figures for task, figures in found.items() if "refused" not in figures}
    if compiled:
        print(table(compiled, options))
    return 0 if len(compiled) == len(found) else 1


def table(compiled: dict[str, dict[str, float]], options: argparse.Namespace) -> str:
    """The figures of each task as Markdown."""
    model = options.config or "BASE"
    lines = [
        f"A training step of {model}, {options.precision}, {options.optimizer}"
        f"{', --recompute' * options.recompute}, batch "
        f"{options.batch_size} x {options.max_seq_length}, on one chip of {options.topology}:",
        "",
        "| task | " + " | ".join(_COLUMNS) + " |",
        "|---" * (1 + len(_COLUMNS)) + "|",
    ]
    for task, figures in compiled.items():
        cells = [task, *(column(figures) for column in _COLUMNS.values())]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/tpu_check", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--task", default="all", help="what is trained, or all (all); another name lists them"
    )
    parser.add_argument("--config", help="a bert_config.json; by default BERT BASE")
    parser.add_argument("--batch_size", type=_positive, default=32, help="of one chip (32)")
    parser.add_argument("--max_seq_length", type=_positive, default=128, help="(128)")
    parser.add_argument("--precision", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--optimizer", default="adamw", choices=("adamw", "lamb"))
    parser.add_argument("--recompute", action="store_true", help="as in the training commands")
    parser.add_argument(
        "--topology",
        default="v5e:2x2",
        help="kind of TPU and how its chips are laid out (v5e:2x2); tried: v2:2x2, v3:2x2,\n"
        "v4:2x2x1, v5e:1x1, v5e:2x4, v5p:2x2x1, v6e:1x1, v6e:2x2, v6e:2x4, tpu7x:2x2x1",
    )
    parser.add_argument("--json", help="a file to write the figures to")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, but is {number}")
    return number


def _tasks(task: str) -> list[str]:
    # Late, here and below: --help should not wait for TensorFlow.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from training_steps import TASKS

    if task not in ("all", *TASKS):
        raise InputError(f"--task must be all or one of {', '.join(TASKS)}, but is {task!r}")
    return list(TASKS) if task == "all" else [task]


def _checked(task: str, config: BertConfig, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of a task, or why it is refused, which is printed."""
    try:
        print(f"{task}: lowering its training step …", file=sys.stderr)
        module = _lowered(task, config, options)
        print(f"{task}: compiling it for {options.topology} …", file=sys.stderr)
        return compiled(module, options.topology)
    except RefusedError as error:
        print(f"tpu_check: {task}: refused: {error}", file=sys.stderr)
        return {"refused": str(error)}


def _lowered(task: str, config: BertConfig, options: argparse.Namespace) -> bytes:
    from lowering import free, lower
    from training_steps import Sizes, training_step

    step, batch = training_step(
        task,
        config,
        Sizes(options.batch_size, options.max_seq_length, options.precision),
        options.optimizer,
        recompute=options.recompute,
    )
    try:
        return lower(step, batch)
    finally:
        free(step)  # the compiler needs the memory


def compiled(module: bytes, topology: str) -> dict[str, float]:
    """Compiles in a process of its own, which some programs crash.

    Args:
        module: of ``lowering.lower``.
        topology: a kind of TPU.

    Returns:
        As ``compilation.compile_for``.

    Raises:
        RefusedError: if it does not compile, or does not fit in the chip's memory.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, result = pathlib.Path(folder) / "module.hlo", pathlib.Path(folder) / "result.json"
        source.write_bytes(module)
        run = subprocess.run(
            [COMPILER_PYTHON, COMPILATION, source, topology, result],
            env={**os.environ, **_ENVIRONMENT},
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if run.returncode or not result.exists():
            how = f"exit status {run.returncode}"
            if run.returncode < 0:
                how = signal.Signals(-run.returncode).name
            last = "\n".join(run.stderr.strip().splitlines()[-12:])
            raise RefusedError(f"the TPU's compiler ended with {how}:\n{last}")
        found = json.loads(result.read_text())
    if "refused" in found:
        raise RefusedError(f"the TPU's compiler says: {found['refused'].strip()}")
    return found


if __name__ == "__main__":
    sys.exit(main())

"""Runs the contenders of a benchmark in turns and reports their ratios."""

import argparse
import contextlib
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
from importlib import metadata

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent

_COUNT_GPUS = "import tensorflow as tf; print(len(tf.config.list_physical_devices('GPU')))"


def add_device(parser: argparse.ArgumentParser) -> None:
    """Adds ``--device``, which ``choose_device`` takes."""
    parser.add_argument(
        "--device", choices=("cpu", "gpu"), default="cpu", help="what all contenders run on"
    )


def choose_device(device: str) -> None:
    """Hides the GPUs from this process and all that it starts; or all but one, which there must be.

    Raises:
        SystemExit: if TensorFlow finds none.
    """
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
        return
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    counted = subprocess.run(
        [sys.executable, "-c", _COUNT_GPUS], stdout=subprocess.PIPE, text=True, check=True
    )
    if int(counted.stdout) < 1:
        raise SystemExit(
            "--device=gpu: TensorFlow finds no GPU here; it needs one of NVIDIA's, with CUDA "
            '(pip install "tensorflow[and-cuda]~=2.20.0")'
        )


def measure_in_turns(
    script: str, contenders: list[str], rounds: int, arguments: tuple[str, ...] = ()
) -> dict[str, list[float]]:
    """Runs contenders that print one figure, their last line.

    Returns:
        contender -> its figure in each round.
    """
    lines = last_lines_in_turns(script, contenders, rounds, arguments)
    return {name: [float(line) for line in found] for name, found in lines.items()}


def last_lines_in_turns(
    script: str, contenders: list[str], rounds: int, arguments: tuple[str, ...] = ()
) -> dict[str, list[str]]:
    """Runs ``script --contender NAME`` for every contender, ``rounds`` times in turn.

    Taking turns lets a slow spell of the machine fall on all of them; other processes do not:
    libraries whose threads wait for each other in a loop lose far more by them.

    Returns:
        contender -> the last line that it prints in each round.
    """
    lines: dict[str, list[str]] = {name: [] for name in contenders}
    # With oneDNN, as this project's commands have it, every contender that is TensorFlow is faster.
    environment = {"TF_ENABLE_ONEDNN_OPTS": "1", **os.environ}
    environment |= {"PYTHONPATH": str(REPOSITORY), "TF_CPP_MIN_LOG_LEVEL": "2"}
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores / 2:
        print(
            f"warning: the load is {load:.1f} on {cores} cores; wait until it is near 0",
            file=sys.stderr,
        )
    for number in range(rounds):
        for name in contenders:
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            command = [sys.executable, script, *arguments, "--contender", name]
            environment["BENCH_ROUND"] = str(number)  # for those that vary a seed
            run = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, text=True, check=True
            )
            lines[name].append(run.stdout.strip().splitlines()[-1])
    return lines


def print_report(
    benchmark: str,
    figures: dict[str, list[float]],
    unit: str,
    *,
    smaller_is_better: bool,
    **more: object,
) -> None:
    """Prints a table in Markdown, with ratios of the first contender to each, and one line of JSON.

    A ratio is taken round by round, then its median: above 1, the first contender is faster.

    Args:
        benchmark: its name.
        figures: contender -> its figure in each round.
        unit: of the figures.
        smaller_is_better: whether they are times, not rates.
        more: what else goes into the JSON, by name.
    """
    first = next(iter(figures))
    rows = {}
    print(f"{benchmark}: {unit}, median of {len(figures[first])} rounds, on {machine()}\n")
    print(f"| | median | range | {first} is so many times as fast |\n|---|---|---|---|")
    for name, values in figures.items():
        ratios = [
            theirs / ours if smaller_is_better else ours / theirs
            for ours, theirs in zip(figures[first], values, strict=True)
        ]
        rows[name] = {
            "median": statistics.median(values),
            "min": min(values),
            "max": max(values),
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
        }
        row = rows[name]
        print(
            f"| {name} | {row['median']:.4g} | {row['min']:.4g} – {row['max']:.4g} "
            f"| {row['ratio']:.2f} ({row['ratio_min']:.2f} – {row['ratio_max']:.2f}) |"
        )
    report = {"benchmark": benchmark, "unit": unit, "machine": machine(), "contenders": rows}
    report |= more
    print(f"\n{json.dumps(report)}")


def peak_memory(process: int | str = "self") -> float | None:
    """MiB that a process had in memory at most; None if there is none, or none any more.

    Unlike getrusage's, it does not begin with that of the process that started this one.
    """
    try:
        status = pathlib.Path(f"/proc/{process}/status").read_text()
    except OSError:
        return None
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else None


def machine() -> str:
    """The processor's name, its cores, the GPUs that are used, and the versions of libraries."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    names = [
        line.split(":", 1)[1].strip()
        for line in (cpuinfo.read_text().splitlines() if cpuinfo.exists() else [])
        if line.startswith("model name")
    ]
    name = names[0] if names else platform.processor()
    versions = [f"Python {platform.python_version()}"]
    for package in ("tensorflow", "keras-hub", "tf-models-official", "torch", "onnxruntime"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{package} {metadata.version(package)}")
    return ", ".join([name, f"{os.cpu_count()} cores", *_gpus(), *versions])


def _gpus() -> list[str]:
    """Their names; none where ``choose_device`` hides them."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "-1":
        return []
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        found = subprocess.run(query, capture_output=True, text=True, check=True).stdout
        return found.strip().splitlines()
    return []

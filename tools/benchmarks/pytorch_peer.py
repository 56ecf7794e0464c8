"""Shared by benchmarks beside PyTorch's transformers: the same weights there, a training loop."""

import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from harness import machine

STARTUP_STEPS = 10  # these trace graphs and warm caches; they count in end_to_end only


def write_peer_folder(checkpoint: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes a checkpoint's encoder as a folder that transformers reads."""
    import numpy as np
    import safetensors.numpy

    from bert_tf.checkpoint import Checkpoint
    from bert_tf.config import BertConfig
    from bert_tf.interop.huggingface_names import NAMES, is_transposed
    from bert_tf.interop.weights import expand

    config = BertConfig.from_json_file(checkpoint / "bert_config.json")
    rows = expand(("embeddings", "layer", "pooler"), config.num_hidden_layers)
    file = Checkpoint(checkpoint)
    values = [value.numpy() for value in file.read([file.name_in_file(row.name) for row in rows])]
    tensors = {
        NAMES[row.name]: np.ascontiguousarray(value.T if is_transposed(row.name) else value)
        for row, value in zip(rows, values, strict=True)
    }
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    # The fused one of the two names that the original's activation has there.
    settings = {**config.to_dict(), "model_type": "bert", "hidden_act": "gelu_pytorch_tanh"}
    (folder / "config.json").write_text(json.dumps(settings))
    shutil.copyfile(checkpoint / "vocab.txt", folder / "vocab.txt")


def run_peer(python: str, script: str, arguments: list[str]) -> str:
    """Runs a script in the peer's Python; returns the last line that it prints."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    command = [python, script, *arguments]
    run = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return run.stdout.strip().splitlines()[-1]


def make_loader(features: list[Any], batch_size: int, by_length: bool, collate: Any) -> Any:
    """Batches in random order, or of similar lengths as transformers makes them."""
    import torch

    sampler = None
    if by_length:
        from transformers.trainer_pt_utils import LengthGroupedSampler

        lengths = [len(feature["input_ids"]) for feature in features]
        sampler = LengthGroupedSampler(batch_size, lengths=lengths)
    return torch.utils.data.DataLoader(
        features,
        batch_size=batch_size,
        shuffle=sampler is None,
        sampler=sampler,
        drop_last=True,
        collate_fn=collate,
    )


def device_of_peer() -> str:
    """PyTorch's name of what ``choose_device`` left to it."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def make_step(
    model: Any, learning_rate: float, num_steps: int, precision: str = "float32"
) -> Callable[[Any], Any]:
    """The recipe's update with PyTorch's fused AdamW: takes a batch, returns the loss."""
    import torch
    import transformers

    device = device_of_peer()
    model.to(device).train()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]  # biases and LayerNorm
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
        lr=learning_rate,
        eps=1e-6,
        fused=True,
    )
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, num_steps // 10, num_steps)

    def step(batch: Any) -> Any:
        inputs = {name: values.to(device) for name, values in batch.items()}
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        return loss

    return step


def train(
    model: Any, loader: Any, num_steps: int, learning_rate: float, precision: str = "float32"
) -> float:
    """Trains a model of transformers with the recipe's AdamW; returns batches per second."""
    take_step = make_step(model, learning_rate, num_steps, precision)
    step, start = 0, 0.0
    while step < num_steps:
        for batch in loader:
            loss = take_step(batch)
            step += 1
            if step % 10 == 0 or step == num_steps:
                print(f"step {step} of {num_steps}: loss {loss.item():.4f}", file=sys.stderr)
            if step == STARTUP_STEPS:
                start = time.perf_counter()
            if step == num_steps:
                break
    return (num_steps - STARTUP_STEPS) / (time.perf_counter() - start)


def note_on_mkl() -> None:
    """Says where a ratio rests on the peer's handicap."""
    if "AMD" in machine():
        print(
            "Note: PyTorch's float32 matrix products come from Intel's MKL, which is known to be "
            "slower on AMD processors like this one; the ratios would be smaller on Intel's."
        )


def logged_rate(train_log: pathlib.Path) -> float:
    """Examples per second of a run of this project, after its first logged steps."""
    logged = [json.loads(line) for line in train_log.read_text().splitlines()]
    pairs = list(itertools.pairwise(logged))
    steps = [this["step"] - last["step"] for last, this in pairs]
    rates = [this["examples_per_second"] for _, this in pairs]
    return sum(steps) / sum(done / rate for done, rate in zip(steps, rates, strict=True))

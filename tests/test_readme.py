"""The Python of the README, run as it stands, on a small checkpoint under the released name."""

import pathlib
import re
import shutil

import numpy as np

README = pathlib.Path(__file__).resolve().parent.parent / "README.md"


def test_the_readmes_python_runs(testdata, tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    code, _, needs_a_trained_model = code.partition("predictor = ")
    assert "Predictor.load" in needs_a_trained_model  # test_end_to_end.py has that
    folder = tmp_path / "uncased_L-12_H-768_A-12"
    folder.mkdir()
    source = testdata / "original_tiny"
    for name in ("bert_config.json", "vocab.txt"):
        shutil.copy(source / name, folder / name)
    for suffix in (".index", ".data-00000-of-00001"):
        shutil.copy(source / f"model.ckpt-300{suffix}", folder / f"bert_model.ckpt{suffix}")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    assert "55 variables loaded" in capsys.readouterr().out
    assert np.isfinite(names["outputs"]["pooled_output"]).all()

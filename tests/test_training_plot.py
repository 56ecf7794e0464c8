"""Tests of bert_tf.training_plot: what is in the picture, not its pixels."""

import json

import numpy as np
import pytest

from bert_tf.cli.main import main
from bert_tf.errors import InputError
from bert_tf.training_plot import COLORS, plot_runs, read_log, smooth


def write_log(folder, num_lines=60, **more):
    """A log of every 5th step with an evaluation at every 50th."""
    folder.mkdir()
    lines = []
    for step in range(5, 5 * num_lines + 1, 5):
        line = {
            "step": step,
            "loss": 9 / step,
            "masked_lm_loss": 8 / step,
            "grad_norm": 1 + step % 7,
            "learning_rate": 1e-4 * (1 - step / 1000),
            "masked_lm_accuracy": step / 1000,
            "examples_per_second": 3,
            "tokens_per_second": 17.5,
            **more,
        }
        if step % 50 == 0:
            line |= {"eval_masked_lm_accuracy": 0.25, "eval_f1": 0.75}
        lines.append(json.dumps(line) + "\n")
    (folder / "train_log.jsonl").write_text("".join(lines))
    return folder


def test_a_log_is_read_curve_by_curve(tmp_path):
    folder = write_log(tmp_path / "run")
    with (folder / "train_log.jsonl").open("a") as file:
        file.write('{"step": 303, "loss": null, "eval_f1": null, "eval_loss": null}\n')
        file.write('{"step": 305, "lo')  # the run is at it
    curves = read_log(folder)
    assert set(curves["loss"].steps) == set(range(5, 301, 5))
    np.testing.assert_allclose(curves["loss"].values, 9 / np.arange(5, 301, 5))
    assert curves["eval_f1"].steps.tolist() == [50, 100, 150, 200, 250, 300]
    assert curves["eval_f1"].values.tolist() == [0.75] * 6
    assert "eval_loss" not in curves  # it was never finite
    assert read_log(folder / "train_log.jsonl").keys() == curves.keys()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"step": 1, "loss": 2}\n{"step": 2, "loss"\n', "train_log.jsonl:2: not JSON"),
        ('{"step": 1, "loss": 2}\n[3]\n', "train_log.jsonl:2: expected an object like"),
        ('{"loss": 2}\n', "train_log.jsonl:1: expected an object like"),
        ('{"step": 1, "loss": "2"}\n', "train_log.jsonl:1: loss must be a number, but is '2'"),
        ('{"step": null, "loss": 2}\n', "train_log.jsonl:1: step must be a number, but is None"),
        ('{"step": 3, "loss": 2}\n' * 2, "train_log.jsonl:2: step 3 comes after step 3"),
        ('{"step": 1}\n', "train_log.jsonl: holds no finite value"),
        ("", "train_log.jsonl: holds no step yet"),
        ('{"step": 1, "loss": 2}', "train_log.jsonl: holds no step yet"),
        (b"\xff\n", "train_log.jsonl: not a training log"),
        (None, "train_log.jsonl: cannot read it: No such file"),
    ],
)
def test_what_is_no_log_is_refused(text, says, tmp_path, capsys):
    if text is not None:
        (tmp_path / "train_log.jsonl").write_bytes(
            text if isinstance(text, bytes) else text.encode()
        )
    with pytest.raises(InputError, match=says):
        read_log(tmp_path)
    picture = tmp_path / "p.png"
    assert main(["plot_training", f"--log={tmp_path}", f"--output={picture}"]) == 2
    assert f"bert-tf: {tmp_path}/{says}" in capsys.readouterr().err
    assert not picture.exists()


def drawn(axes):
    return [line.get_gid() for line in axes.get_lines()]


def test_a_panel_for_each_quantity_and_a_color_for_each_run(tmp_path):
    one = read_log(write_log(tmp_path / "one"))
    two = read_log(write_log(tmp_path / "two", num_lines=40, next_sentence_loss=0.5))
    figure = plot_runs({"one": one, "two": two})
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert list(panels) == [
        "loss", "masked LM loss", "next sentence loss", "masked LM accuracy", "learning rate",
        "grad norm", "tokens per second", "f1",
    ]  # fmt: skip
    run = ["logged", "mean"]
    assert drawn(panels["loss"]) == run * 2
    assert drawn(panels["next sentence loss"]) == run
    assert drawn(panels["masked LM accuracy"]) == [*run, "evaluation"] * 2
    assert drawn(panels["learning rate"]) == ["mean"] * 2
    assert drawn(panels["f1"]) == ["evaluation"] * 2
    for axes in panels.values():
        assert axes.get_xlabel() == "step"
        assert axes.get_xlim()[1] == pytest.approx(1.02 * 300)
    units = {name: axes.get_ylabel() for name, axes in panels.items()}
    assert units["masked LM loss"] == "nats" and units["masked LM accuracy"] == "%"
    assert units["tokens per second"].startswith("tokens / s") and units["f1"] == ""
    colors = [line.get_color() for line in panels["loss"].get_lines()]
    assert colors == [COLORS[0]] * 2 + [COLORS[1]] * 2
    logged, mean = panels["grad norm"].get_lines()[:2]
    np.testing.assert_array_equal(logged.get_ydata(), one["grad_norm"].values)
    np.testing.assert_array_equal(mean.get_ydata(), smooth(one["grad_norm"].values, 2))
    np.testing.assert_array_equal(
        panels["learning rate"].get_lines()[0].get_ydata(), one["learning_rate"].values
    )
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["one", "two", "as logged", "mean of neighbors", "evaluation"]


def test_a_color_stays_with_its_run(tmp_path):
    one = read_log(write_log(tmp_path / "one"))
    two = read_log(write_log(tmp_path / "two", next_sentence_loss=0.5))
    panel = plot_runs({"one": one, "two": two}).axes[2]
    assert panel.get_title(loc="left") == "next sentence loss"
    assert {line.get_color() for line in panel.get_lines()} == {COLORS[1]}


def test_one_line_makes_a_picture_with_points(tmp_path):
    figure = plot_runs({"run": read_log(write_log(tmp_path / "run", num_lines=1))})
    for axes in figure.axes:
        (line,) = axes.get_lines()
        assert line.get_marker() == "."
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["run"]


def test_more_runs_than_colors_are_refused(tmp_path):
    curves = read_log(write_log(tmp_path / "run"))
    with pytest.raises(InputError, match="at most 6 runs fit into one picture, but got 7"):
        plot_runs({str(number): curves for number in range(7)})


@pytest.mark.parametrize("window", [1, 2, 3, 5, 9])
def test_smoothing_takes_means_of_what_is_there(window):
    values = np.random.default_rng(1).normal(size=11)
    expected = []
    for i in range(11):
        first = i - window // 2
        near = [values[j] for j in range(first, first + window) if 0 <= j < 11]
        expected.append(sum(near) / len(near))
    np.testing.assert_allclose(smooth(values, window), expected)


def test_the_command_writes_a_picture_whole_or_not_at_all(tmp_path, capsys):
    one, two = write_log(tmp_path / "one"), write_log(tmp_path / "two")
    picture = tmp_path / "pictures.png"
    command = ["plot_training", f"--log={one},{two}/train_log.jsonl"]
    assert main([*command, f"--output={picture}"]) == 0
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG") and content.endswith(b"IEND\xaeB`\x82")
    captured = capsys.readouterr()
    assert str(picture) in captured.err and captured.out == ""
    assert main([*command, f"--output={tmp_path}/no/p.png"]) == 2
    assert "cannot write it: No such file" in capsys.readouterr().err
    assert main([*command, f"--output={tmp_path}/p.jpg"]) == 2
    assert "must end in .png" in capsys.readouterr().err
    for log in ([], ["--log="], ["--log=a,,b"]):
        assert main(["plot_training", *log]) == 2
        assert "--log is missing" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "pictures.png", "two"]

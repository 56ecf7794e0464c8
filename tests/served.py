"""What is exported, as a server runs it, for tests."""

import tensorflow as tf

from bert_tf.cli.main import main


class Served:
    """An export in a session, without the code that made it."""

    def __init__(self, folder):
        self.folder = folder
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            loaded = tf.compat.v1.saved_model.load(self._session, ["serve"], str(folder))
        self._signatures = loaded.signature_def

    def __call__(self, name="serving_default", **inputs):
        signature = self._signatures[name]
        outputs = {key: output.name for key, output in signature.outputs.items()}
        feed = {signature.inputs[key].name: value for key, value in inputs.items()}
        return self._session.run(outputs, feed)

    def in_batches(self, inputs, size, name="serving_default"):
        """Each example's outputs, of batches of some size."""
        found = []
        for start in range(0, len(next(iter(inputs.values()))), size):
            batch = {key: values[start : start + size] for key, values in inputs.items()}
            outputs = self(name, **batch)
            count = len(next(iter(batch.values())))
            found += [{key: value[i] for key, value in outputs.items()} for i in range(count)]
        return found


def exporting(run_of, tmp_path_factory):
    """Takes a run's name and flags, returns its export, each made once by the command.

    Args:
        run_of: the folder of a run, given its name.
        tmp_path_factory: pytest's.
    """
    made = {}

    def export(name, *flags):
        if (name, flags) not in made:
            folder = tmp_path_factory.mktemp(name)
            command = ["export", f"--model_dir={run_of(name)}", f"--export_dir={folder}", *flags]
            assert main(command) == 0
            made[name, flags] = Served((folder / "1").rename(folder / "moved"))
        return made[name, flags]

    return export


def examples(inputs):
    """The same inputs, a text, several or None of each example, as serialized tf.train.Example."""
    serialized = []
    for values in zip(*inputs.values(), strict=True):
        example = tf.train.Example()
        for name, value in zip(inputs, values, strict=True):
            if value is None:
                continue
            texts = [value] if isinstance(value, (str, bytes)) else value
            found = example.features.feature[name].bytes_list.value
            found.extend(text.encode() if isinstance(text, str) else text for text in texts)
        serialized.append(example.SerializeToString())
    return serialized

"""What is exported, in a session, as TF Serving's C++ loader runs it."""

import tensorflow as tf


class Exported:
    """A version's folder, loaded without the code that made it."""

    def __init__(self, folder):
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            loaded = tf.compat.v1.saved_model.load(self._session, ["serve"], str(folder))
        self._signatures = loaded.signature_def

    def __call__(self, signature="serving_default", **inputs):
        """The outputs of a signature, as arrays by name."""
        found = self._signatures[signature]
        outputs = {name: tensor.name for name, tensor in found.outputs.items()}
        feed = {found.inputs[name].name: value for name, value in inputs.items()}
        return self._session.run(outputs, feed)

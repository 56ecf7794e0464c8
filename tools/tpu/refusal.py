"""What a training step is refused with."""


class RefusedError(Exception):
    """A training step that would not run on a TPU; the message says why."""

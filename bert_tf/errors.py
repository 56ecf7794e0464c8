"""Takes nothing, returns the one exception type that a user's mistake raises; next: config."""


class InputError(ValueError):
    """A mistake in what the user gave: a file, a flag, a configuration, an argument.

    The message names the file and line, field, tensor or flag, says what was expected and what
    came, and what to do. The command line prints it without a traceback and exits with 2; any
    other exception is a defect of this project and keeps its traceback.
    """

"""The one exception that means: the input, not the code, is wrong."""


class InputError(ValueError):
    """Bad input, told in one message: which file or field, what was found, what was expected, what to do.

    The command line prints it without a traceback and exits with status 2.
    """

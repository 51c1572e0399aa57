"""The one exception a user is meant to see."""


class UserError(Exception):
    """Bad input, told in one line: what, where, what was expected, what was found, what to do.

    Scripts print the line without a traceback and exit with a code of their own (src/cli.py).
    """

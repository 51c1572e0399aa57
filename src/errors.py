"""The one exception a user is meant to see, and what it may show of a file."""


class UserError(Exception):
    """Bad input, told in one line: what, where, what was expected, what was found, what to do.

    Scripts print the line without a traceback and exit with a code of their own (src/cli.py).
    """


def shown(value):
    """Return what a file holds as text that is fit for a message: short and printable."""
    text = "".join(letter if letter.isprintable() else "?" for letter in str(value))
    return text if len(text) <= 120 else f"{text[:120]}..."

"""The exceptions a user is meant to see, and what they may show; and what any line may raise."""


class UserError(Exception):
    """Bad input, told in one line: what, where, what was expected, what was found, what to do.

    Scripts print the line without a traceback and exit with a code of their own (src/cli.py).
    """


class OtherData(UserError):
    """A file holds other rows than those expected, or may not be read: it is not a damaged one."""


def is_out_of_memory(error):
    """Return whether an exception says that the host's or the device's memory was not enough."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "ResourceExhaustedError", "OutOfMemoryError"}) or (
        "RESOURCE_EXHAUSTED" in str(error)
    )


def shown(value):
    """Return what a file holds as text that is fit for a message: short and printable."""
    text = "".join(letter if letter.isprintable() else "?" for letter in str(value))
    return text if len(text) <= 120 else f"{text[:120]}..."

"""The exceptions a user is meant to see, and what they may show; and what any line may raise."""

import contextlib


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


@contextlib.contextmanager
def enough_memory(batch, size):
    """Tell in a UserError which `batch`, at which image `size`, the memory was not enough for."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"{batch} at target_size {size} needs more memory than there is ({reason}): lower one"
        ) from None


def shown(value):
    """Return what a file holds as text that is fit for a message: short and printable."""
    text = "".join(letter if letter.isprintable() else "?" for letter in str(value))
    return text if len(text) <= 120 else f"{text[:120]}..."

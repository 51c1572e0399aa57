"""What the scripts' command lines share: `--settings`, `--help`, one-line errors, exit codes."""

import argparse
import errno
import functools
import sys
import traceback

from src import streams
from src.errors import UserError, is_out_of_memory
from src.interrupts import MESSAGE
from src.settings import LARGEST_SEED, load

LARGEST = 10**9  # from where on a positive number is none of ours
WORDS = {int: "whole number", float: "number"}


def whole_number(text):
    """Return a number from 0 on, for argparse; the settings' largest seed is the limit."""
    if not text.isdecimal() or int(text) > LARGEST_SEED:
        raise argparse.ArgumentTypeError(
            f"found {text}, expected a whole number from 0 to {LARGEST_SEED}"
        )
    return int(text)


def positive(kind):
    """Return a function for argparse that reads a positive number of a kind, int or float."""

    def read(text):
        try:
            number = kind(text)
        except ValueError:
            number = 0
        if not 0 < number < LARGEST:
            raise argparse.ArgumentTypeError(
                f"found {text}, expected a {WORDS[kind]} above 0 and below {LARGEST}"
            )
        return number

    return read


RESTART = {
    "--restart": {"action": "store_true", "help": "begin anew, where a training was stopped before"}
}
UNFINISHED = {
    "--unfinished": {"action": "store_true", "help": "evaluate a training that was stopped"}
}
SEED = {
    "--seed": {
        "type": whole_number,
        "metavar": "K",
        "help": "another run of the same recipe: all its seeds are K, its folder is seedK/",
    }
}


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        """Treat a bad command line as any other bad input."""
        raise UserError(f"{message} (--help lists what is allowed)")


def parse(argv, doc, options=None):
    """Return the parsed command line; its `settings` are loaded and checked (src/settings.py).

    argv: list of words, None for those of the process. doc: the script's docstring, shown by
    `--help`. options: {flag: keywords of argparse's add_argument} that the script adds.
    """
    parser = _Parser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--settings",
        metavar="FOLDER",
        type=load,
        default="Settings",
        help="folder with the settings that differ from Settings/ (default: Settings)",
    )
    for flag, keywords in (options or {}).items():
        parser.add_argument(flag, **keywords)
    args = parser.parse_args(argv)
    if getattr(args, "seed", None) is not None:
        args.settings = args.settings.with_seed(args.seed)
    return args


def settings_from(argv, doc):
    """Return the settings of a script that has no options of its own."""
    return parse(argv, doc).settings


def command(main=None, bad_input=2, fault=None):
    """Make `main(argv=None) -> int` end in an exit code, never in a traceback the user caused.

    A UserError becomes one line on stderr and the code `bad_input`; so does a file that cannot be
    read or written, a full disk, or too little memory. Anything else is a fault of the program: its
    traceback, and the code `fault`, by default Python's own 1.
    Use: `@command` or `@command(bad_input=3, fault=4)`.
    """
    if main is None:
        return functools.partial(command, bad_input=bad_input, fault=fault)

    @functools.wraps(main)
    def guarded(argv=None):
        with streams.lasting():
            try:
                return main(argv)
            except KeyboardInterrupt:
                print(MESSAGE, file=sys.stderr)
                return 130
            except Exception as error:
                if isinstance(error, (UserError, OSError)) or is_out_of_memory(error):
                    print("error:", _line(error), file=sys.stderr)
                    return bad_input
                if fault is None:
                    raise
                traceback.print_exc()
                return fault

    return guarded


def _line(error):
    """Return an error's words in one line, without what would steer a terminal."""
    text = " ".join(_words(error).split())
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _words(error):
    if is_out_of_memory(error):
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        return f"not enough memory ({reason}): lower batch_size or target_size in the settings"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{error}: make room there, and run the same command again to continue"
    return str(error)

"""What the scripts' command lines share: `--settings`, `--help`, one-line errors, exit codes."""

import argparse
import functools
import sys

from src.errors import UserError
from src.settings import load


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
    return parser.parse_args(argv)


def settings_from(argv, doc):
    """Return the settings of a script that has no options of its own."""
    return parse(argv, doc).settings


def command(main=None, bad_input=2):
    """Make `main(argv=None) -> int` end in an exit code, never in a traceback the user caused.

    A UserError becomes one line on stderr and the code `bad_input`; so does a file that cannot be
    read or written, or a full disk. Use: `@command` or `@command(bad_input=3)`.
    """
    if main is None:
        return functools.partial(command, bad_input=bad_input)

    @functools.wraps(main)
    def guarded(argv=None):
        try:
            return main(argv)
        except (UserError, OSError) as error:
            print("error:", " ".join(str(error).splitlines()), file=sys.stderr)
            return bad_input
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130

    return guarded

"""Every command in README.md and docs/ is one that its script takes.

Here a script runs until its command line is parsed and its settings are read; tests/test_chain.py
and `make run` run the flows to their ends.
"""

import argparse
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LOOP = re.compile(r"\bfor (\w+) in ([^;]+);\s*do\b(.*?)\bdone\b", re.DOTALL)


def commands(text):
    """Return the lists of words, from the script's name on, of a page's `python x.py ...`."""
    blocks = "\n".join(re.findall(r"^    (.*)$", text, re.M)).replace("\\\n", " ")
    found = re.findall(r"`([^`\n]+)`", text) + LOOP.sub(_unrolled, blocks).splitlines()
    lists = []
    for line in found:
        for part in re.split(r"&&|;|\|", line):
            command = re.search(r"python (\S+\.py\b.*)", part)
            if command:
                lists.append(shlex.split(command.group(1), comments=True))
    return lists


def _unrolled(loop):
    name, values, body = loop.groups()
    return "\n".join(re.sub(rf"\${name}\b", value, body) for value in values.split())


COMMANDS = sorted(
    {(page.name, *words) for page in PAGES for words in commands(page.read_text(encoding="utf-8"))}
)


class Parsed(BaseException):
    """A script has come as far as this: its command line is one that it takes."""


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_script_takes_it(command, monkeypatch):
    script, *words = command[1:]
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, args=None):
        raise Parsed(parse_args(parser, args))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr(sys, "argv", [script, *words])
    monkeypatch.chdir(ROOT)
    with pytest.raises(Parsed):
        runpy.run_path(script, run_name="__main__")


def test_commands_are_found():
    text = (
        "Say `python a.py --x 1` or\n\n    for k in 1 2; do python $k.py --seed $k; done  # twice\n"
        "    A=b python c.py one \\\n        'two words' && python d.py\n"
    )
    assert commands(text) == [
        ["a.py", "--x", "1"],
        ["1.py", "--seed", "1"],
        ["2.py", "--seed", "2"],
        ["c.py", "one", "two words"],
        ["d.py"],
    ]
    assert len(COMMANDS) > 40


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_make_makes_is_in_the_makefile(page):
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = set(re.findall(r"(?:^    |`)make (\w+)", text, re.M))
    assert named <= targets

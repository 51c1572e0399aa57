"""Who imports whom: read from the source of all modules, imports inside functions included."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted((ROOT / "src").rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
# The fast numerics are an annex: the net and the feed are chosen here, and nobody else knows of it.
DOORS = {"src.networks", "src.feeds"}
# Needed to read nets that were saved before the fast layer was a class of its own.
BY_NAME = {"src.lhc": {"src.fast.lhc"}}


def imports(tree):
    """Return the names of the modules that the nodes of a tree import."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def at_start(tree):
    """Return the part of a module that runs when it is imported: all but its functions' bodies."""
    kept = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.Lambda))
        for node in ast.walk(function)
    }
    return ast.Module([node for node in kept if id(node) not in inside], [])


IMPORTS = {name: imports(tree) for name, tree in TREES.items()}


def test_all_modules_are_read():
    assert {"src.backend", "src.feeds", "src.fast.feed", "src.fast.lhc"} <= set(TREES)
    assert "src.fast.feed" in IMPORTS["src.feeds"]


@pytest.mark.parametrize("name", TREES)
def test_imports_are_absolute(name):
    levels = [node.level for node in ast.walk(TREES[name]) if isinstance(node, ast.ImportFrom)]
    assert not any(levels)


@pytest.mark.parametrize("name", [name for name in TREES if not name.startswith("src.fast")])
def test_only_the_nets_and_the_feeds_know_the_fast_numerics(name):
    fast = {other for other in IMPORTS[name] if (other + ".").startswith("src.fast.")}
    assert not fast or name in DOORS
    values = [node.value for node in ast.walk(TREES[name]) if isinstance(node, ast.Constant)]
    texts = {value for value in values if isinstance(value, str)}
    assert {text for text in texts if text.startswith("src.fast")} <= BY_NAME.get(name, set())


def test_there_are_no_circles():
    waiting = {name: {n for n in IMPORTS[name] if n in TREES} - {name} for name in TREES}
    while waiting:
        ready = {name for name, others in waiting.items() if not others & set(waiting)}
        assert ready, f"import each other: {sorted(waiting)}"
        for name in ready:
            del waiting[name]


# src/__init__.py refuses Pythons that have no stack.
@pytest.mark.parametrize("name", sorted(set(TREES) - {"src.backend", "src.__init__"}))
def test_only_the_backend_knows_what_it_runs_on(name):
    """TensorFlow is imported elsewhere only where a file of its own is read; Keras not at all."""
    roots = {other.split(".")[0] for other in imports(at_start(TREES[name]))}
    assert "tensorflow" not in roots
    assert "keras" not in {other.split(".")[0] for other in IMPORTS[name]}
    names = {node.attr for node in ast.walk(TREES[name]) if isinstance(node, ast.Attribute)}
    names |= {node.id for node in ast.walk(TREES[name]) if isinstance(node, ast.Name)}
    names |= {other.split(".")[-1] for other in IMPORTS[name]}
    assert not names & {"GENERATION", "version_info"}


@pytest.mark.parametrize(
    "name",
    [
        "arrival",
        "audit",
        "checkpoints",
        "dataset",
        "downloads",
        "etl",
        "plots",
        "sample",
        "sources",
    ],
)
def test_data_and_downloads_need_no_keras(name):
    """What Download_Data.py, Download_Models.py and ETL.py use starts in a second."""
    reached, waiting = set(), {f"src.{name}"}
    while waiting:
        module = waiting.pop()
        reached.add(module)
        waiting |= {n for n in imports(at_start(TREES[module])) if n in TREES} - reached
    assert "src.backend" not in reached

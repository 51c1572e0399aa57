"""Make the tables of settings in README.md and docs/settings.md from the schema and the defaults.

    python docs/settings_tables.py

What a file decides is its "title" in src/settings_schema.json, where its keys, their types and what
is allowed stand too; the defaults are those of Settings/. The tables go between the marks of both
pages, and tests/test_docs.py checks that they are up to date. Takes a second.
"""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from src import settings  # noqa: E402
from src.files import write_file  # noqa: E402
from src.markdown import between, table  # noqa: E402

BEGIN = "<!-- made by settings_tables.py: begin -->"
END = "<!-- made by settings_tables.py: end -->"
FILES, DEFINITIONS = settings.SCHEMA["properties"], settings.SCHEMA["definitions"]
HEAD = ["key", "type", "allowed", "default"]
LONGEST = 44  # characters of a default that is shown
GIVEN, ABSENT = "must be given", "none"


def resolved(schema):
    """Return a schema, or the definition that it refers to."""
    return DEFINITIONS[schema["$ref"].split("/")[-1]] if "$ref" in schema else schema


def type_of(schema):
    """Return the JSON types of a schema's values in words."""
    if "type" not in schema:
        return "string" if "enum" in schema else type_of(resolved(schema["allOf"][0]))
    types = schema["type"]
    return types if isinstance(types, str) else " or ".join(types)


def allowed(schema):
    keys = ", ".join(schema.get("properties", []))
    return schema.get("description") or f"an object with the keys {keys}"


def shown(values):
    """Return {key: a default as a cell shows it} of {key: value}."""
    texts = {key: json.dumps(value) for key, value in values.items()}
    return {
        key: f"`{text}`" if len(text) <= LONGEST else "see the file" for key, text in texts.items()
    }


def keys_table(schema, defaults):
    """Return the table of an object's keys; defaults: {key: cell}."""
    rows = [HEAD]
    for key, value in schema["properties"].items():
        absent = GIVEN if key in schema.get("required", []) else ABSENT
        value = resolved(value)
        rows.append([f"`{key}`", type_of(value), allowed(value), defaults.get(key, absent)])
    return table(rows, "<<<<")


def files_table():
    """Return the table of the settings files: how many keys, and what each file decides."""
    rows = [["file in `Settings/`", "keys", "what it decides"]]
    for name, schema in FILES.items():
        keys = schema.get("items", schema)["properties"]
        rows.append([f"`{name}`", len(keys), schema["title"]])
    return table(rows, "<><")


def all_tables():
    """Return headings and tables of every key of every file."""
    parts = []
    for name, schema in FILES.items():
        parts.append(f"### {name}")
        if name == settings.KNOWN_RESULTS:  # a table of results, which has no defaults
            parts += ["A list of objects with", keys_table(schema["items"], {})]
            continue
        values = json.loads((settings.DEFAULTS / name).read_text(encoding="utf-8"))
        values.pop("about", None)
        parts.append(keys_table(schema, shown(values)))
        if name == settings.FILES["modular"]:
            parts += recipe_tables(schema, values)
    return parts


def recipe_tables(schema, values):
    """Return headings and tables of what the recipes of Modular_Settings.json have."""
    keys = {}
    for recipe in map(resolved, schema["properties"].values()):
        keys.update(recipe["properties"])
    recipe = {"properties": keys, "required": DEFINITIONS["recipe"]["required"]}
    own = {"zero_values": False, "initial_scalars": values["Controller"]["initial_scalars"]}
    stage = {**shown(settings.STAGE_DEFAULTS), "epochs": "`max_epochs`"}
    return [
        *("#### A recipe", "`zero_values` is LHC's, `initial_scalars` Controller's."),
        keys_table(recipe, shown(own)),
        *("#### A stage", keys_table(DEFINITIONS["stages"]["items"], stage)),
    ]


def pages():
    """Return {path: its text with today's tables}."""
    parts = {ROOT / "README.md": [files_table()], ROOT / "docs" / "settings.md": all_tables()}
    return {
        path: between(path.read_bytes().decode("utf-8"), BEGIN, END, tables)
        for path, tables in parts.items()
    }


def main():
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    for path, text in pages().items():
        write_file(path, text.encode())


if __name__ == "__main__":
    main()

"""The tables in tests/robustness/README.md are those of the results."""

from tests.robustness import table

CONTENT = {
    "about": "What was counted.",
    "versions": {"3.11": {"python": "3.11.7", "numpy": "2.4.6"}},
    "machine": {"cpu": "a CPU", "cores": 2},
    "seed": 7,
    "rows": [
        {"reader": "csv", "peak_MB": 12, "hangs": 0},
        {"reader": "x", "peak_MB": 3, "hangs": 1},
    ],
}


def test_the_tables_are_up_to_date():
    text = table.README.read_text(encoding="utf-8")
    again = table.updated(text, table.results())
    assert again == text, "run python tests/robustness/table.py"


def test_each_file_has_its_table_and_tells_of_its_machine():
    text = table.updated(f"before\n{table.BEGIN}old{table.END}\nafter", {"fuzz": CONTENT})
    assert text.startswith("before\n") and text.endswith("\nafter") and "old" not in text
    assert "| reader | peak MB | hangs |" in text and "| csv    |      12 |     0 |" in text
    assert "### fuzz.py\n\nWhat was counted.\n" in text
    assert "Seed 7; a CPU, 2 cores; Python 3.11.7, NumPy 2.4.6\n" in text

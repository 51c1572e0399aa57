"""Put what benchmarks/results/ holds into the tables of benchmarks/README.md.

    python benchmarks/table.py

Reads nothing but those files. Rows of runs that belong to a version and are missing say so, with
the command that makes them. tests/test_benchmarks.py checks that the tables are up to date.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from src.markdown import between, counted, table, words  # noqa: E402

HERE = Path(__file__).resolve().parent
README, FOLDER = HERE / "README.md", HERE / "results"
BEGIN, END = "<!-- made by table.py: begin -->", "<!-- made by table.py: end -->"
ABSENT = "not measured in this version"
STEP = "KERAS_BACKEND=jax python benchmarks/step_speed.py --repeats 12"
CPU = "python benchmarks/step_speed.py --cpu --steps 1"
LOOP = "KERAS_BACKEND=jax python benchmarks/training_speed.py --epochs 6"
TTA = "python benchmarks/tta_speed.py"
SCALING = "KERAS_BACKEND=jax python benchmarks/scaling.py --devices"
SHORT = "--kinds weak --images 6144 --epochs 4"
VIEWS = "--images 1024 --views 20 --repeats 5"
EXPECTED = {  # name: what it measures, the command without --save
    "generator_cpu": ("generator", "python benchmarks/generator_speed.py --repeats 9"),
    "etl_cpu": ("ETL", "python benchmarks/etl_speed.py --repeats 7"),
    "etl_cpu_python38": ("ETL, Python 3.8", "python benchmarks/etl_speed.py --repeats 7"),
    "tta_cpu": ("TTA at 224", f"{TTA} --images 32 --views 10 --repeats 4"),
    "tta_cpu_quickstart": (
        "TTA at 40",
        f"{TTA} --images 70 --repeats 2 --settings Settings/Quickstart",
    ),
    "tta_gpu_float32": ("TTA on a GPU, float32", f"KERAS_BACKEND=jax {TTA} {VIEWS}"),
    "tta_gpu_bfloat16": (
        "TTA on a GPU, bfloat16",
        f"KERAS_BACKEND=jax {TTA} {VIEWS} --settings Settings/Fast",
    ),
    "step_gpu": ("training step", STEP),
    "step_cpu": ("training step on a CPU", f"{CPU} --repeats 5 --networks ResNet34"),
    "step_cpu_LHC_Net": ("LHC-Net's on a CPU", f"{CPU} --repeats 3 --networks LHC_Net"),
    "training_gpu_ResNet34": ("training loop, ResNet34", LOOP),
    "training_gpu_LHC_Net": ("training loop, LHC-Net", f"{LOOP} --network LHC_Net"),
    "start_gpu": ("first step", "KERAS_BACKEND=jax python benchmarks/start_speed.py"),
    "scaling_gpu_ResNet34": ("two GPUs, ResNet34", f"{SCALING} 1 2 {SHORT} --profile"),
    "scaling_gpu_LHC_Net": (
        "two GPUs, LHC-Net",
        f"{SCALING} 1 2 --network LHC_Net {SHORT} --profile",
    ),
    "scaling_gpu_TTA": ("TTA on two GPUs", f"{SCALING} 1 2 --kinds TTA --rounds 2"),
    "scaling_gpu_strong": ("a fixed batch, and TTA, on two GPUs", f"{SCALING} 1 2"),
    "scaling_gpu_strong128": (
        "a fixed batch of 128, and TTA, on two GPUs",
        f"{SCALING} 1 2 --kinds strong TTA --global-batch 128",
    ),
    "scaling_gpu_calls": (
        "two GPUs, a call for each batch",
        f"{SCALING} 1 2 --kinds weak strong --steps-per-execution 1",
    ),
    "scaling_gpu4_ResNet34": ("four GPUs, ResNet34", f"{SCALING} 1 4 --kinds weak"),
    "scaling_gpu4_LHC_Net": ("four GPUs, LHC-Net", f"{SCALING} 1 4 --network LHC_Net {SHORT}"),
    "scaling_gpu4_strong": (
        "a fixed batch, and TTA, on two and four GPUs",
        f"{SCALING} 1 2 4 --kinds strong TTA --global-batch 256 1024",
    ),
    "scaling_gpu4_groups": (
        "four GPUs, eight batches in a call",
        f"{SCALING} 1 4 --kinds weak strong --global-batch 128 256",
    ),
    "scaling_gpu8_ResNet34": (
        "eight GPUs, ResNet34, and TTA",
        f"{SCALING} 1 2 4 8 --global-batch 256 1024 --profile",
    ),
    "scaling_gpu8_LHC_Net": (
        "eight GPUs, LHC-Net",
        f"{SCALING} 1 2 4 8 --network LHC_Net --kinds weak --profile",
    ),
}
NAMES = {
    "python": "Python",
    "keras": "Keras",
    "tensorflow": "TensorFlow",
    "jax": "JAX",
    "torch": "PyTorch",
    "numpy": "NumPy",
    "scipy": "SciPy",
    "pillow": "Pillow",
}


def main():
    text = README.read_text(encoding="utf-8")
    README.write_text(updated(text, results()), encoding="utf-8")
    print(f"{README} holds the tables of {len(results())} files")
    return 0


def results(folder=FOLDER):
    """Return {name: content} of the files, those of EXPECTED first and in its order."""
    found = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("*.json"))
    }
    order = [name for name in EXPECTED if name in found]
    return {name: found[name] for name in [*order, *(n for n in found if n not in EXPECTED)]}


def updated(text, found):
    """Return the README's text with the tables of {name: content} between the marks."""
    parts = ["### Ratios", ratios(found), "### Rates", rates(found), "### Runs", runs(found)]
    return between(text, BEGIN, END, parts)


def ratios(found):
    rows = [("what", "ratio", "sd", "range", "n", "goal", "measured on", "run")]
    for name in [*EXPECTED, *(name for name in found if name not in EXPECTED)]:
        if name not in found:
            rows.append((EXPECTED[name][0], "", "", "", "", "", ABSENT, name))
            continue
        for label, entry in found[name]["ratios"].items():
            form = decimals(entry["median"])
            low, high = (entry.get(key) for key in ("min", "max"))
            rows.append(
                (
                    label,
                    form(entry["median"]),
                    form(entry["sd"]),
                    "" if low is None else f"{form(low)} to {form(high)}",
                    entry["n"],
                    "" if entry["goal"] is None else f"{entry['goal']:g}",
                    device(found[name]),
                    name,
                )
            )
    return table(rows, "<>>>>><<")


def rates(found):
    rows = [("run", "what", "median", "sd", "range", "n", "unit")]
    for name, content in found.items():
        for label, entry in content["measured"].items():
            form = decimals(entry["median"])
            numbers = form(entry["median"]), form(entry["sd"])
            spread = f"{form(entry['min'])} to {form(entry['max'])}" if entry["n"] > 1 else ""
            rows.append((name, label, *numbers, spread, entry["n"], entry["unit"]))
    return table(rows, "<<>>>><") if found else ABSENT


def runs(found):
    """Return a list of what each file was measured with, then the commands that are missing."""
    lines = []
    for name, content in found.items():
        machine, setting = content["machine"], content["setting"]
        facts = [f"{machine['cpu']}, {machine['cores']} cores"]
        facts[:0] = [counted(machine["gpus"])] if machine["gpus"] else []
        before, after = machine["load"]
        # Of some nobody wrote down how it was before.
        facts.append(
            f"load {after} after" if before is None else f"load {before} before and {after} after"
        )
        facts += [f"{NAMES.get(key, key)} {found}" for key, found in content["versions"].items()]
        facts += [
            f"{key.replace('_', ' ')} {words(value)}"
            for key, value in setting.items()
            if value is not None and key != "backend"
        ]
        lines += [f"* **{name}**, {content['date']}: {'; '.join(facts)}", ""]
        lines += [f"      {content['command']}", ""]
    for name in EXPECTED:
        if name not in found:
            command = f"{EXPECTED[name][1]} --save {name}"
            lines += [f"* **{name}**: {ABSENT}", "", f"      {command}", ""]
    return "\n".join(lines).rstrip()


def device(content):
    machine, backend = content["machine"], content["setting"]["backend"]
    name = counted(machine["gpus"]) or f"{machine['cpu']}, {machine['cores']} cores"
    return f"{name}, {NAMES[backend]} {content['versions'][backend]}"


def decimals(median):
    """Return a function that writes numbers of that size; None is empty."""
    places = 3 if median < 1 else 2 if median < 10 else 1 if median < 100 else 0
    return lambda value: "" if value is None else f"{value:.{places}f}"


if __name__ == "__main__":
    sys.exit(main())

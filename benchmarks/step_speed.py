"""Training steps per second: our nets and torchvision's ResNet-34, side by side.

    KERAS_BACKEND=jax python benchmarks/step_speed.py [--batch 256] [--precision bfloat16]
                                                [--save NAME]
    python benchmarks/step_speed.py --cpu [--networks ResNet34] [--save NAME]

The first on a GPU.

Random images of 224 x 224 on the device, SGD. `bare` is the net's own compiled training step called
in a loop, `fit` the same through Keras' `fit`. PyTorch: channels-last, autocast, `torch.compile`;
left out where torchvision is missing. The share is of the rate of a large matrix product, measured
first. Each figure is the median of the repeats, with their spread. Networks of the same numerics
take turns, so that a GPU that grows hot and slow does so for all of them; run on a machine with
nothing else to do. About 5 minutes, 20 GB on the GPU.

The second on a CPU, float32: `bare` steps with 32 images, on every backend that is installed, in
turn with PyTorch; peak memory beside it. On two cores about 15 minutes and 20 GB.
"""

import argparse
import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import cpu_steps, record  # noqa: E402

SIZE = 224
CLASSES = 7
TOGETHER = 8  # steps per execution of `fit`
MATRIX, VERSIONS = "matrix product", "versions"  # of what the process with PyTorch prints
NUMERICS = ("fast", "reference")
NETWORKS = ("ResNet34", "LHC_Net")
GFLOP = {"ResNet34": 3 * 7.33, "LHC_Net": 3 * 7.33 * 1.23}  # an image, forward and backward


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cpu", action="store_true", help="measure on the CPU")
    parser.add_argument("--batch", type=int, help="images a step (256; with --cpu 32)")
    parser.add_argument("--precision", help="default: bfloat16; with --cpu float32")
    parser.add_argument(
        "--numerics", nargs="+", choices=NUMERICS, default=NUMERICS, help="to compare"
    )
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=NETWORKS, help="to compare"
    )
    parser.add_argument("--size", type=int, default=SIZE, help="--cpu: pixels of an image's side")
    parser.add_argument("--steps", type=int, help="steps of a turn (20; with --cpu 2)")
    parser.add_argument("--repeats", type=int, default=7, help="of each, which take turns")
    record.add_option(parser)
    parser.add_argument("--only-torch", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--contestant", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    usual = (32, "float32", 2) if options.cpu else (256, "bfloat16", 20)
    for name, value in zip(("batch", "precision", "steps"), usual):
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.contestant:
        return cpu_steps.contestant(options, cpu_run)
    if options.cpu:
        return cpu_steps.main(options, argv)
    if options.only_torch:
        return torch_main(options)
    return gpu_main(options, argv)


def gpu_main(options, argv):
    from src import backend

    print(f"{backend.versions()}\nbatch {options.batch}, {options.precision}", flush=True)
    chosen = [backend.NAME, SIZE, options.batch, options.precision]
    notes = record.Record(
        "step_speed", argv, *chosen, steps=options.steps, steps_per_execution=TOGETHER
    )
    notes.add_versions(gpus=backend.versions()["gpus"])
    if importlib.util.find_spec("torchvision"):
        # A process of its own: two frameworks in one would share the GPU's memory.
        words = sys.argv[1:] if argv is None else argv
        command = [sys.executable, __file__, "--only-torch", *words]
        torch = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        for line in torch.stdout.splitlines():
            name, *values = line.split("\t")
            if name == VERSIONS:
                notes.add_versions(**dict(zip(("torch", "torchvision"), values)))
            else:
                keep(notes, name, map(float, values))
        if torch.returncode:
            print(f"PyTorch ended with exit code {torch.returncode}", flush=True)
    backend.set_precision(options.precision)
    random = np.random.RandomState(0)
    x = random.uniform(0, 255, (options.batch, SIZE, SIZE, 3)).astype(np.float32)
    y = np.eye(CLASSES, dtype=np.float32)[random.randint(0, CLASSES, options.batch)]
    for numerics in options.numerics:
        runs = {}
        for name in options.networks:
            model = network(name, numerics)
            runs[f"{name} {numerics} bare"] = bare_steps(model, x, y)
            runs[f"{name} {numerics} fit"] = fit_steps(model, x, y)
        for name, values in measure(runs, options).items():
            keep(notes, name, values)
    for numerics in options.numerics:
        ours, theirs = f"ResNet34 {numerics} bare", "PyTorch compiled"
        lhc_net, measured = f"LHC_Net {numerics} bare", notes.document["measured"]
        if ours in measured and lhc_net in measured:
            label = f"time of LHC-Net's step over its backbone's, {numerics}"
            ratio = notes.ratio(label, ours, lhc_net)
            print(f"LHC-Net's step / its backbone's, {numerics}: {ratio['median']:.2f}")
        if ours in measured and theirs in measured:
            label = f"ResNet34v2's step against PyTorch's ResNet-34, {numerics}"
            ratio = notes.ratio(label, ours, theirs, paired=False)
            print(f"our backbone / PyTorch compiled, {numerics}: {ratio['median']:.2f}")
    notes.save(options.save)
    return 0


def cpu_run(name, contestant, precision, x, labels):
    """Return run(count) of what cpu_steps.py lets train; x: (B, H, W, 3), labels: (B,)."""
    if contestant in cpu_steps.THEIRS:
        import torch

        # (B, H, W, 3) -> (B, 3, H, W), channels last in memory
        x = torch.from_numpy(x).permute(0, 3, 1, 2)
        compiled = contestant == cpu_steps.THEIRS[1]
        return torchvision_steps(x, torch.from_numpy(labels).long(), compiled)
    from src import backend

    backend.set_precision(precision)
    backend.set_seeds(0, 0, 0)  # as the scripts do; Keras 2.4 wants some
    model = network(name, contestant.split()[1], x.shape[1], together=1)
    return bare_steps(model, x, np.eye(CLASSES, dtype=np.float32)[labels])


def network(name, numerics, size=SIZE, together=TOGETHER):
    """Return a network with the settings of the paper, compiled for `together` steps at once."""
    from src import backend, networks, settings

    values = settings.load()
    values.runtime["numerics"] = numerics
    values.training["target_size"] = size
    model = networks.build(name, values)
    backend.compile_model(model, "sgd", 0.01, steps_per_execution=together)
    return model


def bare_steps(model, x, y):
    """Return run(count), which trains on the device's x and y and waits for the end."""
    from src import backend

    if backend.NAME == "jax":
        import jax

        x, y = jax.device_put((x, y))
        model._symbolic_build(data_batch=(x, y))
        keys = ("trainable", "non_trainable", "optimizer", "metrics")
        state = model._get_jax_state(**{f"{key}_variables": True for key in keys})
        state = jax.tree.map(lambda value: value.copy(), state)  # the step takes its memory over
        step = jax.jit(model.train_step, donate_argnums=0)

        def run(count):
            nonlocal state
            for _ in range(count):
                logs, state = step(state, (x, y))
            jax.block_until_ready(logs)

    else:
        parts = x if isinstance(x, list) else [x]
        parts, y = [backend.convert(part) for part in parts], backend.convert(y)
        x = parts if isinstance(x, list) else parts[0]

        def run(count):
            for _ in range(count):
                logs = model.train_on_batch(x, y)
            np.asarray(logs)

    return run


def fit_steps(model, x, y):
    """Return run(count): one epoch of Keras' `fit` over `count` batches on the device."""
    from src import backend

    x, y = backend.convert(x), backend.convert(y)

    def run(count):
        def batches():
            for _ in range(count):  # an endless one would be read in whole executions
                yield x, y

        model.fit(batches(), steps_per_epoch=count, epochs=1, verbose=0)

    return run


def measure(runs, options):
    """Return {name: images/s of each repeat} of {name: run}."""
    for run in runs.values():
        run(8)
    rates = {name: [] for name in runs}
    for _ in range(options.repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run(options.steps)
            rates[name].append(options.batch * options.steps / (time.perf_counter() - start))
    return rates


def keep(notes, name, values):
    """Note and print the rates of all repeats."""
    if name == MATRIX:
        print(record.line(f"{name:26}", notes.measured(name, values, "TFLOP/s")), flush=True)
        return
    entry = notes.measured(name, values)
    line = record.line(f"{name:26}", entry)
    matrix = notes.document["measured"].get(MATRIX)
    if matrix:
        work = GFLOP["LHC_Net" if name.startswith("LHC") else "ResNet34"] / 1e3
        line += f"  {entry['median'] * work / matrix['median']:6.1%} of it"
    print(line, flush=True)


def torchvision_steps(x, y, compiled, dtype=None):
    """Return run(count) of torchvision's ResNet-34 with plain SGD, on the device of x.

    x: (B, 3, H, W), channels last in memory. y: (B,), class numbers. dtype: autocast's, or None.
    """
    import torch
    import torchvision

    model = torchvision.models.resnet34(num_classes=CLASSES)
    model = model.to(x.device, memory_format=torch.channels_last)
    forward = torch.compile(model) if compiled else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def run(count):
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(x.device.type, dtype=dtype, enabled=dtype is not None):
                loss = torch.nn.functional.cross_entropy(forward(x), y)
            loss.backward()
            optimizer.step()
        if x.is_cuda:
            torch.cuda.synchronize()

    return run


def torch_main(options):
    """Print, tab-separated, versions and the rates: matrix, torchvision's ResNet-34 both ways."""
    import torch
    import torchvision

    print(VERSIONS, torch.__version__, torchvision.__version__, sep="\t", flush=True)

    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(options.precision)
    if options.precision != "float32":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    n = 8192
    a, b = (torch.randn(n, n, device="cuda", dtype=dtype or torch.float32) for _ in "ab")

    def product(count):
        for _ in range(count):
            a @ b
        torch.cuda.synchronize()

    product(5)
    rates = []
    for _ in range(options.repeats):
        start = time.perf_counter()
        product(10)
        rates.append(10 * 2 * n**3 / (time.perf_counter() - start) / 1e12)
    print(MATRIX, *rates, sep="\t", flush=True)

    x = torch.rand(options.batch, 3, SIZE, SIZE, device="cuda") * 255
    x = x.to(memory_format=torch.channels_last)
    y = torch.randint(0, CLASSES, (options.batch,), device="cuda")
    runs = {
        name: torchvision_steps(x, y, compiled, dtype)
        for name, compiled in zip(cpu_steps.THEIRS, (False, True))
    }
    for name, values in measure(runs, options).items():
        print(name, *values, sep="\t", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Several devices for one net: each has all weights and a share of every batch.

The frameworks' own engines do the work. On JAX, `keras.distribution` splits a step that is written
for whole batches, so every sum over a batch, BatchNorm's statistics too, is over all of it. On
TensorFlow, a `tf.distribute` strategy runs the step once a device and adds up the gradients; norms
share their statistics by `batch_means`. `use` comes before anything is built; with one device it
does nothing, and no path below is another than without it.

A batch that cannot be shared out evenly, the last one of an epoch, goes whole to every device:
nothing is padded, and each picture counts once.

Several processes, one a machine or a GPU, may run the same script. They draw the same numbers, hold
the same weights, and take their own rows of each batch; one alone prints and writes.
"""

import contextlib
import itertools
import os
import re
import sys

import numpy as np

from src import backend as B
from src.backend import keras
from src.errors import UserError
from src.progress import advance, epoch_bar
from src.settings import PLAIN_PICTURES, PLAIN_STEPS

SETTING = '"devices" of Runtime_Settings.json'
ALL = "all"
# What tells of several processes: to keras.distribution, to JAX where Slurm started them, and to
# TensorFlow.
PROCESSES = ("KERAS_DISTRIBUTION_NUM_PROCESSES", "SLURM_NTASKS")
CLUSTER = "TF_CONFIG"
# How the libraries that processes talk through say that one of them is gone.
LOST = re.compile("gloo|nccl|heartbeat|coordination|collective ops|connection (reset|closed)", re.I)

_engine = None  # or a _Jax or _TensorFlow


def use(runtime):
    """Spread everything that is built from now on over devices, as the runtime settings say.

    Their "devices" is a number, or "all" of the machine, or of all processes that the environment
    tells of. Where there is no GPU, a number makes as many devices of the CPU. Raises UserError for
    more devices than there are.
    """
    global _engine
    wanted = runtime["devices"]
    if wanted == 1:
        return
    if B.NAME == "torch":
        raise UserError(
            f"{SETTING}: found {wanted}; on PyTorch the scripts run on one device: set 1, or take "
            "KERAS_BACKEND=jax or tensorflow"
        )
    if CLUSTER in os.environ and runtime["numerics"] == "fast":
        raise UserError(
            f"{CLUSTER}: TensorFlow 2.4 cannot hand pictures, whole numbers of 8 bits, to other "
            'processes: set "numerics": "reference" in Runtime_Settings.json'
        )
    engine = (_Jax if B.NAME == "jax" else _TensorFlow)(wanted)
    if engine.count > 1:
        _engine = engine
    if not is_main():
        sys.stdout = open(os.devnull, "w")


def count():
    """Return how many devices share each batch."""
    return _engine.count if _engine else 1


def is_main():
    """Return whether this process prints and writes files: one of them does."""
    return not _engine or _engine.process == 0


def together():
    """Wait until all processes have come here."""
    if _engine and _engine.processes > 1:
        _engine.together()


@contextlib.contextmanager
def joined():
    """Leave the program, with one line, when another of its processes has ended.

    Nothing can be computed without it, nor can this one end as usual: it would wait for the other.
    """
    try:
        yield
    except Exception as error:
        if not _engine or _engine.processes == 1 or not LOST.search(str(error)):
            raise
        print(
            f"error: another of the {_engine.processes} processes has ended "
            f"({str(error).splitlines()[0][:120]}); run them all again to go on",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)


def check_stage(stage, where):
    """Raise UserError for a stage of a recipe that the devices in use cannot train."""
    if stage["batch_size"] % count():
        raise UserError(
            f"{where}: found batch_size {stage['batch_size']}, expected a multiple of {count()}: "
            f"that many devices share each batch"
        )
    beyond = [
        key for key, value in {**PLAIN_PICTURES, **PLAIN_STEPS}.items() if stage[key] != value
    ]
    if count() > 1 and B.NAME == "tensorflow" and beyond:
        raise UserError(
            f"{where}: asks for {', '.join(beyond)}, which TensorFlow trains on one device only: "
            'set "devices": 1, or take KERAS_BACKEND=jax'
        )


def batch_means(*parts):
    """Return the means (C,) of tensors (B, ..., C) over the whole batch, wherever its rows are.

    Devices talk once for all of them: each word costs as long as a small kernel, and norms have
    dozens.
    """
    return _engine.batch_means(parts) if _engine else _over_rows(B.mean, parts)


def batch_sums(*parts):
    """Return the sums (C,) of tensors (B, ..., C), for a gradient of what came of `batch_means`.

    On TensorFlow of a device's own rows: the gradient of the means adds up the devices' sums.
    """
    if _engine and B.NAME == "jax":
        return _engine.batch_sums(parts)
    return _over_rows(B.sum, parts)


def _over_rows(reduce, parts):
    return [reduce(part, axis=tuple(range(len(part.shape) - 1))) for part in parts]


def per_device(function, variables, *batched):
    """Return function(*batched), computed by each device of its own share of the batch.

    For what an engine cannot split by itself. variables: all that the function reads. batched:
    tensors (B, ...), as the result is one.
    """
    if _engine and B.NAME == "jax" and batched[0].shape[0] % _engine.count == 0:
        return _engine.per_device(function, variables, batched)
    return function(*batched)


def place(array):
    """Return a batch as a tensor where the predictor wants it: for several passes over one."""
    return _engine.place(array) if _engine else B.convert(array)


def predictor(model):
    """Return run(inputs) -> predictions (B, ...); see `backend.predictor`."""
    return _engine.predictor(model) if _engine else B.predictor(model)


def fit_batches(model, batches, sizes):
    """Train on the batches (x, y) of a generator; return {"loss", "categorical_accuracy"}.

    sizes: how many rows each batch has. As `backend.fit_epoch`, whatever shares them.
    """
    return _in_groups(B.fit_epoch, model, batches, sizes)


def evaluate_batches(model, batches, sizes):
    """Return {"loss", "categorical_accuracy"} over a generator; see `fit_batches`."""
    return _in_groups(B.evaluate, model, batches, sizes)


def fit_arrays(model, x, y, batch_size, title, group=1):
    """Train on arrays for one epoch, in their order; return the means over it, {name: value}.

    x: a list of arrays of as many rows as y has. title: as `Feed.fit` takes it. group: how many
    batches the model's step takes (`backend.train_group`); it divides the number of whole ones.
    """
    with epoch_bar(-(-len(y) // batch_size), title) as bar:

        def fit(x, y, size):
            before = bar.n  # the batches of another part

            def tell(steps):
                advance(bar, min(before + steps * group, bar.total), title)

            callbacks = [B.after_steps(tell)]
            history = model.fit(
                x, y, batch_size=size, shuffle=False, verbose=0, callbacks=callbacks
            ).history
            return {name: values[0] for name, values in history.items()}

        return _in_parts(fit, x, y, batch_size, group)


def evaluate_arrays(model, x, y, batch_size):
    """Return the means {name: value} over arrays; see `fit_arrays`."""

    def evaluate(x, y, size):
        return model.evaluate(x, y, batch_size=size, verbose=0, return_dict=True)

    return _in_parts(evaluate, x, y, batch_size)


def _in_parts(run, x, y, batch_size, group=1):
    """Return the means of run(x, y, batch_size) over whole batches and what is left, as one.

    To `run`, each `group` of whole batches is one.
    """
    if not _engine and group == 1:
        return run(x, y, batch_size)
    whole = len(y) - len(y) % batch_size
    logs = []
    for start, stop, number in ((0, whole, group), (whole, len(y), 1)):
        if start < stop:
            size = min(batch_size, stop - start) * number
            with _sharing(size) as own:
                parts = [own(_by_device(array[start:stop], size, number)) for array in (*x, y)]
                logs.append((stop - start, run(parts[:-1], parts[-1], len(own(y[:size])))))
    return _mean(logs)


def _sharing(size):
    return _engine.sharing(size) if _engine else contextlib.nullcontext(np.asarray)


def _by_device(array, size, group):
    """Return the rows, each `size` of which are a group of batches, sorted by device.

    A device gets one part of a group, and has to find in it its rows of all the group's batches.
    """
    if group == 1:
        return array
    # (rows, ...) -> (groups, batches, devices, own, ...) -> (groups, devices, batches, own, ...)
    parts = array.reshape(-1, group, count(), size // group // count(), *array.shape[1:])
    return parts.swapaxes(1, 2).reshape(array.shape)


def _in_groups(run, model, batches, sizes):
    """Return the means of run(model, batches, steps), those together that are shared alike."""
    if not _engine:
        return run(model, batches, len(sizes))
    logs = []
    for size, group in itertools.groupby(sizes):
        steps = len(list(group))
        with _engine.sharing(size) as own:
            shares = (tuple(map(own, batch)) for batch in itertools.islice(batches, steps))
            logs.append((steps * size, run(model, shares, steps)))
    return _mean(logs)


def _mean(logs):
    """Return the mean of [(rows, {name: value})], by rows."""
    total = sum(rows for rows, _ in logs)
    return {name: sum(rows * found[name] for rows, found in logs) / total for name in logs[0][1]}


def _check_cluster(wanted):
    """Raise UserError unless TensorFlow can join the processes of a cluster."""
    if not B.JOINS_CLUSTERS:
        raise UserError(
            f"{CLUSTER}: Keras 3 trains on TensorFlow in one process only: take KERAS_BACKEND=jax, "
            "or the paper's stack"
        )
    _check_all(wanted)


def _check_all(wanted):
    """Raise UserError unless the devices of several processes are all wanted."""
    if wanted != ALL:
        raise UserError(f'{SETTING}: found {wanted}, expected "all" in several processes')


def _too_many(wanted, found):
    return UserError(f"{SETTING}: found {wanted}, but there are {len(found)}: {', '.join(found)}")


class _Jax:
    """All devices of all processes as one mesh, along which batches are split."""

    def __init__(self, wanted):
        import jax

        if any(int(os.environ.get(name, "1")) > 1 for name in PROCESSES):
            _check_all(wanted)
            _join_processes()
        elif wanted != ALL:
            jax.config.update("jax_num_cpu_devices", wanted)  # GPUs are as many as there are
        names = keras.distribution.list_devices()
        self.count = len(names) if wanted == ALL else wanted
        if self.count > len(names):
            raise _too_many(wanted, names)
        self.processes, self.process = jax.process_count(), jax.process_index()
        if self.count > 1:
            self.distribution = _batches_shared_by(names[: self.count])
            keras.distribution.set_distribution(self.distribution)

    def together(self):
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("together")

    @contextlib.contextmanager
    def sharing(self, size):
        """Yield the function that takes this process' rows of arrays of batches of `size` rows."""
        self.distribution.shared = size % self.count == 0

        def own(array):
            if not self.distribution.shared:
                return array
            # (rows, ...) -> (batches, processes, a process' rows, ...)
            batches = array.reshape(-1, self.processes, size // self.processes, *array.shape[1:])
            return batches[:, self.process].reshape(-1, *array.shape[1:])

        try:
            yield own
        finally:
            self.distribution.shared = True

    def batch_means(self, parts):
        return self._talking_once(B.mean, parts)

    def batch_sums(self, parts):
        return self._talking_once(B.sum, parts)

    def _talking_once(self, reduce, parts):
        """Return the reduced parts: each device its own rows first, then all of them together."""
        rows, *_, channels = parts[0].shape
        if rows is None or rows % self.count:
            return _over_rows(reduce, parts)
        # (B, ..., C) -> (devices, a device's rows and all else, C) -> (devices, C)
        parts = [reduce(B.reshape(part, (self.count, -1, channels)), axis=1) for part in parts]
        # (devices, parts, C) -> (parts, C)
        together = reduce(B.stack(parts, axis=1), axis=0)
        return [together[number] for number in range(len(parts))]

    def per_device(self, function, variables, batched):
        import jax
        from jax.sharding import PartitionSpec

        def on_one(values, *batched):
            with keras.StatelessScope(state_mapping=list(zip(variables, values))):
                return function(*batched)

        rows, whole = PartitionSpec(self.distribution.batch_dim_name), PartitionSpec()
        return jax.shard_map(
            on_one,
            mesh=self.distribution.device_mesh.backend_mesh,
            in_specs=(whole, *(rows for _ in batched)),
            out_specs=rows,
            check_vma=False,
        )([variable.value for variable in variables], *batched)

    def place(self, array):
        import jax

        if isinstance(array, jax.Array):
            return array
        with self.sharing(len(array)) as own:
            layout = self.distribution.get_data_layout(array.shape).backend_layout
            return jax.make_array_from_process_local_data(layout, own(array))

    def predictor(self, model):
        import jax

        run = B.predictor(model)
        if self.processes == 1:
            return lambda inputs: run(jax.tree.map(self.place, inputs))
        whole = keras.distribution.TensorLayout([None, None], self.distribution.device_mesh)
        # What the other processes' devices have computed is out of reach until it is gathered.
        gather = jax.jit(lambda y: y, out_shardings=whole.backend_layout)
        return lambda inputs: gather(run(jax.tree.map(self.place, inputs)))


def _join_processes():
    import jax

    if PROCESSES[0] in os.environ:
        keras.distribution.initialize()
    else:
        jax.distributed.initialize()


def _batches_shared_by(names):
    class SharedBatches(keras.distribution.DataParallel):
        """Data parallelism that can also put a batch on every device as a whole."""

        shared = True

        def get_data_layout(self, shape):
            if self.shared:
                return super().get_data_layout(shape)
            return keras.distribution.TensorLayout([None] * len(shape), self.device_mesh)

    return SharedBatches(devices=names, auto_shard_dataset=False)


class _TensorFlow:
    """A strategy with a copy of the net on each device."""

    processes, process = 1, 0

    def __init__(self, wanted):
        import tensorflow

        config, distribute = tensorflow.config, tensorflow.distribute
        kind = "GPU" if config.list_physical_devices("GPU") else "CPU"
        if CLUSTER in os.environ:
            _check_cluster(wanted)
            self.strategy = distribute.experimental.MultiWorkerMirroredStrategy()
            resolver = self.strategy.cluster_resolver
            self.process = resolver.task_id
            self.processes = resolver.cluster_spec().num_tasks("worker")
        else:
            if kind == "CPU" and wanted != ALL:
                cpu = config.list_physical_devices(kind)[0]
                parts = [config.LogicalDeviceConfiguration()] * wanted
                config.set_logical_device_configuration(cpu, parts)
            names = [f"{kind}:{i}" for i, _ in enumerate(config.list_logical_devices(kind))]
            if wanted != ALL and wanted > len(names):
                raise _too_many(wanted, names)
            self.strategy = distribute.MirroredStrategy(names[: None if wanted == ALL else wanted])
        self.count = self.strategy.num_replicas_in_sync
        if self.count > 1:
            distribute.experimental_set_strategy(self.strategy)

    def together(self):
        import tensorflow

        def meet():
            return self.strategy.run(share)

        def share():
            return self._mean(B.convert(0.0))

        tensorflow.function(meet, autograph=False)()  # TensorFlow warns outside of functions

    @contextlib.contextmanager
    def sharing(self, size):
        """Yield the function that repeats batches of `size` rows which the strategy can't share.

        Each device then computes the whole batch, with the mean that one device would have.
        """
        copies = self.count if size % self.count else 1

        def own(array):
            # (rows, ...) -> (batches, 1, size, ...) -> (batches, copies, size, ...)
            batches = array.reshape(-1, 1, size, *array.shape[1:])
            return np.repeat(batches, copies, axis=1).reshape(-1, *array.shape[1:])

        yield own

    def batch_means(self, parts):
        together = self._mean(B.stack(_over_rows(B.mean, parts)))  # (parts, C)
        return [together[number] for number in range(len(parts))]

    @staticmethod
    def _mean(x):
        """Return the mean of what a running step has as `x` on each device."""
        import tensorflow

        context = tensorflow.distribute.get_replica_context()
        return context.all_reduce(tensorflow.distribute.ReduceOp.MEAN, x) if context else x

    def place(self, array):
        return array

    def predictor(self, model):
        import tensorflow

        if self.processes > 1:
            raise UserError(f"{CLUSTER}: on TensorFlow, evaluations run in one process: unset it")

        @tensorflow.function
        def step(inputs):
            results = self.strategy.run(lambda x: model(x, training=False), args=(inputs,))
            return tensorflow.concat(self.strategy.experimental_local_results(results), 0)

        def run(inputs):
            if len(inputs[0] if isinstance(inputs, list) else inputs) < self.count:
                # By one device: the others would have nothing.
                return model.predict_on_batch(inputs)
            return step(tensorflow.nest.map_structure(self._shares, inputs))

        return run

    def _shares(self, array):
        parts = [B.convert(part) for part in np.array_split(array, self.count)]
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: parts[context.replica_id_in_sync_group]
        )

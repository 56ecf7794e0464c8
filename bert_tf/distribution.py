"""Takes a run's settings, returns the devices and the precision that it uses; next: training.

A process has one device or several, and several processes may train together. What that means for
batches and results is in ``replicas``.
"""

import contextlib
import json
import logging
import os
import pathlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context  # nothing public sets a limit to registration

from bert_tf.config import Devices
from bert_tf.errors import InputError, LostWorkerError, end_at_once, reason
from bert_tf.optimization import LossScale
from bert_tf.replicas import agreed, lost_workers_named

logger = logging.getLogger(__name__)

# What a model computes in, as a Keras dtype policy; its variables are float32 in any case.
DTYPE_POLICIES = {
    "float32": "float32",
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
}

# What /proc/cpuinfo calls a processor's instructions for it (x86, ARM).
_CPU_FLAGS = {
    "bfloat16": {"avx512_bf16", "amx_bf16", "bf16"},
    "float16": {"avx512_fp16", "amx_fp16", "asimdhp"},
}


def loss_scale_of(settings: Devices) -> LossScale | None:
    """What float16 needs."""
    return LossScale() if settings.precision == "float16" else None


@contextlib.contextmanager
def devices_of(settings: Devices) -> Iterator[None]:
    """The devices that the settings ask for, for all that is built and run inside.

    Raises:
        InputError: if there are no such devices.
        LostWorkerError: if another worker does not come up, or is gone before the end.
    """
    strategy = _strategy(settings)
    if _is_emulated(settings):
        logger.warning(
            "--precision=%s: this processor has no instructions for it, so that steps take longer "
            "than in float32",
            settings.precision,
        )
    if strategy is None:
        yield
        return
    logger.info("%s: %d replicas", type(strategy).__name__, strategy.num_replicas_in_sync)
    with strategy.scope(), lost_workers_named():
        yield


def _is_emulated(settings: Devices) -> bool:
    """Whether the precision is one that a CPU computes in detours."""
    if settings.precision == "float32" or settings.on_tpu:
        return False
    cpu = pathlib.Path("/proc/cpuinfo")
    if tf.config.list_physical_devices("GPU") or not cpu.exists():
        return False
    return not _CPU_FLAGS[settings.precision] & set(cpu.read_text().split())


def _strategy(settings: Devices) -> tf.distribute.Strategy | None:
    """None stands for TensorFlow's own choice of one device."""
    kind = settings.strategy if settings.strategy != "auto" else _find_kind(settings)
    if kind == "tpu":
        return _tpu()
    if kind == "multi_worker":
        return _multi_worker(settings)
    if kind == "one_device":
        return None
    return tf.distribute.MirroredStrategy(_local_devices(settings.num_devices))


def _find_kind(settings: Devices) -> str:
    if settings.on_tpu:
        return "tpu"
    if settings.worker_hosts or len(_workers_of(_environment())) > 1:
        return "multi_worker"
    if settings.num_devices is None and len(tf.config.list_physical_devices("GPU")) < 2:
        return "one_device"
    return "mirrored"


def _local_devices(number: int | None) -> list[str]:
    """Names of this machine's GPUs, or else of as many logical CPUs as are wanted.

    Raises:
        InputError: if there are not so many.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return split_cpu(number or 1)
    if number is not None and number > len(gpus):
        raise InputError(
            f"--num_devices={number}: this machine has {len(gpus)} GPUs; give at most that"
        )
    return [f"GPU:{i}" for i in range(number or len(gpus))]


def split_cpu(number: int) -> list[str]:
    """Makes logical devices of the CPU and returns their names.

    Raises:
        InputError: if TensorFlow runs already, with fewer.
    """
    [cpu] = tf.config.list_physical_devices("CPU")
    try:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * number
        )
    except RuntimeError as error:
        if len(tf.config.list_logical_devices("CPU")) < number:
            raise InputError(
                f"--num_devices={number}: TensorFlow runs already in this process, with fewer "
                "logical CPUs; ask for them before anything else"
            ) from error
    return [f"CPU:{i}" for i in range(number)]


def _tpu() -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu="local")
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise InputError(
            f"--strategy=tpu: no TPU is found on this machine ({reason(error)}). It "
            "takes a TPU VM with tensorflow-tpu 2.20 and libtpu 0.0.14"
        ) from error
    return tf.distribute.TPUStrategy(resolver)


# --- several processes ------------------------------------------------------------------------


def _multi_worker(settings: Devices) -> tf.distribute.Strategy:
    """Connects to the other workers, and sees that sums over all of them arrive."""
    cluster, kind, index = _place_in_cluster(settings)
    workers = _workers_of(cluster)
    where = f"{kind} {index} of the workers {', '.join(workers)}"
    if settings.num_devices is not None:
        if tf.config.list_physical_devices("GPU"):
            raise InputError("--num_devices: a worker takes all of its GPUs; leave it out")
        split_cpu(settings.num_devices)
    implementation = tf.distribute.experimental.CommunicationImplementation[
        settings.collectives.upper()
    ]
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec(cluster), task_type=kind, task_id=index, rpc_layer="grpc"
    )
    own = cluster[kind][index]
    missing = _wait_for(set(workers) - {own}, own, settings.worker_timeout)
    if missing:
        raise LostWorkerError(
            f"{where}: {', '.join(missing)} did not come up within "
            f"--worker_timeout={settings.worker_timeout} seconds. Start the same command on each, "
            "with its own --worker_index or TF_CONFIG, and see that they can reach each other"
        )
    too_late = LostWorkerError(
        f"{where}: something answers at the address of each, but they could not begin together "
        f"within --worker_timeout={settings.worker_timeout} seconds. See whether one of them has "
        "ended since, what it said, and whether another program listens at its address"
    )
    _register_within(settings.worker_timeout, cluster)
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy(
            resolver,
            tf.distribute.experimental.CommunicationOptions(implementation=implementation),
        )
        with (
            _ended_after(settings.worker_timeout, too_late),
            strategy.scope(),
            lost_workers_named(),
        ):
            agreed(index)
    except tf.errors.DeadlineExceededError as error:
        raise too_late from error
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise LostWorkerError(f"{where}: cannot work with the others: {reason(error)}") from error
    logger.info("%s: all are there", where)
    return strategy


def _register_within(seconds: int, cluster: dict[str, list[str]]) -> None:
    """Limits how long TensorFlow waits until all workers have told the first one of themselves.

    It would wait an hour, and keep Python from running meanwhile. From then on, a worker that
    sends no heartbeat for 10 seconds ends what the others wait for.
    """
    kinds = [kind for kind in ("chief", "worker") if cluster.get(kind)]
    context.context().configure_coordination_service(
        "standalone",
        f"/job:{kinds[0]}/replica:0/task:0",
        cluster_register_timeout_in_ms=1000 * seconds,
    )
    service = context.context().coordination_service
    service.cluster_register_with_barrier = True
    for kind in kinds:
        service.coordinated_job_list.add(name=kind, num_tasks=len(cluster[kind]))


@contextlib.contextmanager
def _ended_after(seconds: int, error: LostWorkerError) -> Iterator[None]:
    """Ends the process if what is inside, which no exception can reach, takes longer."""
    watchdog = threading.Timer(seconds, end_at_once, [error])
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()


def _place_in_cluster(settings: Devices) -> tuple[dict[str, list[str]], str, int]:
    """Addresses by kind of worker, and which of them this process is: by flags or TF_CONFIG."""
    if settings.worker_hosts:
        if settings.worker_index is None:
            raise InputError(
                "--worker_index is missing: say which of --worker_hosts this process is, from 0"
            )
        cluster, kind = {"worker": settings.worker_hosts.split(",")}, "worker"
        index = settings.worker_index
    else:
        environment = _environment()
        cluster = environment.get("cluster") or {}
        if not _workers_of(environment):
            raise InputError(
                "--strategy=multi_worker: nothing says who the workers are; give --worker_hosts "
                "and --worker_index, or set TF_CONFIG"
            )
        task = environment.get("task") or {}
        kind, index = task.get("type", "worker"), task.get("index", 0)
    if kind not in cluster or not 0 <= index < len(cluster[kind]):
        raise InputError(
            f"this process is to be {kind} {index}, but the cluster has "
            f"{', '.join(f'{len(hosts)} of kind {name}' for name, hosts in cluster.items())}; "
            "see --worker_index, or task in TF_CONFIG"
        )
    return cluster, kind, index


def _environment() -> dict[str, Any]:
    """What TF_CONFIG says; empty where it is not set."""
    text = os.environ.get("TF_CONFIG", "")
    try:
        found = json.loads(text) if text else {}
    except ValueError as error:
        raise InputError(f"TF_CONFIG is not JSON: {error}: {text!r}") from error
    if not _is_tf_config(found):
        raise InputError(
            'TF_CONFIG: expected {"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": '
            f'"worker", "index": 0}}}}, but it is {text!r}'
        )
    return found


def _is_tf_config(found: Any) -> bool:
    """Whether JSON says what TF_CONFIG says, as far as it is used here."""
    if not isinstance(found, dict):
        return False
    cluster, task = found.get("cluster") or {}, found.get("task") or {}
    return (
        isinstance(cluster, dict)
        and all(isinstance(hosts, list) for hosts in cluster.values())
        and all(isinstance(host, str) for hosts in cluster.values() for host in hosts)
        and isinstance(task, dict)
        and isinstance(task.get("type", ""), str)
        and type(task.get("index", 0)) is int
    )


def _workers_of(cluster: dict[str, Any]) -> list[str]:
    """All addresses of a cluster that trains, the chief's first."""
    hosts = cluster.get("cluster", cluster)
    return [host for kind in ("chief", "worker") for host in hosts.get(kind, [])]


def _wait_for(others: set[str], own: str, seconds: int) -> list[str]:
    """Waits until the other workers can be reached, which TensorFlow would do for ever.

    Each listens at its own address meanwhile, where TensorFlow listens later. It is enough to have
    reached a worker once.

    Args:
        others: HOST:PORT of each.
        own: this worker's.
        seconds: the longest wait.

    Returns:
        Those that could not be reached.
    """
    limit = time.monotonic() + seconds
    missing = set(others)
    try:
        listener = socket.create_server(("", _port(own)), backlog=len(others) + 1)
    except OSError as error:
        raise InputError(
            f"{own}: this worker cannot listen there: {error.strerror}. Does another one have the "
            "same --worker_index, or another program the port?"
        ) from error
    with listener:
        while missing and time.monotonic() < limit:
            for address in sorted(missing):
                with contextlib.suppress(OSError):
                    host = address.rpartition(":")[0]
                    socket.create_connection((host, _port(address)), timeout=1).close()
                    missing.discard(address)
            if missing:
                time.sleep(0.2)
    return sorted(missing)


def _port(address: str) -> int:
    port = address.rpartition(":")[2]
    if not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise InputError(
            f"{address!r}: a worker's address must be HOST:PORT, with a port of 1 to 65535"
        )
    return int(port)

"""Takes HLO, returns what it needs on a TPU. Runs in .venv-tpu, which has the TPU's compiler.

``compilation.py MODULE TOPOLOGY RESULT``: MODULE is a file with what ``lowering.lower`` returns,
TOPOLOGY a kind of TPU such as ``v5e:2x2``, RESULT the JSON file to write: the figures, or
``refused`` with a reason.

The names with an underscore are not public, and stand only for the versions in requirements.txt.
"""

import json
import pathlib
import sys
import time
from typing import Any

import numpy as np
from jax._src.interpreters import mlir
from jax._src.lib import xla_client
from jax.errors import JaxRuntimeError
from jax.experimental import topologies
from jaxlib.mlir import ir

MEMORY = {
    "argument_bytes": "argument_size_in_bytes",
    "output_bytes": "output_size_in_bytes",
    "aliased_bytes": "alias_size_in_bytes",
    "temporary_bytes": "temp_size_in_bytes",
    "peak_bytes": "peak_memory_in_bytes",
}


def stablehlo(module: bytes) -> ir.Module:
    """A serialized HloModuleProto as the form that the compiler takes."""
    text = xla_client._xla.mlir.hlo_to_stablehlo(module)
    parsed = ir.Module.parse(text)
    copies = []

    def collect(operation: Any) -> ir.WalkResult:
        if operation.operation.name == "mhlo.copy":
            copies.append(operation.operation)
        return ir.WalkResult.ADVANCE

    parsed.operation.walk(collect)
    # StableHLO has no copy, which means nothing for values that do not change.
    for copy in copies:
        copy.results[0].replace_all_uses_with(copy.operands[0])
        copy.erase()
    return parsed


def compile_for(module: bytes, topology: str) -> dict[str, float]:
    """Compiles for one chip of a kind.

    Args:
        module: a serialized HloModuleProto.
        topology: the kind and number of chips.

    Returns:
        Bytes of the chip's memory as MEMORY names them, ``flops``, ``bytes_accessed``, and the
        ``seconds`` and ``processor_seconds`` that it took.

    Raises:
        JaxRuntimeError: for what the compiler refuses.
    """
    device = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0]
    options = xla_client.CompileOptions()
    options.num_replicas = options.num_partitions = 1
    options.device_assignment = xla_client.DeviceAssignment.create(
        np.array([[device.id]], np.int32)
    )
    context = mlir.make_ir_context()
    context.allow_unregistered_dialects = True
    with context:
        parsed = stablehlo(module)
        start = time.perf_counter(), time.process_time()
        executable = device.client.compile(
            parsed,
            executable_devices=xla_client.DeviceList((device,)),
            compile_options=options,
        )
        end = time.perf_counter(), time.process_time()
    memory, cost = executable.get_compiled_memory_stats(), executable.cost_analysis()
    return {
        **{name: getattr(memory, attribute) for name, attribute in MEMORY.items()},
        "flops": cost["flops"],
        "bytes_accessed": cost["bytes accessed"],
        "seconds": end[0] - start[0],
        "processor_seconds": end[1] - start[1],
    }


def main() -> None:
    """Reads, compiles, writes."""
    module, topology, result = sys.argv[1:]
    found: dict[str, Any]
    try:
        found = compile_for(pathlib.Path(module).read_bytes(), topology)
    except (JaxRuntimeError, ValueError, NotImplementedError) as error:
        found = {"refused": str(error)}
    pathlib.Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main()

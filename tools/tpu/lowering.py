"""Takes a training step, returns its HLO, if a TPU can run such; next: compilation.

TensorFlow lowers the step for a CPU, since it cannot for a TPU that is not there. What the TPU's
compiler would let pass although it should not be in a step, this module refuses.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf
from refusal import RefusedError
from tensorflow.compiler.xla import xla_data_pb2
from tensorflow.compiler.xla.service import hlo_pb2

from bert_tf.errors import listed
from bert_tf.training import TrainStep

_FLOAT64 = (xla_data_pb2.F64, xla_data_pb2.C128)


def lower(step: Callable[[dict[str, Any]], Any], batch: Mapping[str, tf.TensorSpec]) -> bytes:
    """Lowers a step; its variables are arguments of the module, and their new values results.

    Args:
        step: a TrainStep.
        batch: what it takes. (Tensors would become constants of the module.)

    Returns:
        A serialized HloModuleProto.

    Raises:
        RefusedError: if a shape is not known, XLA lacks an operation, or ``check`` refuses it.
    """
    unknown = [
        f"{name} {spec.shape}" for name, spec in batch.items() if not spec.shape.is_fully_defined()
    ]
    if unknown:
        raise RefusedError(
            f"a TPU needs shapes that are known, but these of the batch are not: {listed(unknown)}"
        )
    function = tf.function(lambda **batch: step(batch), jit_compile=True, autograph=False)
    lowered = function.experimental_get_compiler_ir(**batch)
    try:
        module = lowered(stage="hlo_serialized", platform_name="CPU")
    except ValueError as error:
        # The reason, then a stack whose last file is where the operation is made.
        lines = str(error).splitlines()
        places = [line.strip() for line in lines if line.strip().startswith("File ")]
        reason = "\n".join([lines[0], *places[-1:]])
        raise RefusedError(f"XLA cannot take the step: {reason}") from error
    check(module)
    return module


def free(step: TrainStep) -> None:
    """Gives back the memory of a step that was lowered, which is then of no use.

    TensorFlow keeps what it has traced, and with it the variables, for as long as it runs.
    """
    for variable in [*step.model.variables, *step.optimizer.variables]:
        # The operation, unlike the variable's own method, takes a value of another shape.
        tf.raw_ops.AssignVariableOp(
            resource=variable.value.handle, value=tf.zeros([0], variable.value.dtype)
        )


def check(module: bytes) -> None:
    """Looks at the dtypes and shapes of a module.

    A TPU has no float64: the compiler emulates it, slowly. A shape that depends on values is
    compiled as the largest that it can have, which not every operation can do.

    Args:
        module: a serialized HloModuleProto.

    Raises:
        RefusedError: for a float64, or a shape that is known only when the step runs; names the
            operations they come from.
    """
    instructions = [
        instruction
        for computation in hlo_pb2.HloModuleProto.FromString(module).computations
        for instruction in computation.instructions
    ]
    for found, is_found in (
        ("float64, which a TPU has not", lambda shape: shape.element_type in _FLOAT64),
        (
            "a shape that depends on values, but a TPU needs shapes that are known",
            lambda shape: any(shape.is_dynamic_dimension),
        ),
    ):
        names = dict.fromkeys(  # each once
            f"{instruction.metadata.op_type} {instruction.metadata.op_name}".strip()
            or instruction.name
            for instruction in instructions
            if any(map(is_found, _arrays(instruction.shape)))
        )
        if names:
            raise RefusedError(f"the step has {found}; it is in {listed(names)}")


def _arrays(shape: xla_data_pb2.ShapeProto) -> Iterator[xla_data_pb2.ShapeProto]:
    """A shape, or those that a tuple is made of."""
    if shape.element_type != xla_data_pb2.TUPLE:
        yield shape
    for part in shape.tuple_shapes:
        yield from _arrays(part)

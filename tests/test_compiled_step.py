"""XLA compiles a step for each shape of a batch, and before the first step."""

import json

from forked import run_forked

# XLA writes a file for each program that it compiles; its flags are read once in a process.
SCRIPT = """
import json, pathlib, sys
import numpy as np
import tensorflow as tf
from bert_tf.compiled_step import CompiledStep

def num_programs():
    return len(list(pathlib.Path(sys.argv[1]).glob("*.before_optimizations.txt")))

def batches():
    for length in (8, 16, 8, 24, 16, 8):
        yield {"input_ids": np.full((2, length), length, np.int32)}

spec = {"input_ids": tf.TensorSpec([2, None], tf.int32)}
dataset = tf.data.Dataset.from_generator(batches, output_signature=spec)
total = tf.Variable(5)
step = CompiledStep(lambda batch: total.assign_add(tf.reduce_sum(batch["input_ids"])))

@tf.function(autograph=False)
def loop(iterator):
    def body(done):
        tf.distribute.get_strategy().run(step, args=(next(iterator),))
        return done + 1
    tf.while_loop(lambda done: done < 6, body, [tf.constant(0)])

assert num_programs() == 0
found = []
for _ in step.compile_ahead(dataset, [total], None):
    found.append((num_programs(), int(total)))
loop(iter(dataset))
found.append((num_programs(), int(total)))
print(json.dumps(found))
"""


def test_every_shape_is_compiled_once_and_ahead_and_nothing_is_changed_by_it(tmp_path):
    run = run_forked(SCRIPT, tmp_path, XLA_FLAGS=f"--xla_dump_to={tmp_path}")
    assert run.returncode == 0, run.stderr
    sum_of_steps = sum(2 * length * length for length in (8, 16, 8, 24, 16, 8))
    expected = [[1, 5], [2, 5], [3, 5], [3, 5 + sum_of_steps]]
    assert json.loads(run.stdout.splitlines()[-1]) == expected

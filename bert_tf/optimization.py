"""Takes gradients, returns updated weights: the original's Adam and its schedule; next: checkpoint.

Sources: optimization.py of google-research/bert; for LAMB, You et al. 2020, arXiv 1904.00962.
"""

import math
import re
from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from bert_tf.errors import InputError
from bert_tf.modeling import package

CLIP_NORM = 1.0
# A variable whose path matches one of these is not decayed; output_bias of the heads does match.
EXCLUDE_FROM_DECAY = ("LayerNorm", "layer_norm", "bias")


@package
class LinearWarmupAndDecay(keras.optimizers.schedules.LearningRateSchedule):
    """The original's learning rate.

    ``init_lr * step / num_warmup_steps`` while ``step < num_warmup_steps``, else
    ``init_lr * (1 - step / num_train_steps)``, 0 from ``num_train_steps`` on. The decay counts
    from step 0: it is not delayed by the warm-up, and the first step's rate is 0 under warm-up.

    Args:
        init_lr: the rate that the decay starts from.
        num_train_steps: where the decay ends.
        num_warmup_steps: length of the warm-up; 0 for none.
    """

    def __init__(self, init_lr: float, num_train_steps: int, num_warmup_steps: int = 0) -> None:
        super().__init__()
        if num_train_steps < 1:
            raise InputError(f"num_train_steps must be at least 1, but is {num_train_steps}")
        if num_warmup_steps < 0:
            raise InputError(f"num_warmup_steps must not be negative, but is {num_warmup_steps}")
        self.init_lr = init_lr
        self.num_train_steps = num_train_steps
        self.num_warmup_steps = num_warmup_steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Integer [] -> float32 []: the rate of the update with that number, counted from 0."""
        step = tf.cast(step, tf.float32)
        done = tf.minimum(step / self.num_train_steps, 1.0)
        decayed = self.init_lr * (1.0 - done)
        if not self.num_warmup_steps:
            return decayed
        warming = self.init_lr * (step / self.num_warmup_steps)
        return tf.where(step < self.num_warmup_steps, warming, decayed)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "init_lr": self.init_lr,
            "num_train_steps": self.num_train_steps,
            "num_warmup_steps": self.num_warmup_steps,
        }


@package
class AdamWeightDecay(keras.optimizers.Optimizer):
    """Adam with decoupled weight decay and, as in the original, no bias correction.

    ``m = b1 m + (1 - b1) g``, ``v = b2 v + (1 - b2) g^2``,
    ``w -= lr (m / (sqrt(v) + epsilon) + weight_decay_rate w)``. The gradient is taken as given:
    clipping belongs to the training step.

    Args:
        learning_rate: float or schedule.
        weight_decay_rate: decay of the variables that ``exclude_from_weight_decay`` does not match.
        beta_1: b1.
        beta_2: b2.
        epsilon: added to the root, outside of it.
        exclude_from_weight_decay: regular expressions searched in ``variable.path``.
        bias_correction: whether m and v are divided by ``1 - b^t`` (Kingma and Ba 2015). Off in the
            original; on, it is the more stable choice for small data sets.
    """

    def __init__(
        self,
        learning_rate: Any,
        weight_decay_rate: float = 0.01,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-6,
        exclude_from_weight_decay: Iterable[str] = EXCLUDE_FROM_DECAY,
        bias_correction: bool = False,
        name: str = "AdamWeightDecay",
    ) -> None:
        super().__init__(learning_rate=learning_rate, name=name)
        self.weight_decay_rate = weight_decay_rate
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.exclude_from_weight_decay = tuple(exclude_from_weight_decay)
        self.bias_correction = bias_correction

    def build(self, variables: list[keras.Variable]) -> None:
        """Creates the slots ``m`` and ``v``, zeros of each variable's shape."""
        if self.built:
            return
        super().build(variables)
        self.adam_m = self.add_optimizer_variables(variables, "adam_m")
        self.adam_v = self.add_optimizer_variables(variables, "adam_v")
        self._decayed = [self.is_decayed(variable) for variable in variables]

    def is_decayed(self, variable: keras.Variable) -> bool:
        """Whether weight decay applies to a variable."""
        name = getattr(variable, "path", variable.name)  # a tf.Variable has a name only
        return not any(re.search(pattern, name) for pattern in self.exclude_from_weight_decay)

    def apply_gradients(self, grads_and_vars: Iterable[tuple[Any, keras.Variable]]) -> tf.Tensor:
        """Updates the variables; those whose gradient is None are left as they are.

        Args:
            grads_and_vars: pairs of a gradient (dense or IndexedSlices) and its variable. Under a
                tf.distribute strategy, gradients of one replica, which are summed over replicas.

        Returns:
            The number of updates so far.
        """
        return super().apply_gradients(self._with_gradients(grads_and_vars))

    def apply_reduced_gradients(
        self,
        grads_and_vars: Iterable[tuple[Any, keras.Variable]],
        only_if: tf.Tensor | None = None,
    ) -> None:
        """As ``apply_gradients``, in replica context, for gradients that are reduced already.

        Clipping comes after the all-reduce, so the training step reduces; doing it once more here,
        as Keras does, would count every gradient once per replica.

        Args:
            grads_and_vars: as for ``apply_gradients``.
            only_if: bool []; where it is false, equally on all replicas, variables and slots stay
                as they are. The step counts in any case.
        """
        pairs = self._with_gradients(grads_and_vars)
        learning_rate = self.schedule(self.iterations)

        def update_local(local: tf.Variable, reduced: tf.Tensor, *condition: tf.Tensor) -> None:
            if not condition:
                self.update_step(reduced, local, learning_rate)
                return

            def update() -> tf.Tensor:
                self.update_step(reduced, local, learning_rate)
                return tf.constant(True)

            tf.cond(condition[0], update, lambda: tf.constant(False))

        def update(strategy: tf.distribute.Strategy, gradients: Any, *condition: Any) -> None:
            for gradient, (_, variable) in zip(gradients, pairs, strict=True):
                strategy.extended.update(
                    variable.value, update_local, args=(gradient, *condition), group=False
                )

        condition = () if only_if is None else (only_if,)
        context = tf.distribute.get_replica_context()
        gradients = [gradient for gradient, _ in pairs]
        context.merge_call(update, args=(gradients, *condition))
        with tf.control_dependencies(gradients):  # a step that runs out of memory does not count
            self.iterations.assign_add(1)

    def schedule(self, step: tf.Tensor) -> tf.Tensor:
        """The rate of the update with a number, integer [] -> float32 []."""
        rate = self._learning_rate
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            return rate(step)
        return tf.convert_to_tensor(rate)

    def _with_gradients(
        self, grads_and_vars: Iterable[tuple[Any, keras.Variable]]
    ) -> list[tuple[Any, keras.Variable]]:
        pairs = list(grads_and_vars)
        self.build([variable for _, variable in pairs])
        pairs = [pair for pair in pairs if pair[0] is not None]
        if not pairs:
            raise InputError(
                "apply_gradients: every gradient is None; the loss depends on no variable"
            )
        return pairs

    def update_step(
        self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor
    ) -> None:
        """Updates one variable and its slots in place."""
        index = self._get_variable_index(variable)
        learning_rate = tf.cast(learning_rate, variable.dtype)
        beta_1_power = beta_2_power = tf.zeros([], variable.dtype)
        if self.bias_correction:
            power = tf.cast(self.iterations.value + 1, variable.dtype)
            beta_1_power, beta_2_power = self.beta_1**power, self.beta_2**power
        if self._decayed[index]:
            # w (1 - lr decay) before the update equals decay added to it: both use the old w.
            variable.assign(variable * (1.0 - learning_rate * self.weight_decay_rate))
        # One fused pass. With both powers 0 its bias correction is a division by 1.
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self.adam_m[index].value.handle,
            v=self.adam_v[index].value.handle,
            beta1_power=beta_1_power,
            beta2_power=beta_2_power,
            lr=learning_rate,
            beta1=tf.cast(self.beta_1, variable.dtype),
            beta2=tf.cast(self.beta_2, variable.dtype),
            # The op adds it to the root of the uncorrected v.
            epsilon=self.epsilon * tf.sqrt(1.0 - beta_2_power),
            grad=tf.convert_to_tensor(gradient),
        )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "name": self.name,
            "learning_rate": self._serialized_learning_rate(),
            "weight_decay_rate": self.weight_decay_rate,
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "exclude_from_weight_decay": self.exclude_from_weight_decay,
            "bias_correction": self.bias_correction,
        }

    def _serialized_learning_rate(self) -> Any:
        return super().get_config()["learning_rate"]


@package
class Lamb(AdamWeightDecay):
    """LAMB: Adam with each variable's update scaled to the size of the variable.

    Algorithm 2 of the paper, with its identity as phi: ``r = m / (sqrt(v) + epsilon)`` with m and v
    bias-corrected, ``u = r + weight_decay_rate w``, ``w -= lr |w| / |u| u``. The ratio is 1 where
    one of the norms is 0. Variables without weight decay have no ratio either, as in the authors'
    code. For batches of thousands of examples.

    Args:
        learning_rate: see AdamWeightDecay.
        weight_decay_rate: see AdamWeightDecay.
        beta_1: see AdamWeightDecay.
        beta_2: see AdamWeightDecay.
        epsilon: see AdamWeightDecay.
        exclude_from_weight_decay: see AdamWeightDecay; what it matches is not scaled either.
    """

    def __init__(
        self,
        learning_rate: Any,
        weight_decay_rate: float = 0.01,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-6,
        exclude_from_weight_decay: Iterable[str] = EXCLUDE_FROM_DECAY,
        name: str = "Lamb",
    ) -> None:
        super().__init__(
            learning_rate,
            weight_decay_rate,
            beta_1,
            beta_2,
            epsilon,
            exclude_from_weight_decay,
            bias_correction=True,
            name=name,
        )

    def update_step(
        self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor
    ) -> None:
        """Updates one variable and its slots in place."""
        index = self._get_variable_index(variable)
        gradient = tf.convert_to_tensor(gradient)
        slot_m, slot_v = self.adam_m[index].value, self.adam_v[index].value
        m = self.beta_1 * slot_m + (1.0 - self.beta_1) * gradient
        v = self.beta_2 * slot_v + (1.0 - self.beta_2) * tf.square(gradient)
        slot_m.assign(m)
        slot_v.assign(v)
        t = tf.cast(self.iterations.value + 1, m.dtype)
        m_hat, v_hat = m / _complement(self.beta_1, t), v / _complement(self.beta_2, t)
        update = m_hat / (tf.sqrt(v_hat) + self.epsilon)
        learning_rate = tf.cast(learning_rate, variable.dtype)
        if self._decayed[index]:
            update += self.weight_decay_rate * variable
            norm, update_norm = tf.norm(variable), tf.norm(update)
            both = (norm > 0.0) & (update_norm > 0.0)
            learning_rate *= tf.where(both, norm / update_norm, 1.0)
        variable.assign_sub(learning_rate * update)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        config = super().get_config()
        del config["bias_correction"]
        return config


def _complement(beta: float, t: tf.Tensor) -> tf.Tensor:
    """``1 - beta^t``, of the dtype of t.

    The first steps' are differences of nearly equal numbers, of which float32 leaves few digits; as
    ``-expm1(t log(beta))`` there is no difference, and no need of float64, which a TPU has not.
    """
    return -tf.math.expm1(t * (math.log(beta) if beta else -math.inf))


def create_optimizer(
    init_lr: float,
    num_train_steps: int,
    num_warmup_steps: int,
    *,
    weight_decay_rate: float = 0.01,
    bias_correction: bool = False,
    optimizer: str = "adamw",
) -> AdamWeightDecay:
    """The original's optimizer, or LAMB, with the original's schedule.

    Args:
        init_lr: see LinearWarmupAndDecay.
        num_train_steps: see LinearWarmupAndDecay.
        num_warmup_steps: see LinearWarmupAndDecay.
        weight_decay_rate: see AdamWeightDecay.
        bias_correction: see AdamWeightDecay; LAMB always has it.
        optimizer: ``adamw`` for AdamWeightDecay, ``lamb`` for Lamb.

    Raises:
        InputError: for another name, or lengths that are none.
    """
    schedule = LinearWarmupAndDecay(init_lr, num_train_steps, num_warmup_steps)
    if optimizer == "adamw":
        return AdamWeightDecay(schedule, weight_decay_rate, bias_correction=bias_correction)
    if optimizer == "lamb":
        return Lamb(schedule, weight_decay_rate)
    raise InputError(f"--optimizer must be one of adamw, lamb, but is {optimizer!r}")


class LossScale:
    """What a loss is multiplied by, so that float16 can hold its gradients.

    Micikevicius et al. 2018, arXiv 1710.03740, section 3.2: a step whose gradients are not finite
    is left out and the scale halved; after ``growth_interval`` steps without one it is doubled.

    Args:
        initial: the first scale.
        growth_interval: as above.

    Attributes:
        scale: float32 [], at least 1.
        skipped: int64 [], steps left out so far.
        skipped_in_a_row: int64 [], those up to now without a step between them.
    """

    def __init__(self, initial: float = 2.0**15, growth_interval: int = 2000) -> None:
        def variable(value: Any, dtype: tf.DType) -> tf.Variable:
            return tf.Variable(
                value,
                trainable=False,
                dtype=dtype,
                # Updated in replica context, with the same value everywhere.
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )

        self.growth_interval = growth_interval
        self.scale = variable(initial, tf.float32)
        self.skipped = variable(0, tf.int64)
        self.skipped_in_a_row = variable(0, tf.int64)
        self._finite_in_a_row = variable(0, tf.int64)

    @property
    def variables(self) -> list[tf.Variable]:
        """What a resumed run needs."""
        return [self.scale, self.skipped, self.skipped_in_a_row, self._finite_in_a_row]

    def update(self, is_finite: tf.Tensor) -> None:
        """Takes note of a step, in replica context.

        Args:
            is_finite: bool [], whether its gradients were, as they are after the sum over the
                replicas.
        """
        finite = tf.cast(is_finite, tf.int64)
        in_a_row = (self._finite_in_a_row + 1) * finite
        grows = in_a_row >= self.growth_interval
        # What is below float16's range with this scale is nothing beside other gradients.
        larger = tf.where(grows, tf.minimum(self.scale * 2.0, 2.0**24), self.scale)
        smaller = tf.maximum(self.scale / 2.0, 1.0)
        self.scale.assign(tf.where(is_finite, larger, smaller))
        self._finite_in_a_row.assign(tf.where(grows, tf.zeros_like(in_a_row), in_a_row))
        self.skipped.assign_add(1 - finite)
        self.skipped_in_a_row.assign((self.skipped_in_a_row + 1) * (1 - finite))


def clip_by_global_norm(gradients: list[Any]) -> tuple[list[Any], tf.Tensor]:
    """Scales gradients so that their global norm is at most 1.

    Repeated rows of sparse gradients are summed first: the norm is that of the dense gradient, as
    on TPU in the original (on CPU and GPU it took the norm over rows not yet summed).

    Args:
        gradients: dense tensors, IndexedSlices or None.

    Returns:
        The clipped gradients, dense, and the norm before clipping, float32 [].
    """
    summed = [_deduplicated(g) if isinstance(g, tf.IndexedSlices) else g for g in gradients]
    norm = tf.linalg.global_norm(summed)
    clipped, _ = tf.clip_by_global_norm(summed, CLIP_NORM, use_norm=norm)
    return [None if g is None else tf.convert_to_tensor(g) for g in clipped], norm


def _deduplicated(gradient: tf.IndexedSlices) -> tf.IndexedSlices:
    """The same with the sum of equal rows in the first of them, and zeros in the others.

    What a batch reads of the words' table is far less than the table; the shapes stay, for XLA.

    Args:
        gradient: values float [n, …] and indices int [n].
    """
    indices, size = gradient.indices, tf.size(gradient.indices)
    firsts = tf.math.unsorted_segment_min(tf.range(size), indices, gradient.dense_shape[0])
    values = tf.math.unsorted_segment_sum(gradient.values, tf.gather(firsts, indices), size)
    return tf.IndexedSlices(values, indices, gradient.dense_shape)

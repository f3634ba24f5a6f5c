"""The one training loop: minibatches, a loss, an optax optimiser, checkpoints."""

import json
import math
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PRNGKeyArray, PyTree

from nsolve._progress import progress_bar

from .checkpoint import Checkpoints, alone_in, finite

Model = TypeVar("Model", bound=PyTree)
Batch = TypeVar("Batch")
ADAM = optax.adam(1e-3)


def fit(
    model: Model,
    loss: Callable[[Model, Batch, PRNGKeyArray], Array],
    batches: Callable[[PRNGKeyArray], Batch],
    num_steps: int,
    *,
    optimiser: optax.GradientTransformation = ADAM,
    checkpoint: str | os.PathLike | None = None,
    every: int = 500,
    progress: bool = True,
    key: PRNGKeyArray,
) -> Model:
    """Train `model` for `num_steps` steps and return it.

    * `loss(model, batch, key)`: a real number, differentiated in all floating-point arrays of the model and
      compiled once; the key is for losses that draw.
    * `batches(key)`: the next minibatch.  It is called outside of compiled code, so it may do anything; equal
      keys must give equal batches, or a resumed run is not the same run.
    * `optimiser`: Adam with learning rate 1e-3 by default.
    * `checkpoint`: a folder.  The same call with the same folder goes on from the last checkpoint there, made
      each `every` steps, and ends with the numbers of a run that was never stopped, to the last bit.  A
      larger `num_steps` extends a finished run.  `log.jsonl` in it gets a line for each checkpoint: the
      `step`, and the mean `loss` since the line before.
    * `progress`: show a bar on stderr.

    Step `i` draws from `fold_in(key, i)` alone.  Memory: model, gradient and what the optimiser keeps.

    A damaged checkpoint is put aside, with a warning, and the one before it serves.

    Raises ValueError for a folder in which another training is at work, that has damaged checkpoints only, or
    whose checkpoint is of another model, optimiser or key, or is already past `num_steps`; FloatingPointError
    where loss or model stop being finite, of which no checkpoint is made.
    """
    for name, value in (("num_steps", num_steps), ("every", every)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"`{name}` must be an int, not {value!r}.")
        if value < 1:
            raise ValueError(f"`{name}` must be positive, not {value}.")
    key = key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)
    state = optimiser.init(eqx.filter(model, eqx.is_inexact_array))
    step = _step(loss, optimiser)
    with _Records(checkpoint, key) as records, progress_bar(progress) as bar:
        done, (model, state) = records.resume((model, state))
        if done > num_steps:
            raise ValueError(f"{checkpoint} holds {done} steps, more than `num_steps` = {num_steps}.")
        if done and progress:
            bar.console.print(f"resuming: {done} of {num_steps} steps are in {checkpoint}", soft_wrap=True)
        task = bar.add_task("training", total=num_steps, completed=done)
        losses = []
        for i in range(done, num_steps):
            batch_key, loss_key = _keys(key, i)
            model, state, value = step(model, state, batches(batch_key), loss_key)
            losses.append(value)
            bar.advance(task)
            if (i + 1) % every == 0 or i + 1 == num_steps:
                mean = float(np.mean(jax.device_get(losses)))
                if not (math.isfinite(mean) and finite(model)):
                    raise FloatingPointError(
                        f"training diverged in the steps {i + 2 - len(losses)} to {i + 1} (mean loss "
                        f"{mean:g}); lower the learning rate, or look for what is not finite in the data"
                    )
                bar.update(task, description=f"loss {mean:.5g}")
                records.add(i + 1, mean, (model, state))
                losses = []
    return model


@jax.jit
def _keys(key: PRNGKeyArray, i: int) -> tuple[PRNGKeyArray, PRNGKeyArray]:
    """The keys of step `i`, for its minibatch and its loss."""
    first, second = jax.random.split(jax.random.fold_in(key, i))
    return first, second


def _step(loss: Callable, optimiser: optax.GradientTransformation) -> Callable:
    """One step: (model, state, batch, key) to (model, state, loss)."""

    @eqx.filter_jit
    def step(model, state, batch, key):
        value, gradient = eqx.filter_value_and_grad(loss)(model, batch, key)
        with jax.numpy_dtype_promotion("standard"):  # optax relies on it
            updates, state = optimiser.update(gradient, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state, value

    return step


class _Records:
    """Checkpoints and log of a run; without a folder, nothing."""

    def __init__(self, folder: str | os.PathLike | None, key: PRNGKeyArray):
        self._folder, self._key, self._open = folder, jax.random.key_data(key), ExitStack()
        self._checkpoints = self._log = None
        if folder is not None:
            with ExitStack() as stack:
                stack.enter_context(alone_in(folder))
                self._checkpoints = stack.enter_context(Checkpoints(Path(folder) / "checkpoints"))
                self._log = Path(folder) / "log.jsonl"
                self._open = stack.pop_all()

    def __enter__(self) -> "_Records":
        return self

    def __exit__(self, *_: Any) -> None:
        self._open.close()

    def resume(self, tree: Any) -> tuple[int, Any]:
        """Steps done, and `tree` as it was after them."""
        done = None if self._checkpoints is None else self._checkpoints.latest
        if self._checkpoints is None or self._log is None:
            return 0, tree
        if done is not None:
            done, (key, tree) = self._checkpoints.restore((self._key, tree))
            if not jnp.array_equal(key, self._key):
                raise ValueError(f"the run in {self._folder} began with another key; choose another folder")
        # Lines of steps that are to be taken again, and what a kill left of a line, go.
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        kept = [line for line in lines if _step_of(line) <= (done or 0)]
        self._log.write_text("".join(line + "\n" for line in kept))
        return done or 0, tree

    def add(self, step: int, loss: float, tree: Any) -> None:
        if self._checkpoints is not None and self._log is not None:
            with self._log.open("a") as file:
                file.write(json.dumps({"step": step, "loss": loss}) + "\n")
            self._checkpoints.save(step, (self._key, tree))


def _step_of(line: str) -> float:
    """The step of a line of the log, infinite for a line that is not whole."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")

"""What every verb of this package returns: `value`, `result` and `stats`, printed as a short table.

`result` is a member of `lineax.RESULTS`, whichever the verb, so that one comparison serves all.  lineax's
texts speak of its own solvers; the words in which a failure is raised are each verb's own.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from ._reasons import CODES, REASONS

#: The members of `lx.RESULTS` that this package uses; where numbers are kept or traced, a member's is its
#: place here.
RESULTS = (
    "successful", "max_steps_reached", "singular", "breakdown", "stagnation", "conlim", "nonfinite_input",
)  # fmt: skip
_NAMES = {int(jax.tree.leaves(getattr(lx.RESULTS, name))[0]): name for name in RESULTS}


@jax.tree_util.register_pytree_with_keys_class
class Stats(dict):
    """The statistics of a solve: a dictionary of arrays that prints as a table."""

    def tree_flatten_with_keys(self):
        return [(jax.tree_util.DictKey(key), self[key]) for key in self], tuple(self)

    @classmethod
    def tree_unflatten(cls, keys, values):
        return cls(zip(keys, values, strict=True))

    def __repr__(self) -> str:
        return "\n".join(_table(self))

    def __pdoc__(self, **kwargs: Any) -> Any:
        """How it is printed as a part of others, such as an `lx.Solution`."""
        return described("\n" + repr(self))


class AbstractSolution(eqx.Module):
    """What a verb returns.

    * `value`: the answer; where the verb failed, the best that it met.
    * `result`: how it ended, a member of `lineax.RESULTS`; an array of them where there are several answers.
    * `stats`: counts and estimates.
    """

    result: eqx.AbstractVar[lx.RESULTS]
    stats: eqx.AbstractVar[dict[str, Any]]

    def __repr__(self) -> str:
        fields = {name: part for name, part in vars(self).items() if name not in ("result", "stats")}
        rows = fields | self.stats
        return "\n".join([f"{type(self).__name__}: {_named(self.result)}", *_table(rows)])


def raised_in_words(tree: PyTree, result: lx.RESULTS, words: dict[str, str]) -> PyTree:
    """The tree; at run time an error with the text for `result`, by the name of its member, unless that is
    `successful`."""
    messages = [words.get(_NAMES.get(code, ""), "") for code in range(max(_NAMES) + 1)]
    return eqx.branched_error_if(tree, result != lx.RESULTS.successful, _code(result), messages)


def result_name(result: lx.RESULTS) -> str:
    """The name of a member."""
    return RESULTS[int(result_code(result))]


def result_code(result: lx.RESULTS) -> Any:
    """The places in `RESULTS` of one member or a batch, also where they are traced.  One that is not in the
    table gets a number past its end."""
    known = jnp.stack([result == getattr(lx.RESULTS, name) for name in RESULTS])
    return jnp.where(jnp.any(known, axis=0), jnp.argmax(known, axis=0), len(RESULTS))


def first_failure(results: lx.RESULTS) -> tuple[Any, lx.RESULTS]:
    """Index and result of the first that failed; of the first, where none did."""
    index = jnp.argmax(results != lx.RESULTS.successful)
    return index, jax.tree.map(lambda codes: codes[index], results)


def _code(result: lx.RESULTS) -> Any:
    return jax.tree.leaves(result)[0]


def _named(members: Any, names: dict[int, str] = _NAMES) -> str:
    """The name of a member; of many, each name with how often it occurs."""
    codes = _code(members)
    if isinstance(codes, Tracer):
        return "traced"
    found, counts = np.unique(np.asarray(codes), return_counts=True)
    words = [names.get(int(code), str(code)) for code in found]
    if np.ndim(codes) == 0:
        return words[0]
    return ", ".join(f"{count} {word}" for word, count in zip(words, counts, strict=True))


def _table(rows: dict[str, Any]) -> list[str]:
    width = max(map(len, rows), default=0)
    return [f"  {name:<{width}}  {_short(value)}" for name, value in rows.items() if value is not None]


def _short(value: Any) -> str:
    """A number in four digits; of many numbers their shape, and where there is one axis their range."""
    if isinstance(value, AbstractSolution):
        return f"{type(value).__name__}: {_named(value.result)}"
    if isinstance(value, REASONS):
        return _named(value, {code: name for name, code in CODES.items()})
    if isinstance(value, eqx.Module) or hasattr(value, "_fields"):
        return type(value).__name__
    if eqx.is_array(value) and not isinstance(value, Tracer) and not _is_key(value):
        if value.ndim == 0:
            return _number(value)
        kind = eqx.tree_pformat(value)
        finite = np.asarray(value)
        if value.ndim > 1 or value.size == 0 or np.iscomplexobj(finite) or finite.dtype.kind not in "iuf":
            return kind
        finite = finite[np.isfinite(finite.astype(np.float64))]
        return f"{kind}  {_number(finite.min())} ... {_number(finite.max())}" if finite.size else kind
    if isinstance(value, int | float):
        return _number(value)
    text = eqx.tree_pformat(value, width=10**6)
    return text if len(text) <= _WIDEST else f"{text[:_WIDEST]}..."


_WIDEST = 60


def _is_key(value: Any) -> bool:
    return jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def _number(number: Any) -> str:
    return f"{np.asarray(number).item():.4g}"


def described(text: str) -> Any:
    """What `__pdoc__` of a class returns, by which Equinox prints it."""
    from wadler_lindig import TextDoc  # Equinox brings it

    return TextDoc(text)

"""What the scripts that run the authors' codes share: start, noise, and a network that remembers."""

import ast
import math
import types

import numpy as np
import torch
from model import model

SHAPE = (2, 3)
rng = np.random.default_rng(20232)
X_T = rng.standard_normal(SHAPE)
NOISE = rng.standard_normal((17, *SHAPE))


class Recorder:
    """The network, which remembers where it was asked."""

    def __init__(self, share):
        self.share = share
        self.states, self.times = [], []

    def __call__(self, x, t, *_):
        t = float(torch.as_tensor(t).reshape(-1)[0])
        self.states.append(np.reshape(x.numpy(), (-1, SHAPE[1])))
        self.times.append(t)
        return model(torch, x, torch.as_tensor(self.share(t)))

    def record(self, result, end):
        """Points of evaluation and their times, the result last."""
        states = [*self.states, np.reshape(result.numpy(), (-1, SHAPE[1]))]
        return np.stack(states), np.asarray([*self.times, end])


class Draws:
    """Stands in for `randn_like`: hands out `NOISE`, but for the first `unused` draws, and counts."""

    def __init__(self, unused=0):
        self.num_draws = -unused

    def __call__(self, x):
        self.num_draws += 1
        return torch.as_tensor(NOISE[max(self.num_draws, 1) - 1][: len(x)]).reshape(x.shape)


def with_draws(draws):
    """torch, but for its `randn_like`."""
    seen = types.SimpleNamespace(**{name: getattr(torch, name) for name in dir(torch)})
    seen.randn_like = draws
    return seen


def only(path, *names, **namespace):
    """Some functions of a file whose imports are not wanted."""
    tree = ast.parse(path.read_text())
    body = [
        node for node in tree.body if isinstance(node, ast.FunctionDef) and (node.name in names or not names)
    ]
    exec(compile(ast.Module(body, type_ignores=[]), path.name, "exec"), namespace)
    return types.SimpleNamespace(**namespace)


def images(x):
    return torch.as_tensor(x)[:, :, None, None]


def ve_share(t):
    """sigma / sqrt(1 + sigma^2), the time being sigma."""
    return t / math.hypot(1.0, t)


def vp_share(t, b0=0.1, b1=20.0):
    """sigma of the linear VP schedule."""
    return np.sqrt(-np.expm1(2 * (-0.25 * t**2 * (b1 - b0) - 0.5 * t * b0)))

"""The network of the golden records: one smooth function, said once for NumPy, JAX and PyTorch."""


def model(xp, x, share):
    """What the network answers at state `x`, where `share` = sigma / sqrt(alpha^2 + sigma^2) of it is noise.

    `xp` is the array module. The same function stands for every prediction type (noise, data, velocity):
    parity asks only that both sides call the same one. `share` is within [0, 1] on every schedule.
    """
    return share * x + (1 - share * share) * xp.tanh(0.8 * x + xp.cos(3.0 * share))

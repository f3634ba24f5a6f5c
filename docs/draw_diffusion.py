"""Draws the digits of `docs/diffusion.md`: the same noise through samplers and numbers of evaluations.

python docs/draw_diffusion.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import learned
from nsolve import diffusion as D

IMAGES = Path(__file__).parent / "images"
EVALUATIONS = (4, 8, 16)
SAMPLERS = {
    "DDIM": D.DDIM(),
    "DPM-Solver++(2M)": D.DPMSolverPP(2),
    "UniPC-3": D.UniPC(3),
}


def main() -> None:
    denoiser = learned.load_pretrained("diffusion-digits")
    schedule = denoiser.schedule
    guided = D.ClassifierFree(denoiser.model, jnp.arange(10), jnp.full(10, -1), 1.5)
    denoiser = D.Denoiser(guided, denoiser.prediction, schedule)
    noise = jax.random.normal(jax.random.key(3), (10, 8, 8, 1), jnp.float32)
    x_T = jnp.float32(schedule.sigma(schedule.t_max)) * noise
    size = (10.5, 0.42 * len(SAMPLERS) + 0.25)
    figure, axes = plt.subplots(len(SAMPLERS), 3, figsize=size, layout="constrained")
    for axis, num_steps in zip(axes[0], EVALUATIONS, strict=True):
        axis.set_title(f"{num_steps} evaluations", fontsize=10)
    for row, (name, sampler) in zip(axes, SAMPLERS.items(), strict=True):
        for axis, num_steps in zip(row, EVALUATIONS, strict=True):
            digits = D.sample(denoiser, sampler, x_T, D.log_snr_grid(num_steps)).value
            strip = np.pad(np.asarray(digits)[..., 0], ((0, 0), (1, 1), (1, 1)), constant_values=-1)
            axis.imshow(np.concatenate(strip, axis=1), cmap="gray", vmin=-1, vmax=1)
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(name, fontsize=9, rotation=0, ha="right", va="center")
    figure.savefig(IMAGES / "diffusion-samples.png", dpi=170)


if __name__ == "__main__":
    main()

"""`nsolve-train`: train a model, one command for each kind.

What was measured goes to stdout, progress and messages to stderr.  Exit codes: 0 done, 1 training diverged,
2 a mistake in what was asked, 130 interrupted.
"""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Train the models of nsolve. An interrupted run goes on when its command is given again.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def options() -> None:
    """Train the models of nsolve. An interrupted run goes on when its command is given again."""


@app.command()
def bridge(
    source: Annotated[str, typer.Option(help="Samples: a shape, or a .npy or .npz file of shape (n, d).")],
    target: Annotated[
        str, typer.Option(help="Samples: gaussian, 8-gaussians, moons, swiss-roll, or a file.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, model, picture and metrics.")],
    epsilon: Annotated[float, typer.Option(help="Variance of the noise over the whole bridge.")] = 0.1,
    components: Annotated[int, typer.Option(min=1, help="Gaussians in the potential.")] = 50,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples of each distribution in a step.")] = 256,
    steps: Annotated[int, typer.Option(min=1, help="Steps in all; more than a run has extend it.")] = 5000,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = 3e-3,
    seed: Annotated[int, typer.Option(help="Seed of the start and of all draws.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of resuming.")] = False,
) -> None:
    """Train a light Schroedinger bridge that carries samples of SOURCE to samples of TARGET."""
    from .bridge import Request, train

    request = Request(source, target, out, epsilon, components, batch_size, steps, learning_rate, seed)
    _run(train, request, fresh)


@app.command()
def diffusion(
    data: Annotated[
        str,
        typer.Option(
            help="Images: digits (8 by 8, of scikit-learn), a folder of PNG or JPEG files, or an array in a "
            ".npy, .npz or .h5 file (file.npz:array)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, model, picture and metrics.")],
    prediction: Annotated[str, typer.Option(help="Of the network: eps, x0, v, score or flow.")] = "v",
    schedule: Annotated[
        str, typer.Option(help="Of the noise: vp-linear, vp-cosine, flow, ve or edm.")
    ] = "vp-cosine",
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a step.")] = 128,
    steps: Annotated[int, typer.Option(min=1, help="Steps in all; more than a run has extend it.")] = 30000,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Seed of the start and of all draws.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of resuming.")] = False,
) -> None:
    """Train a diffusion model that makes images like those of DATA."""
    from .diffusion import Request, train

    request = Request(data, out, prediction, schedule, batch_size, steps, learning_rate, seed)
    _run(train, request, fresh)


def _run(train: Callable[[Any, bool], dict[str, float]], request: Any, fresh: bool) -> None:
    """Train, and print what was measured."""
    from .checkpoint import alone_in  # orbax is slow to import

    try:
        # A new folder is left to `train`, which first looks at what was asked.
        with alone_in(request.out) if request.out.is_dir() else nullcontext():
            metrics = train(request, fresh)
    except KeyboardInterrupt:
        print(f"interrupted; the same command (without --fresh) goes on from {request.out}", file=sys.stderr)
        raise typer.Exit(130) from None
    for name, value in metrics.items():
        print(f"{name:28} {value:.5g}")
    print(f"model, picture and metrics: {request.out}", file=sys.stderr)


def main() -> None:
    """The entry point: mistakes in what was asked end in one line on stderr and exit code 2."""
    try:
        app()
    except ValueError as error:
        print(f"nsolve-train: {error}", file=sys.stderr)
        sys.exit(2)
    except FloatingPointError as error:
        print(f"nsolve-train: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("nsolve-train: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()

"""`nsolve-train`: train a model, one command for each kind.

What was measured goes to stdout, progress and messages to stderr.  Exit codes: 0 done, 1 training diverged,
2 a mistake in what was asked, 130 interrupted.
"""

import shutil
import sys
from pathlib import Path
from typing import Annotated

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
    if fresh:
        _clear(out)
    try:
        metrics = train(request)
    except KeyboardInterrupt:
        print(f"interrupted; the same command (without --fresh) goes on from {out}", file=sys.stderr)
        raise typer.Exit(130) from None
    for name, value in metrics.items():
        print(f"{name:26} {value:.5g}")
    print(f"model, picture and metrics: {out}", file=sys.stderr)


def _clear(out: Path) -> None:
    """Remove what an earlier run left in the folder, and nothing else."""
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    for name in ("settings.json", "log.jsonl", "model.eqx", "metrics.json", "picture.png"):
        if (out / name).is_file():
            (out / name).unlink()


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

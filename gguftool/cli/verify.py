"""``gguftool verify``: is the file whole, does everything in it decode?"""

from __future__ import annotations

import click


@click.command("verify")
@click.argument("models", nargs=-1, required=True, type=click.Path(dir_okay=False))
def command(models: tuple[str, ...]) -> None:
    """Check the structure of each of MODELS and decode every tensor, looking for NaN and Inf."""
    from tqdm import tqdm

    from gguftool.errors import PlanError
    from gguftool.verbs.verify import verify

    problems: list[str] = []
    for model in models:
        with tqdm(disable=None, leave=False, unit="tensor") as bar:

            def step(name: str, bar: tqdm[object] = bar) -> None:
                bar.set_description(name)
                bar.update()

            found = verify(model, progress=step)
        problems += [f"{found.path}: {problem}" for problem in found.problems]
        click.echo(
            f"{found.path.name}: {found.n_tensors} tensors, {found.n_decoded} decoded, {len(found.problems)} damaged"
        )
        for name in found.undecoded:
            click.echo(f"  size checked only, no decoder yet: {name}")
    if problems:
        raise PlanError(problems)

"""``gguftool verify``: is the file whole, does everything in it decode?"""

from __future__ import annotations

import click


@click.command("verify")
@click.argument("models", nargs=-1, required=True, type=click.Path(readable=False))
def command(models: tuple[str, ...]) -> None:
    """Check the structure of each of MODELS and decode every tensor, looking for NaN and Inf."""
    from tqdm import tqdm

    from gguftool.errors import FormatError, PlanError, ShortenedError
    from gguftool.show.tables import printable
    from gguftool.verbs.verify import verify

    problems: list[str] = []
    for model in models:
        with tqdm(disable=None, leave=False, unit="tensor") as bar:

            def step(name: str, bar: tqdm[object] = bar) -> None:
                bar.set_description(printable(name))
                bar.update()

            try:
                found = verify(model, progress=step)
            except ShortenedError as trouble:
                problems += [f"{trouble.path}: {line}" for line in trouble.details]
                continue
            except (FormatError, OSError) as trouble:  # the others are looked at all the same
                problems.append(str(trouble) if isinstance(trouble, FormatError) else f"{model}: {trouble.strerror}")
                continue
        problems += [f"{found.path}: {problem}" for problem in found.problems]
        counts = f"{found.n_tensors} tensors, {found.n_decoded} decoded, {len(found.problems)} damaged"
        click.echo(f"{printable(found.path.name)}: {counts}")
        for name in found.undecoded:
            click.echo(f"  size checked only, no decoder for {printable(name)}")
    if problems:
        raise PlanError(problems)

"""Show files to Chromium and Firefox and say which of them are scored as something else.

python -m tests.witness FILE_OR_FOLDER ...
python -m tests.witness --made --mutations 5000 --seed 1
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from tests.witness import sheet
from tests.witness.browsers import Witnesses, installed
from tests.witness.coverage import Finding, default_decoder, watch
from tests.witness.files import FORMATS
from tests.witness.files import files as made_files
from tests.witness.mutation import mutated


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--made", is_flag=True, help="The files made by the tests.")
@click.option("--mutations", default=0, help="So many changed files as well.")
@click.option("--seed", default=1, help="Of the changes.")
@click.option("--format", "formats", type=click.Choice([*FORMATS]), multiple=True)
@click.option("--output", type=click.Path(path_type=Path), default=Path("artifacts/witness"))
@click.option("--verbose", is_flag=True, help="One line a file.")
def main(
    paths: tuple[Path, ...],
    made: bool,
    mutations: int,
    seed: int,
    formats: tuple[str, ...],
    output: Path,
    verbose: bool,
) -> None:
    """Print files, differing and uncovered; exit with 1 where a file is uncovered."""
    if not installed():
        sys.exit("neither chromium nor firefox-esr is installed")
    own = made_files(*formats) if made else ()
    changed = mutated(mutations, seed, *formats)
    sys.exit(report(itertools.chain(_read(paths), own, changed), output, verbose))


def _read(paths: Iterable[Path]) -> Iterator[tuple[str, bytes]]:
    for path in paths:
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in inside:
            if file.is_file():
                yield file.name, file.read_bytes()


def report(files: Iterable[tuple[str, bytes]], output: Path, verbose: bool) -> int:
    """Watch the files, keep what is uncovered below `output` and print the counts."""
    counts = {"files": 0, "shown": 0, "refused": 0, "differing": 0, "uncovered": 0}
    uncovered: list[Finding] = []
    with default_decoder() as decoder, Witnesses() as witnesses:
        for finding in watch(files, witnesses, decoder):
            counts["files"] += 1
            counts["shown"] += finding.is_shown
            counts["refused"] += finding.is_shown and finding.picture is None
            counts["differing"] += bool(finding.unlike)
            counts["uncovered"] += finding.is_uncovered
            if finding.is_uncovered:
                uncovered.append(finding)
            if verbose or finding.is_uncovered:
                click.echo(_line(finding))
            if counts["files"] % 100 == 0:
                click.echo(_summary(counts), err=True)
    click.echo(_summary(counts) + f" (browsers: {', '.join(installed())})")
    if uncovered:
        output.mkdir(parents=True, exist_ok=True)
        for number, finding in enumerate(uncovered):
            (output / f"{number:03}-{Path(finding.name).name[:80]}").write_bytes(finding.data)
        sheet.write(uncovered, output / "uncovered.png")
        click.echo(f"see {output / 'uncovered.png'}")
    return 1 if uncovered else 0


def _summary(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _line(finding: Finding) -> str:
    if not finding.is_shown:
        word = "not shown"
    elif finding.picture is None:
        word = f"refused: {finding.refusal}"
    elif finding.is_uncovered:
        word = "UNCOVERED"
    elif finding.unlike:
        word = "gray at best"
    else:
        word = "covered"
    things = ", ".join(f"{thing.label} ({thing.apart:.0f})" for thing in finding.unlike[:4])
    flat = finding.picture.flat if finding.picture else None
    return " | ".join(filter(None, (finding.name, word, flat, things)))


if __name__ == "__main__":
    main()

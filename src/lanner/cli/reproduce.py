"""The command that measures what the papers claim: reproduce."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lanner.cli import console, options

if TYPE_CHECKING:
    from lanner.reproduction.claims import Finding


def reproduce(
    out: Annotated[Path, typer.Option("--out", help="Folder to write report.html and report.md to.")] = Path("report"),
    from_results: Annotated[
        bool, typer.Option("--from-results", help="Run nothing; read the existing result files.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only the experiments that have a short form, in that form; a few minutes.")
    ] = False,
    results: Annotated[
        Path | None,
        typer.Option(
            "--results", help="Folder of result files. Default: benchmarks/results, with --quick <OUT>/results."
        ),
    ] = None,
    checkout: Annotated[
        Path, typer.Option("--checkout", help="Checkout of Lanner that contains the benchmarks.")
    ] = Path(),
    as_json: options.AsJson = False,
) -> None:
    """Measure what the papers claim, and write a report: each claim, the paper's number, ours, and a verdict.

    Without options every experiment runs, which takes an estimated 22 hours on 2 cores; Ctrl-C stops, and the same
    command resumes. Experiments and recorded results are in a checkout of Lanner. The page report.html needs no
    network; report.md says the same in Markdown. Pictures need the extra plot.

    \b
    Examples:
      lanner reproduce --from-results
      lanner reproduce --quick --out quick-report
      lanner reproduce
    """
    from lanner.errors import ConfigError, LannerError
    from lanner.files import check_writable, write_file
    from lanner.reproduction import experiments, report
    from lanner.reproduction.claims import read_claims, read_results
    from lanner.reproduction.pictures import check_matplotlib, pictures_of

    check_matplotlib()
    check_writable(out, f"--out {out}")
    stages = console.Stages()
    folder = results or (out / "results" if quick else checkout / experiments.RESULTS)
    claims = read_claims().timed(experiments.read_minutes(folder))
    failed: list[str] = []
    if not from_results:
        failed = experiments.run(claims.experiments, checkout, folder, stages, quick=quick)
        claims = claims.timed(experiments.read_minutes(folder))
    read = read_results(folder)
    if from_results and not read:
        raise ConfigError(f"{folder}: no result files; give the folder of result files with --results")
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / "report.html", report.html(claims, read, pictures_of(read)).encode())
    write_file(out / "report.md", report.markdown(claims, read).encode())
    _show(out, report.findings(claims, read), failed, as_json)
    if failed:
        raise LannerError(f"failed experiments: {', '.join(failed)}; their claims keep the earlier results, if any")


def _show(out: Path, found: "Sequence[Finding]", failed: list[str], as_json: bool) -> None:
    """Say where the report is, and what it found."""
    counts = {verdict: sum(one.verdict == verdict for one in found) for verdict in {one.verdict for one in found}}
    listed = [
        {
            "claim": one.claim.claim,
            "paper": one.paper,
            "value": one.value,
            "interval": one.interval,
            "verdict": one.verdict,
        }
        for one in found
    ]
    said = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
    console.show_result(
        {"out": str(out), "failed": failed, "verdicts": counts, "claims": listed},
        f"Wrote {out}/report.html and {out}/report.md: {said}.",
        as_json=as_json,
    )

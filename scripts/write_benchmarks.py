"""Writes docs/benchmarks.md from what `lmx bench ... --out FILE` wrote: `write_benchmarks.py FILE...`."""

import json
import sys
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
HEAD = """\
# Benchmarks

<!-- written by scripts/write_benchmarks.py; run: make benchmarks -->

What the last measurement found, each figure beside what is asked of it. Where there is a baseline it was measured in
the same run, in turns with ours, for other programs slow a machine down: compare the ratios between machines, and
the absolute figures only on one machine. `make bench` measures yours.
"""


def main() -> None:
    """Write the page."""
    reports = [json.loads(Path(name).read_text()) for name in sys.argv[1:]]
    PAGE.write_text("\n".join([HEAD, *(section(report) for report in reports)]))


def section(report: dict[str, Any]) -> str:
    """One run as a table, and what its figures are to be read by."""
    about = f"{report['machine']}, Python {report['python']}, SQLite {report['sqlite']}, {report['cores']} cores"
    lines = [
        f"## `{report['command']}`",
        "",
        f"{report['time'][:10]}, version {report['version']}: {about}.",
        "",
        "| measured | | asked | |",
        "|---|---:|---:|---|",
    ]
    for figure in report["figures"]:
        asked, met = "", ""
        if figure["bound"] is not None:
            asked = f"{'≥' if figure['better'] == 'higher' else '≤'} {shown(figure['bound'])}"
            met = "met" if figure["met"] else "**not met**"
        lines.append(f"| {figure['name']} | {shown(figure['value'])} {figure['unit']} | {asked} | {met} |")
    baselines = [f"- {figure['name']}: {figure['baseline']}" for figure in report["figures"] if figure["baseline"]]
    return "\n".join([*lines, "", *baselines, ""])


def shown(value: float) -> str:
    """Three digits are enough for a figure of a noisy machine."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()

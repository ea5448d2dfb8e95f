"""Writes `docs/benchmarks.md` from the results stored beside the scripts; measures nothing. Run: python benchmarks/write_page.py"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from latentbridge.rundir import atomic_write, read_json

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
_HEAD = """# Benchmarks

Written by `python benchmarks/write_page.py` from the results stored in `benchmarks/`; `benchmarks/README.md` has the rules.
Every number is a ratio of CPU time or memory, measured side by side in one run, with the 95 % interval of its mean.
"""


def main() -> None:
    sections = [section(path) for path in sorted(HERE.glob("*.json")) if "targets" in read_json(path)]
    with atomic_write(PAGE) as temporary:
        temporary.write_text("\n".join([_HEAD, *sections]))
    print(PAGE)


def section(path: Path) -> str:
    """A benchmark's heading, what it is, its table, and what it was measured on."""
    results = read_json(path)
    told = ast.get_docstring(ast.parse(path.with_suffix(".py").read_text())) or ""
    rows = "\n".join(map(row, results["targets"]))
    found = results["machine"]
    machine = (
        f"{found['date']}, {found['cores']} {found['processor']} cores ({', '.join(found['instructions'])}), "
        f"{found['threads']} thread(s), torch {found['torch']}, {found['processes per core']} processes a core."
    )
    return f"## {path.stem}\n\n{told}\n\n| ratio | aim | measured | 95 % | met |\n|---|---|---|---|---|\n{rows}\n\n{machine}\n"


def row(target: dict[str, Any]) -> str:
    met = "" if target["aim"] == "none" else ("yes" if target["met"] else "no")
    interval = f"{target['low']:.2f} to {target['high']:.2f}"
    aim = "" if target["aim"] == "none" else target["aim"]
    return f"| {target['name']} | {aim} | {target['measured']:.2f} | {interval} | {met} |"


if __name__ == "__main__":
    main()

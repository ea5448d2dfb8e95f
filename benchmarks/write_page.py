"""Writes `docs/benchmarks.md` from the results stored beside the scripts; measures nothing. Run: python benchmarks/write_page.py"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from latentbridge.files import atomic_write, read_json

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
SHARED = ("harness", "write_page")
"""What lies beside the benchmarks and is none."""
_HEAD = """# Benchmarks

Written by `python benchmarks/write_page.py` from the results stored in `benchmarks/`; `benchmarks/README.md` has the rules.
A ratio "a / b" is of CPU time unless it names something else, measured side by side in one run; the interval is of its
mean over the rounds, and of a share of many items Wilson's. An aim that was missed is told in the text above its table.
"""


def main() -> None:
    scripts = [path for path in sorted(HERE.glob("*.py")) if path.stem not in SHARED]
    with atomic_write(PAGE) as temporary:
        temporary.write_text("\n".join([_HEAD, *map(section, scripts)]))
    print(PAGE)


def section(script: Path) -> str:
    """A benchmark's heading, what it is, and its results where there are some."""
    told = ast.get_docstring(ast.parse(script.read_text())) or ""
    stored = script.with_suffix(".json")
    found = results(read_json(stored)) if stored.exists() else "No result is stored yet."
    return f"## {script.stem}\n\n{told}\n\n{found}\n"


def results(stored: dict[str, Any]) -> str:
    """A table, what stands beside it, and what it was measured on."""
    rows = "\n".join(map(row, stored["targets"]))
    details = "\n".join(f"- {name}: {said(value)}" for name, value in stored["details"].items())
    found = stored["machine"]
    machine = (
        f"{found['date']}, {found['cores']} {found['processor']} cores ({', '.join(found['instructions'])}), "
        f"{found['threads']} thread(s), torch {found['torch']}, {found['processes per core']} processes a core."
    )
    return f"| what | aim | measured | 95 % | met |\n|---|---|---|---|---|\n{rows}\n\n{details}\n\n{machine}"


def row(target: dict[str, Any]) -> str:
    met = "" if target["aim"] == "none" else ("yes" if target["met"] else "no")
    interval = f"{target['low']:.4g} to {target['high']:.4g}"
    aim = "" if target["aim"] == "none" else target["aim"]
    return f"| {target['name']} | {aim} | {target['measured']:.4g} | {interval} | {met} |"


def said(value: Any) -> str:
    """A detail in words; groups of them are flattened, what is in a group in brackets."""
    if isinstance(value, dict):
        return ", ".join(
            f"{name} ({said(each)})" if isinstance(each, dict) else f"{name} {each}" for name, each in value.items()
        )
    return str(value)


if __name__ == "__main__":
    main()

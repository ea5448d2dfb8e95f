"""The command `doctor`: checks of a released model's folder, and of this package's numbers against its authors'."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentbridge.cli.arguments import AsJson, check_out
from latentbridge.errors import UserError


def doctor(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="The folder of a released model, as downloaded.")
    ] = None,
    fixture: Annotated[
        Path | None,
        typer.Option("--fixture", help="A parity folder instead: compare every array with the authors' code."),
    ] = None,
    record: Annotated[
        Path | None, typer.Option("--record", help="Write the fingerprint of a folder you trust to a .json file.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option("--against", help="Compare the folder's fingerprint with such a file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a released model's folder against what is recorded for that release.

    One line a check: ok, warning (it works, but not as released), wrong, or unknown (nothing is recorded). Weights are not
    loaded, unless a fingerprint is asked for. The exit code is 1 if anything is wrong.

    \b
    Examples:
      latentbridge doctor BAGEL-7B-MoT
      latentbridge doctor Janus-Pro-7B --json
      latentbridge doctor Janus-Pro-7B --record janus.json
      latentbridge doctor downloaded-again --against janus.json
      latentbridge doctor --fixture tests/golden/bagel
    """
    if (folder is None) == (fixture is None):
        raise UserError("Give either the folder of a released model, or a parity folder with --fixture.")
    if fixture is not None:
        if record or against:
            raise UserError("A parity folder has no fingerprint; give --record or --against with a model's folder.")
        raise typer.Exit(_check_fixture(fixture, as_json))
    assert folder is not None
    if record:
        check_out(record, (".json",))
    if against and not against.is_file():
        raise UserError(f"There is no file {against}; write one with latentbridge doctor FOLDER --record.")
    raise typer.Exit(_check_folder(folder, record, against, as_json))


def _check_folder(folder: Path, record: Path | None, against: Path | None, as_json: bool) -> int:
    from latentbridge.cli.output import print_json
    from latentbridge.files import write_json
    from latentbridge.models.doctor.checks import Check, check_release
    from latentbridge.models.doctor.fingerprint import compare_fingerprint, take_fingerprint
    from latentbridge.models.doctor.release_folder import open_release_folder

    checks = list(check_release(open_release_folder(folder)))
    if against:
        checks += compare_fingerprint(folder, against)
    elif record:
        write_json(record, take_fingerprint(folder))
        checks.append(Check("ok", "fingerprint", f"written to {record}"))
    else:
        checks.append(Check("unknown", "fingerprint", "none is recorded; --record writes that of a folder you trust"))
    wrong = sum(check.status == "wrong" for check in checks)
    if as_json:
        print_json({"folder": folder, "wrong": wrong, "checks": [check._asdict() for check in checks]})
    else:
        for check in checks:
            print(f"{check.status:<9}{check.subject:<26}{check.message}")
    return int(wrong > 0)


def _check_fixture(folder: Path, as_json: bool) -> int:
    from latentbridge.cli.output import print_json
    from latentbridge.models.backbones.parity import run_fixture

    report = run_fixture(folder)
    if as_json:
        groups = [
            {
                "group": group.name,
                "arrays": len(group.arrays),
                "worst": group.worst.name,
                "difference": group.worst.difference,
                "tolerance": group.worst.tolerance,
                "within": all(array.is_within for array in group.arrays),
            }
            for group in report.groups()
        ]
        print_json(
            {"model": report.kind, "within": report.is_within, "not_computed": report.not_computed, "groups": groups}
        )
        return int(not report.is_within)
    for group in report.groups():
        status = "ok" if all(array.is_within for array in group.arrays) else "wrong"
        worst = group.worst
        print(
            f"{status:<8}{group.name:<44}{len(group.arrays):>4}  {worst.difference:.1e} of {worst.tolerance:g}  {worst.name}"
        )
    for name in report.not_computed:
        print(f"{'wrong':<8}{name}: recorded, but not computed here")
    outside = sum(not array.is_within for array in report.arrays)
    print(
        f"{report.kind}: {len(report.arrays)} arrays compared, {outside} outside their tolerance, {len(report.not_computed)} missing"
    )
    return int(not report.is_within)

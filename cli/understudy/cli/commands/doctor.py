"""`understudy doctor`: is this installation well, and if not, what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from understudy.cli.output import show_table

HELP = "Check versions, processor, clock, ports, certificates and stores, and say what to do."


def doctor(
    edge: Annotated[Path | None, typer.Option(help="An edge.yaml to check.")] = None,
    cloud: Annotated[Path | None, typer.Option(help="A cloud.yaml to check.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for scripts.")] = False,
) -> None:
    """Prints one line a finding; exit code 1 if something does not work."""
    from understudy.cli.doctor import examine
    from understudy.cli.doctor_rules import Health, worst

    findings = examine(edge=edge, cloud=cloud)
    rows = [(f.name, f.health.value, f.says, f.do) for f in findings]
    show_table(("what", "health", "seen", "do"), rows, as_json=as_json)
    if worst(findings) is Health.FAIL:
        raise typer.Exit(1)

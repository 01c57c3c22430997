"""`understudy cloud`: the gateway, the teacher behind it, and what they say of themselves."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.cli.options import CLOUD_YAML, AsJson, CloudConfigFile
from understudy.cli.output import show_fields
from understudy.types.errors import ConfigError

if TYPE_CHECKING:
    from understudy.cloud.running import RunningCloud

app = typer.Typer(no_args_is_help=True, help="Run the teacher, the gateway, the log, the releases.")


@app.command(epilog="Example: understudy cloud up -c cloud.yaml")
def up(
    config: CloudConfigFile = CLOUD_YAML,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
    with_parent: Annotated[
        bool, typer.Option("--with-parent", help="Stop when standard input ends.", hidden=True)
    ] = False,
) -> None:
    """Runs a gateway and its teacher until SIGTERM or Ctrl-C, then drains."""
    from understudy.cli.processes import end_with_parent
    from understudy.cloud.config import load_config
    from understudy.cloud.process import run_gateway

    if with_parent:
        end_with_parent(sys.stdin.fileno())

    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    run_gateway(load_config(config), _tell)


def _tell(running: RunningCloud) -> None:
    """Where everything is, as soon as it is there."""
    typer.echo(f"nodes:      {running.address}\nenrolment:  {running.enroll_address}")
    if running.operator_address:
        typer.echo(f"console:    http://{running.operator_address}/")


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudStatus:
    """What `cloud status` prints."""

    running: bool
    address: str
    enroll_address: str
    operator_address: str
    pid: int
    up_s: float
    rows: int
    unlabelled: int
    nodes: int
    releases: int


@app.command(epilog="Example: understudy cloud status -c cloud.yaml --json")
def status(config: CloudConfigFile = CLOUD_YAML, as_json: AsJson = False) -> None:
    """Says whether a gateway runs here, how its log stands, and who is enrolled."""
    found = _status(config)
    show_fields(found, as_json=as_json)
    if not found.running:
        raise typer.Exit(1)


@app.command(epilog="Example: understudy cloud render -c cloud.yaml > serve.yaml")
def render(config: CloudConfigFile = CLOUD_YAML) -> None:
    """Prints the Ray Serve configuration of the teacher, every key checked."""
    import yaml

    from understudy.cloud.config import load_config
    from understudy.cloud.serve_options import ServeOptions
    from understudy.cloud.serve_render import render as render_serve

    cloud = load_config(config)
    made = render_serve(cloud.teacher, cloud.serve or ServeOptions())
    typer.echo(yaml.safe_dump(made, sort_keys=False), nl=False)


def _status(path: Path) -> CloudStatus:
    from understudy.cloud.config import load_config
    from understudy.cloud.parts import open_log
    from understudy.cloud.process import read_state_file

    config = load_config(path)
    if not Path(config.state_dir).is_dir():
        raise ConfigError(f"{config.state_dir}: no cloud has run here; `understudy cloud up` first")
    running = read_state_file(config)
    log = open_log(config)
    try:
        stats = log.stats()
    finally:
        log.close()
    return CloudStatus(
        running=running is not None,
        address=running.address if running else "",
        enroll_address=running.enroll_address if running else "",
        operator_address=running.operator_address if running else "",
        pid=running.pid if running else 0,
        up_s=round(time.time() - running.started_unix_s, 1) if running else 0.0,
        rows=stats.rows,
        unlabelled=stats.unlabelled,
        nodes=_count_nodes(path),
        releases=_count_releases(config.path(config.releases_dir)),
    )


def _count_nodes(path: Path) -> int:
    from understudy.cli.desk import enrolment_of

    with enrolment_of(path) as desk:
        return sum(not node.revoked_unix_s for node in desk.nodes())


def _count_releases(folder: Path) -> int:
    from understudy.cloud.releases import ReleaseRepository

    if not (folder / "metadata").is_dir():
        return 0
    return len(ReleaseRepository.open(folder).store().releases())

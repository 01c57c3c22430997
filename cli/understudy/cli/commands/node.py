"""`understudy node`: who may talk to the cloud.

`invite`, `list` and `revoke` run where the cloud's state is; `enroll` runs on the node.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from understudy.cli.desk import enrolment_of
from understudy.cli.options import CLOUD_YAML, AsJson, CloudConfigFile
from understudy.cli.output import show_table

app = typer.Typer(no_args_is_help=True, help="Invite, enrol, list and revoke edge nodes.")


@app.command(epilog="Example: understudy node invite shop-berlin -c cloud.yaml -o invitation.json")
def invite(
    node: Annotated[str, typer.Argument(help="Id of the node.")],
    config: CloudConfigFile = CLOUD_YAML,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="File for the invitation; keep it secret.")
    ] = Path("invitation.json"),
    hours: Annotated[float, typer.Option(help="How long the invitation is good.")] = 1.0,
    host: Annotated[
        str, typer.Option(help="Name by which the node reaches the cloud; else of gateway.names.")
    ] = "",
) -> None:
    """Writes a one-time invitation for a node."""
    import msgspec

    from understudy.cloud.config import load_config
    from understudy.cloud.process import read_state_file
    from understudy.files import write_atomic

    cloud = load_config(config)
    running = read_state_file(cloud) or cloud.gateway
    names = cloud.gateway.names
    with enrolment_of(config) as desk:
        invitation = desk.invite(
            node,
            address=reachable(running.address, names, host),
            enroll_address=reachable(running.enroll_address, names, host),
            ttl_s=hours * 3600.0,
        )
    write_atomic(out, msgspec.json.encode(invitation))
    typer.echo(f"invitation for {node}: {out}, good once within {hours:g} h")


def reachable(address: str, names: Sequence[str], host: str = "") -> str:
    """An address that a node can use: one that is listened on everywhere names no machine.

    Args:
        address: What the gateway listens on, `host:port`.
        names: Names its certificate is good for; of these the first that leaves this machine.
        host: The operator's own word, which wins.
    """
    from understudy.edge.tls import is_loopback

    listened, _, port = address.rpartition(":")
    if host or listened.strip("[]") in {"", "0.0.0.0", "::"}:  # noqa: S104 - that is the question
        away = (name for name in names if not is_loopback(f"{name}:{port}"))
        return f"{host or next(away, 'localhost')}:{port}"
    return address


@app.command(epilog="Example: understudy node enroll invitation.json -o node --task support-desk")
def enroll(
    invitation: Annotated[Path, typer.Argument(help="The file from `understudy node invite`.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the node.")] = Path("node"),
    task: Annotated[str, typer.Option(help="Task whose student the node fetches.")] = "",
) -> None:
    """Makes this node's key, has it certified, and writes an edge.yaml to start with."""
    from understudy.edge import identity

    given = identity.read_invitation(invitation)
    node = identity.enroll(given, out)
    config = out / "edge.yaml"
    if not config.exists():
        config.write_text(_edge_yaml(given.address, out, task), encoding="utf-8")
    typer.echo(f"{node} is enrolled; its configuration: {config}")


@app.command("list", epilog="Example: understudy node list -c cloud.yaml --json")
def list_nodes(config: CloudConfigFile = CLOUD_YAML, as_json: AsJson = False) -> None:
    """Lists every node that was ever enrolled."""
    with enrolment_of(config) as desk:
        rows = [
            (n.node, _when(n.enrolled_unix_s), _when(n.renewed_unix_s), _when(n.revoked_unix_s))
            for n in desk.nodes()
        ]
    show_table(("node", "enrolled", "renewed", "revoked"), rows, as_json=as_json)


@app.command(epilog="Example: understudy node revoke shop-berlin -c cloud.yaml")
def revoke(
    node: Annotated[str, typer.Argument(help="Id of the node.")],
    config: CloudConfigFile = CLOUD_YAML,
) -> None:
    """Turns a node away, within seconds; a new invitation lets it back."""
    with enrolment_of(config) as desk:
        desk.revoke(node)
    typer.echo(f"{node} is revoked")


def _edge_yaml(address: str, folder: Path, task: str) -> str:
    from understudy.edge.identity import CA, CERTIFICATE, KEY, ROOT

    lines = [
        "# Made by `understudy node enroll`; paths are relative to this file.",
        *([f"task: {task}"] if task else []),
        "state_dir: state",
        "gateway:",
        f"  address: {address}",
        f"  tls: {{ca: {CA}, certificate: {CERTIFICATE}, key: {KEY}}}",
    ]
    if (folder / ROOT).exists():
        lines += ["updater:", f"  trusted_root: {ROOT}"]
    return "\n".join(lines) + "\n"


def _when(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M") if unix_s else ""

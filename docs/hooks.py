"""Builds what would go stale if somebody wrote it: commands, alerts, benchmarks, decisions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:  # noqa: ANN401 - the tool's own
    """Fills the marks such as `<!-- commands -->` and `<!-- alerts -->`.

    Links that leave the folder of the documents, such as those to `deploy/`, become plain text:
    there is no such page on the site.
    """
    fillings = {
        "commands": commands,
        "alerts": alerts,
        "benchmarks": benchmarks,
        "decisions": decisions,
        "reasons": reasons,
        "statuses": statuses,
        "wire": wire,
    }
    for mark, filling in fillings.items():
        token = f"<!-- {mark} -->"
        if token in markdown:
            markdown = markdown.replace(token, filling())
    return _without_outside_links(markdown, Path(page.file.src_path).parent)


def commands() -> str:
    """Every command with its help, as the command line itself tells it."""
    from typer.main import get_command

    from understudy.cli.main import app

    return "\n\n".join(_describe("understudy", get_command(app)))


def alerts() -> str:
    """A row for each alert."""
    import yaml

    rules = yaml.safe_load((ROOT / "deploy/prometheus/understudy.rules.yaml").read_text())
    found = [r for group in rules["groups"] for r in group["rules"] if "alert" in r]
    rows = [
        f"| [{r['alert']}]({r['alert']}.md) | {r['labels']['severity']} | `{r['expr']}` |"
        for r in found
    ]
    return "\n".join(["| alert | severity | rings when |", "|---|---|---|", *rows])


def benchmarks() -> str:
    """Every area's results, one below the other."""
    return "\n\n".join(p.read_text().strip() for p in sorted((DOCS / "benchmarks").glob("*.md")))


def decisions() -> str:
    """A line for each decision record."""
    lines = []
    for path in sorted((DOCS / "adr").glob("*.md")):
        title = path.read_text().split("\n", 1)[0].removeprefix("# ").strip()
        lines.append(f"* [{title}](adr/{path.name})")
    return "\n".join(lines)


def reasons() -> str:
    """A row for each reason, in the words of the code."""
    source = ROOT / "protos/understudy/types/decision.py"
    body = source.read_text().partition("class Reason(")[2].partition("\nclass ")[0]
    found = re.findall(r'= "(\w+)"\n    """(.+?)"""', body)
    return "\n".join(["| reason | |", "|---|---|", *(f"| `{w}` | {says} |" for w, says in found)])


def statuses() -> str:
    """The gateway's own table of what it answers when it cannot do what was asked."""
    lines = (ROOT / "cloud/understudy/cloud/gateway/README.md").read_text().splitlines()
    return "\n".join(line for line in lines if line.startswith("|"))


def wire() -> str:
    """The definitions of the wire, file by file, without their common head."""
    parts = []
    for path in sorted((ROOT / "protos/understudy/wire/v1").glob("*.proto")):
        body = path.read_text().partition("package understudy.wire.v1;")[2].strip()
        parts.append(f"### {path.name}\n\n```protobuf\n{body}\n```")
    return "\n\n".join(parts)


def _describe(path: str, command: Any) -> list[str]:  # noqa: ANN401 - the tool's own
    parts = [f"## {path}" if path.count(" ") < 2 else f"### {path}", command.help or ""]
    options = [p for p in command.params if p.name != "help"]
    if options and not hasattr(command, "commands"):
        rows = [f"| `{_names(o)}` | {o.help or ''} | {_default(o)} |" for o in options]
        parts.append("\n".join(["| option | meaning | default |", "|---|---|---|", *rows]))
    if command.epilog:
        parts.append(f"```shell\n{command.epilog.removeprefix('Example: ')}\n```")
    for name, inner in getattr(command, "commands", {}).items():
        parts += _describe(f"{path} {name}", inner)
    return parts


def _names(option: Any) -> str:  # noqa: ANN401 - the tool's own
    return ", ".join(option.opts) if option.param_type_name == "option" else option.name.upper()


def _default(option: Any) -> str:  # noqa: ANN401 - the tool's own
    value = option.default
    return "" if value in (None, False, "") or callable(value) else f"`{value}`"


def _without_outside_links(markdown: str, folder: Path) -> str:
    def mend(match: re.Match[str]) -> str:
        text, target = match.groups()
        if re.match(r"[a-z]+:|#|/", target):
            return match.group(0)
        inside = (DOCS / folder / target.partition("#")[0]).resolve().is_relative_to(DOCS)
        return match.group(0) if inside else f"`{text.strip('`')}`"

    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)", mend, markdown)

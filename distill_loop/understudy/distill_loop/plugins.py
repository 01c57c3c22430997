"""What other packages bring, found by entry point: one group for each kind of part.

| group | callable | named in |
|---|---|---|
| `understudy.student` | `(StudentRecipe, Base, texts) -> StudentModel` | `student.use` |
| `understudy.source` | `(Recipe) -> Iterable[Example]` | `sources.plugins` |
| `understudy.op` | `(rows, Recipe) -> Sequence[Example]`, training rows only | `data.ops` |
| `understudy.check` | `(Evidence, GateRecipe) -> Check` | `gate.checks` |
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from understudy.types.config import nearest_key
from understudy.types.errors import ConfigError

GROUP = "understudy"


def find_plugin(kind: str, name: str, own: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401 - what a package registered
    """Our own part of that kind and name, else what a package registered under it.

    Args:
        kind: `student`, `source`, `op` or `check`.
        name: Name in the recipe.
        own: Our own parts by name.

    Raises:
        ConfigError: If there is none, or the package's own import fails.
    """
    ours = own or {}
    if name in ours:
        return ours[name]
    found = {point.name: point for point in entry_points(group=f"{GROUP}.{kind}")}
    if name not in found:
        known = sorted({*ours, *found})
        raise ConfigError(f"there is no {kind} '{name}'.{nearest_key(name, known)}")
    try:
        return found[name].load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"the {kind} '{name}' cannot be loaded: {error}") from error

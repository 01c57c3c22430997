"""Which component builds the student: ours by name, others by entry point.

A plug-in is a callable `(StudentRecipe, Base, texts) -> StudentModel` registered in the entry point
group `understudy.student`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import entry_points

from understudy.distill_loop import components
from understudy.distill_loop.base import Base
from understudy.distill_loop.recipe import StudentRecipe
from understudy.distill_loop.static import static
from understudy.distill_loop.student import StudentModel, cut_student
from understudy.types.config import nearest_key
from understudy.types.errors import ConfigError

Builder = Callable[[StudentRecipe, Base, Iterable[str]], StudentModel]
GROUP = "understudy.student"

BUILDERS: dict[str, Builder] = {
    "slim": cut_student,
    "pruned": components.pruned,
    "shared": components.shared,
    "moe": components.mixture_of_experts,
    "mod": components.mixture_of_depths,
    "lora": components.lora,
    "prompt": components.prompt,
    "static": static,
}


def build_student(recipe: StudentRecipe, base: Base, texts: Iterable[str]) -> StudentModel:
    """Builds the student a recipe asks for.

    Raises:
        ConfigError: If there is no such component.
    """
    return find_builder(recipe.use)(recipe, base, texts)


def find_builder(name: str) -> Builder:
    """Our own component of that name, else a plug-in's.

    Raises:
        ConfigError: If there is neither.
    """
    if name in BUILDERS:
        return BUILDERS[name]
    plugins = {point.name: point for point in entry_points(group=GROUP)}
    if name in plugins:
        builder: Builder = plugins[name].load()
        return builder
    known = sorted({*BUILDERS, *plugins})
    raise ConfigError(f"there is no student '{name}'.{nearest_key(name, known)}")

"""Which component builds the student: ours by name, others by entry point.

A plug-in is a callable `(StudentRecipe, Base, texts) -> StudentModel` registered in the entry point
group `understudy.student`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from understudy.distill_loop import components
from understudy.distill_loop.base import Base
from understudy.distill_loop.gradual import gradual
from understudy.distill_loop.plugins import find_plugin
from understudy.distill_loop.recipe import StudentRecipe
from understudy.distill_loop.static import static
from understudy.distill_loop.student import StudentModel, cut_student

Builder = Callable[[StudentRecipe, Base, Iterable[str]], StudentModel]

BUILDERS: dict[str, Builder] = {
    "slim": cut_student,
    "pruned": components.pruned,
    "gradual": gradual,
    "shared": components.shared,
    "moe": components.mixture_of_experts,
    "mod": components.mixture_of_depths,
    "early_exit": components.early_exit,
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
    builder: Builder = find_plugin("student", name, BUILDERS)
    return builder

"""kdlab: dynamic knowledge distillation of pre-trained language models.

The public names below are imported when they are first used, so that `import kdlab` loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdlab.callbacks.adopt import Adopt as Adopt
    from kdlab.callbacks.select import Select as Select
    from kdlab.callbacks.weigh import Weigh as Weigh
    from kdlab.data.datamodules import CorpusDataModule as CorpusDataModule
    from kdlab.data.datamodules import GLUEDataModule as GLUEDataModule
    from kdlab.methods import adoption as adoption
    from kdlab.methods.knowledge import weighing as weighing
    from kdlab.methods.selection import policies as policies
    from kdlab.methods.selection import rewards as rewards
    from kdlab.methods.selection import strategies as strategies
    from kdlab.modules.assistant import AssistantModule as AssistantModule
    from kdlab.modules.student import StudentModule as StudentModule
    from kdlab.modules.teacher import TeacherModule as TeacherModule

__version__ = "0.1.0"

# public name: the module that has it, or that it is
_PUBLIC = {
    "Adopt": "kdlab.callbacks.adopt",
    "AssistantModule": "kdlab.modules.assistant",
    "CorpusDataModule": "kdlab.data.datamodules",
    "GLUEDataModule": "kdlab.data.datamodules",
    "Select": "kdlab.callbacks.select",
    "StudentModule": "kdlab.modules.student",
    "TeacherModule": "kdlab.modules.teacher",
    "Weigh": "kdlab.callbacks.weigh",
    "adoption": "kdlab.methods",
    "policies": "kdlab.methods.selection",
    "rewards": "kdlab.methods.selection",
    "strategies": "kdlab.methods.selection",
    "weighing": "kdlab.methods.knowledge",
}
__all__ = [*sorted(_PUBLIC), "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'kdlab' has no attribute {name!r}")
    module = _PUBLIC[name]
    return import_module(f"{module}.{name}") if name.islower() else getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted(__all__)

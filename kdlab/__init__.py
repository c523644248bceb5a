"""kdlab: dynamic knowledge distillation of pre-trained language models.

The public names below are imported when they are first used, so that `import kdlab` loads no torch.
"""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdlab.api.distill import distill as distill
    from kdlab.api.result import Result as Result
    from kdlab.api.selector import Selector as Selector
    from kdlab.api.task_data import task_data as task_data
    from kdlab.callbacks.adopt import Adopt as Adopt
    from kdlab.callbacks.observer import LossObserver as LossObserver
    from kdlab.callbacks.select import Select as Select
    from kdlab.callbacks.selectable import SelectableModule as SelectableModule
    from kdlab.callbacks.selectable import take_rows as take_rows
    from kdlab.callbacks.weigh import Weigh as Weigh
    from kdlab.data.causal.datamodule import CausalDataModule as CausalDataModule
    from kdlab.data.datamodules import CorpusDataModule as CorpusDataModule
    from kdlab.data.datamodules import GLUEDataModule as GLUEDataModule
    from kdlab.errors import UserError as UserError
    from kdlab.methods import adoption as adoption
    from kdlab.methods.knowledge import terms as terms
    from kdlab.methods.knowledge import weighing as weighing
    from kdlab.methods.selection import policies as policies
    from kdlab.methods.selection import rewards as rewards
    from kdlab.methods.selection import strategies as strategies
    from kdlab.methods.selection.arm_selector import ArmSelector as ArmSelector
    from kdlab.models.encoder import Encoder as Encoder
    from kdlab.models.student import student_from as student_from
    from kdlab.modules.assistant import AssistantModule as AssistantModule
    from kdlab.modules.evaluation import TaskScore as TaskScore
    from kdlab.modules.objective import WeightedTerm as WeightedTerm
    from kdlab.modules.optimizer import OptimizerSettings as OptimizerSettings
    from kdlab.modules.student import StudentModule as StudentModule
    from kdlab.modules.teacher import TeacherModule as TeacherModule
    from kdlab.teachers.teacher import Teacher as Teacher
    from kdlab.types import Batch as Batch
    from kdlab.types import Evidence as Evidence

__version__ = "0.1.0"

# public name: its module and the name in it, or the module that it is
_PUBLIC = {
    "Adopt": "kdlab.callbacks.adopt:Adopt",
    "ArmSelector": "kdlab.methods.selection.arm_selector:ArmSelector",
    "AssistantModule": "kdlab.modules.assistant:AssistantModule",
    "Batch": "kdlab.types:Batch",
    "CausalDataModule": "kdlab.data.causal.datamodule:CausalDataModule",
    "CorpusDataModule": "kdlab.data.datamodules:CorpusDataModule",
    "Encoder": "kdlab.models.encoder:Encoder",
    "Evidence": "kdlab.types:Evidence",
    "GLUEDataModule": "kdlab.data.datamodules:GLUEDataModule",
    "LossObserver": "kdlab.callbacks.observer:LossObserver",
    "OptimizerSettings": "kdlab.modules.optimizer:OptimizerSettings",
    "Result": "kdlab.api.result:Result",
    "Select": "kdlab.callbacks.select:Select",
    "SelectableModule": "kdlab.callbacks.selectable:SelectableModule",
    "Selector": "kdlab.api.selector:Selector",
    "StudentModule": "kdlab.modules.student:StudentModule",
    "TaskScore": "kdlab.modules.evaluation:TaskScore",
    "Teacher": "kdlab.teachers.teacher:Teacher",
    "TeacherModule": "kdlab.modules.teacher:TeacherModule",
    "UserError": "kdlab.errors:UserError",
    "Weigh": "kdlab.callbacks.weigh:Weigh",
    "WeightedTerm": "kdlab.modules.objective:WeightedTerm",
    "adoption": "kdlab.methods.adoption",
    "distill": "kdlab.api.distill:distill",
    "policies": "kdlab.methods.selection.policies",
    "rewards": "kdlab.methods.selection.rewards",
    "strategies": "kdlab.methods.selection.strategies",
    "student_from": "kdlab.models.student:student_from",
    "take_rows": "kdlab.callbacks.selectable:take_rows",
    "task_data": "kdlab.api.task_data:task_data",
    "terms": "kdlab.methods.knowledge.terms",
    "weighing": "kdlab.methods.knowledge.weighing",
}
__all__ = [*sorted(_PUBLIC), "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'kdlab' has no attribute {name!r}")
    return pkgutil.resolve_name(_PUBLIC[name])


def __dir__() -> list[str]:
    return sorted(__all__)

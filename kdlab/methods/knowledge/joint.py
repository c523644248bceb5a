"""Knowledge terms of several teachers at once: DFA and CFL.

`joined_soft_loss`, (U,), reads the logits of all teachers side by side; it is the term on logits of both methods.
`FeatureAlignment` (DFA) and `CommonFeatures` (CFL), (k,), have learnt projections and read the row feature of the
student and of every teacher, the [CLS] state (token 0) of the last layer, so teachers may have different classes and
widths. Projections are trained with the student and are not saved with it.
Everything is computed in float32; the teachers' features are taken detached.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlab.methods.knowledge import logits
from kdlab.methods.knowledge.mixture import PartialLogits, joined
from kdlab.methods.marks import needs
from kdlab.ranges import Positive, Temperature, Width, checked
from kdlab.runtime.seeding import generator
from kdlab.types import Outputs


@needs("logits", joint=True)
def joined_soft_loss(student: Outputs, teachers: Sequence[Outputs], temperature: Temperature = 1.0) -> Tensor:
    """temperature^2 * KL(softmax(t / temperature) || softmax(s / temperature)), (U,), t the teachers' logits side by
    side.

    One softmax over all classes of the student, where UHC takes one over each teacher's: the "logits combination" that
    DeKD (section 4.2) names for CFL (Luo et al. 2019), and the joined scores of DFA (Shen et al. 2019). Both papers match
    scores of vision models; the divergence is that of MUKI's public code for the two baselines. Regression (one output):
    squared distance to the mean of the teachers.
    """
    assert student.logits is not None
    parts = [PartialLogits(t.logits, t.classes) for t in teachers if t.logits is not None]
    return logits.soft_loss(student, Outputs(logits=joined(parts, *student.logits.shape)), temperature)


@needs("hidden", joint=True)
class FeatureAlignment(nn.Module):
    """DFA: mean squared error between the student's feature, projected by one learnt map a teacher, and the teacher's.

    The mean over teachers of the mean squared error over the teacher's width. A baseline of DeKD, which cites Shen et
    al. 2019 for it; their method for vision models first compresses the teachers' joined features and aligns those
    layer by layer, ours aligns the last layer's with each teacher.
    """

    def __init__(self) -> None:
        super().__init__()
        self.projections = nn.ModuleList()

    def build(self, student_width: int, teacher_widths: Sequence[int], seed: int) -> None:
        """Create the projections; equal seeds give equal weights."""
        rng = generator(seed, "feature alignment")
        self.projections = nn.ModuleList(_linear(student_width, width, rng) for width in teacher_widths)

    def forward(self, student: Outputs, teachers: Sequence[Outputs]) -> Tensor:
        own = _feature(student)
        with torch.autocast(own.device.type, enabled=False):
            pairs = zip(self.projections, teachers, strict=True)
            return torch.stack([_mse(projection(own), _feature(t).detach()) for projection, t in pairs]).mean(0)


@needs("hidden", joint=True)
class CommonFeatures(nn.Module):
    """CFL: the features of student and teachers, mapped by learnt projections into one common space and matched there.

    The mean over teachers of the squared distance between the unit common features of student and teacher, plus
    `reconstruction` times the mean over teachers of the mean squared error of the teacher's feature as it is read back
    from its common feature. Reading back keeps the space from collapsing to a point, and unit vectors keep it from
    shrinking to one. `width`: of the common space. UserError for a width below 1 or a reconstruction of 0 or less.

    Luo et al. 2019 (a baseline of DeKD) differ: they match distributions over the batch by the maximum mean
    discrepancy, where ours matches each row (a row's loss may not depend on the other rows of its batch); map through a
    non-linear extractor that student and teachers share, where our maps are linear; and add teachers, where ours takes
    means.
    """

    @checked
    def __init__(self, width: Width = 128, reconstruction: Positive = 1.0) -> None:
        super().__init__()
        self.width, self.reconstruction = width, reconstruction
        self.own = nn.ModuleList()  # one projection, once it is built
        self.theirs = nn.ModuleList()
        self.back = nn.ModuleList()

    def build(self, student_width: int, teacher_widths: Sequence[int], seed: int) -> None:
        """Create the projections into the common space and back; equal seeds give equal weights."""
        rng = generator(seed, "common features")
        self.own = nn.ModuleList([_linear(student_width, self.width, rng, bias=False)])
        self.theirs = nn.ModuleList(_linear(width, self.width, rng, bias=False) for width in teacher_widths)
        self.back = nn.ModuleList(_linear(self.width, width, rng) for width in teacher_widths)

    def forward(self, student: Outputs, teachers: Sequence[Outputs]) -> Tensor:
        own = _feature(student)
        with torch.autocast(own.device.type, enabled=False):
            projected = F.normalize(self.own[0](own), dim=-1)
            losses = []
            for into, back, outputs in zip(self.theirs, self.back, teachers, strict=True):
                feature = _feature(outputs).detach()
                common = into(feature)
                distance = (projected - F.normalize(common, dim=-1)).square().sum(-1)
                losses.append(distance + self.reconstruction * _mse(back(common), feature))
            return torch.stack(losses).mean(0)


def _feature(outputs: Outputs) -> Tensor:
    assert outputs.hidden is not None
    return outputs.hidden[:, 0].float()


def _mse(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().mean(-1)


def _linear(inputs: int, outputs: int, rng: torch.Generator, bias: bool = True) -> nn.Linear:
    """A linear map whose weights are PyTorch's default, drawn from `rng` and from no global generator."""
    linear = nn.Linear(inputs, outputs, bias=bias, device="meta").to_empty(device="cpu")
    bound = 1 / inputs**0.5
    for parameter in linear.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=rng)
    return linear

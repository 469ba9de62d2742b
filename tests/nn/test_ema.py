"""Teachers: a copy that no gradient reaches and that follows by the stated share."""

import torch
from torch import nn

from vitlet.nn.ema import ema_update, frozen_copy


def _net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_a_copy_is_equal_frozen_and_of_its_own() -> None:
    student = _net()
    teacher = frozen_copy(student)
    for theirs, ours in zip(teacher.parameters(), student.parameters(), strict=True):
        assert torch.equal(theirs, ours)
        assert not theirs.requires_grad
        assert ours.requires_grad
        assert theirs.data_ptr() != ours.data_ptr()


def test_the_teacher_moves_by_one_minus_the_momentum() -> None:
    student = _net()
    teacher = frozen_copy(student)
    before = [p.clone() for p in teacher.parameters()]
    with torch.no_grad():
        for p in student.parameters():
            p.add_(1.0)
    ema_update(teacher, student, momentum=0.75)
    for old, theirs in zip(before, teacher.parameters(), strict=True):
        torch.testing.assert_close(theirs.data, old + 0.25)
    ema_update(teacher, student, momentum=1.0)
    for old, theirs in zip(before, teacher.parameters(), strict=True):
        torch.testing.assert_close(theirs.data, old + 0.25)


def test_batch_statistics_are_not_averaged() -> None:
    student = _net()
    teacher = frozen_copy(student)
    student(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    before = {name: value.clone() for name, value in teacher.named_buffers()}
    ema_update(teacher, student, momentum=0.5)
    assert all(torch.equal(value, before[name]) for name, value in teacher.named_buffers())

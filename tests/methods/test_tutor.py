"""Fine-tuning with a supervised teacher: two heads, hard labels, a teacher that is in no file."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitlet.data.batch import Batch
from vitlet.errors import UsageError
from vitlet.methods.objective import Step
from vitlet.methods.supervised import Supervised
from vitlet.methods.tutor import Tutor
from vitlet.nn.encoder import Encoder
from vitlet.normalisation import Normalisation
from vitlet.recipe import EncoderConfig
from vitlet.recipes import by_name, with_overrides
from vitlet.weights.teacher import ClassifierTeacher

SMALL = EncoderConfig(image_size=16, patch_size=8, width=12, depth=2, heads=3, final_norm=False)
MEAN, STD = (0.2, 0.3, 0.4), (0.5, 0.6, 0.7)
STEP = Step(index=0, total=10, seed=0)


class _Brightest(nn.Module):
    """Names the channel with the largest mean, and keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(3)
        self.shown: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.shown.append(images)
        return self.bn(images).mean(dim=(2, 3))


def _supervised(*, alpha: float = 0.5, mixup: float = 0.0) -> tuple[Supervised, _Brightest]:
    network = _Brightest()
    teacher = ClassifierTeacher(network, 3, Normalisation(MEAN, STD), {"source": "a test"})
    tutor = Tutor(teacher, width=12, alpha=alpha, seed=1)
    return Supervised(Encoder(SMALL), num_classes=3, tutor=tutor, mixup=mixup), network


def _batch() -> Batch:
    images = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch((images,), torch.tensor([0, 1, 2, 1]), torch.arange(4), torch.arange(4))


def test_the_loss_is_the_naive_one() -> None:
    (supervised, _), batch = _supervised(alpha=0.3), _batch()
    encoded = supervised.encoder.encode(supervised.encoder.embed(batch.images))
    tutor = supervised.tutor
    assert tutor is not None
    first = supervised.classifier.head(supervised.classifier.fc_norm(encoded.tokens[:, 1:].mean(dim=1)))
    second = tutor.head_dist(tutor.dist_norm(encoded.tokens[:, 0]))
    means = (batch.images / 255).mean(dim=(2, 3))
    answers = ((means - torch.tensor(MEAN)) / torch.tensor(STD)).argmax(dim=1)
    expected = 0.7 * F.cross_entropy(first, batch.labels) + 0.3 * F.cross_entropy(second, answers)
    torch.testing.assert_close(supervised(batch, STEP).total, expected)
    torch.testing.assert_close(supervised.logits(batch.images), (first + second) / 2)
    torch.testing.assert_close(supervised.first_head(batch.images), first)


def test_the_teacher_sees_the_images_as_they_were_mixed() -> None:
    (supervised, network), batch = _supervised(mixup=0.8), _batch()
    supervised(batch, STEP)
    images, _, _ = supervised._prepare(batch, STEP)
    expected = (images / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    torch.testing.assert_close(network.shown[-1], expected)
    assert not torch.equal(images, batch.images.float())


def test_the_teacher_learns_nothing_and_is_in_no_file() -> None:
    supervised, network = _supervised()
    supervised.train()
    before = network.bn.running_mean.clone()
    supervised(_batch(), STEP).total.backward()
    assert torch.equal(network.bn.running_mean, before)
    assert all(p.grad is None for p in network.parameters())
    assert not [name for name in supervised.state_dict() if "teacher" in name or "bn" in name]
    assert supervised.provenance()["teacher"] == {"source": "a test"}


def test_the_papers_model_has_its_parameters() -> None:
    recipe = by_name("finetune_tiny_taught_300e")
    teacher = ClassifierTeacher(nn.Identity(), 1000, Normalisation(MEAN, STD), {})
    supervised = Supervised(Encoder(recipe.encoder), num_classes=1000, tutor=Tutor(teacher, width=192))
    assert sum(p.numel() for p in supervised.parameters()) == 5_910_800


def test_a_recipe_without_a_teacher_never_makes_one_up() -> None:
    recipe = by_name("finetune_tiny_taught_300e")
    with pytest.raises(UsageError, match=r"needs a teacher.*objective\.teacher"):
        recipe.objective.build(Encoder(SMALL), num_classes=3, seed=0)
    wrong = with_overrides(recipe, {"objective.teacher": "timm:resnet18@no/such/file"})
    with pytest.raises(UsageError, match="no file or folder no/such/file"):
        wrong.objective.build(Encoder(SMALL), num_classes=3, seed=0)


def test_the_class_token_cannot_have_two_heads() -> None:
    recipe, free = by_name("finetune_tiny_taught_300e"), {"encoder.final_norm": True, "objective.pool": "class"}
    with pytest.raises(UsageError, match=r"two heads on the class token.*objective\.teacher=null"):
        with_overrides(recipe, free)
    with_overrides(recipe, free | {"objective.teacher": None})

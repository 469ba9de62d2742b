"""Supervised training: labels, mixing in closed form, and independence from how a batch is cut."""

import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vitlet.data.batch import Batch
from vitlet.errors import DataError, UsageError
from vitlet.methods.objective import Step
from vitlet.methods.supervised import Supervised, paste_box, smooth_one_hot, swap_neighbours
from vitlet.nn.convnet import ConvEncoder
from vitlet.nn.encoder import Encoder
from vitlet.recipe import ConvNetConfig, EncoderConfig
from vitlet.recipes import by_name, with_overrides

SMALL = EncoderConfig(image_size=16, patch_size=8, width=12, depth=2, heads=3, final_norm=False)


def _batch(labels: list[int]) -> Batch:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(256, (len(labels), 3, 16, 16), dtype=torch.uint8, generator=draw)
    numbers = torch.arange(len(labels))
    return Batch((images,), torch.tensor(labels), numbers, numbers)


def _step(index: int = 0) -> Step:
    return Step(index=index, total=10, seed=0)


def _supervised(*, drop_path: float = 0.0, **options: float) -> Supervised:
    return Supervised(Encoder(SMALL.changed(drop_path=drop_path)), num_classes=3, **options)


def test_plain_loss_is_cross_entropy_and_the_statistic_is_accuracy() -> None:
    supervised, batch = _supervised(), _batch([0, 1, 2, 1])
    losses = supervised(batch, _step())
    logits = supervised.logits(batch.images)
    torch.testing.assert_close(losses.total, F.cross_entropy(logits, batch.labels))
    hits = (logits.argmax(dim=1) == batch.labels).float().mean()
    assert float(losses.statistics["train_top1"]) == float(hits)


def test_smoothing_spreads_its_share_over_all_classes() -> None:
    smooth = smooth_one_hot(torch.tensor([2, 0]), num_classes=4, smoothing=0.2)
    torch.testing.assert_close(smooth, torch.tensor([[0.05, 0.05, 0.85, 0.05], [0.85, 0.05, 0.05, 0.05]]))


def test_smoothed_loss_is_torchs() -> None:
    supervised, batch = _supervised(smoothing=0.1), _batch([0, 1, 2, 1])
    theirs = F.cross_entropy(supervised.logits(batch.images), batch.labels, label_smoothing=0.1)
    torch.testing.assert_close(supervised(batch, _step()).total, theirs)


def test_neighbours_change_places() -> None:
    assert swap_neighbours(torch.arange(6)).tolist() == [1, 0, 3, 2, 5, 4]


def test_mixup_is_the_same_convex_combination_of_images_and_labels() -> None:
    supervised, batch = _supervised(mixup=0.8), _batch([0, 1, 2, 1])
    targets = smooth_one_hot(batch.labels, num_classes=3, smoothing=0)
    images, mixed = supervised._mix(batch.images.float(), targets, _step())
    share = float(mixed[0, 0])
    assert 0 < share < 1
    partner = batch.images[[1, 0, 3, 2]].float()
    torch.testing.assert_close(images, share * batch.images.float() + (1 - share) * partner)
    torch.testing.assert_close(mixed, share * targets + (1 - share) * targets[[1, 0, 3, 2]])


def test_mixup_draws_from_beta() -> None:
    supervised, batch = _supervised(mixup=0.2), _batch([0, 1])
    targets = smooth_one_hot(batch.labels, num_classes=3, smoothing=0)
    images = batch.images[:, :, :2, :2].float()
    shares = torch.tensor([float(supervised._mix(images, targets, _step(i))[1][0, 0]) for i in range(1000)])
    # Beta(α, α) has mean 1/2 and variance 1/(4(2α + 1)).
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.07)
    assert float(shares.var()) == pytest.approx(1 / (4 * 1.4), abs=0.02)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_a_pasted_box_is_a_rectangle_and_the_share_is_what_remains(share: float) -> None:
    ours, theirs = torch.zeros(1, 3, 20, 30), torch.ones(1, 3, 20, 30)
    for seed in range(50):
        pasted, remains = paste_box(ours, theirs, share=share, draw=random.Random(seed))
        assert remains == pytest.approx(1 - float(pasted.mean()), abs=1e-6)
        assert remains >= share - 1e-6  # the frame cuts boxes off, it never adds
        rows, columns = (pasted[0, 0].amax(dim=d).nonzero().flatten() for d in (1, 0))
        if len(rows):
            box = pasted[0, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert bool(box.all())


def test_cutmix_gives_labels_the_share_of_the_pixels() -> None:
    supervised, batch = _supervised(cutmix=1.0), _batch([0, 1])
    targets = smooth_one_hot(batch.labels, num_classes=3, smoothing=0)
    black_and_white = torch.stack([torch.zeros(3, 16, 16), torch.ones(3, 16, 16)])
    for index in range(20):
        images, mixed = supervised._mix(black_and_white, targets, _step(index))
        assert float(mixed[0, 1]) == pytest.approx(float(images[0].mean()), abs=1e-6)
        assert float(mixed[1, 0]) == pytest.approx(1 - float(images[1].mean()), abs=1e-6)


def test_with_both_one_of_the_two_is_chosen_evenly() -> None:
    supervised, batch = _supervised(mixup=0.8, cutmix=1.0), _batch([0, 1])
    targets = smooth_one_hot(batch.labels, num_classes=3, smoothing=0)
    black_and_white = torch.stack([torch.zeros(3, 16, 16), torch.ones(3, 16, 16)])
    mixed = [supervised._mix(black_and_white, targets, _step(i))[0] for i in range(400)]
    blended = sum(bool(((x > 0) & (x < 1)).any()) for x in mixed)
    assert 160 < blended < 240


@pytest.mark.parametrize("options", [{}, {"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}])
def test_the_loss_does_not_depend_on_how_the_batch_is_cut(options: dict[str, float]) -> None:
    supervised, batch = _supervised(drop_path=0.5, smoothing=0.1, **options).double(), _batch([0, 1, 2, 1, 0, 0, 2, 1])
    supervised.encoder.double()
    for index in range(4):
        whole = supervised(batch, _step(index)).total
        for size in (4, 2):
            parts = torch.stack([supervised(part, _step(index)).total for part in batch.parts(size)])
            torch.testing.assert_close(parts.mean(), whole, rtol=1e-6, atol=0)


def test_one_class_and_odd_batches_to_mix_are_refused() -> None:
    with pytest.raises(DataError, match="at least two classes, the data has 1"):
        Supervised(Encoder(SMALL), num_classes=1)
    with pytest.raises(AssertionError, match="3 images, of which one has no neighbour"):
        _supervised(mixup=0.2)(_batch([0, 1, 2]), _step())


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_outside_the_classes_is_never_trained_on(label: int) -> None:
    with pytest.raises(RuntimeError, match="Class values must be"):
        _supervised()(_batch([0, label]), _step())


def test_stochastic_depth_is_off_in_evaluation() -> None:
    with_drop, without = _supervised(drop_path=0.9), _supervised()
    images: Tensor = _batch([0, 1]).images
    assert torch.equal(with_drop.logits(images), without.logits(images))


CONVNET = ConvNetConfig(architecture="test_efficientnet", image_size=32, output_stride=8)


def _coloured(count: int) -> Batch:
    """Classes that differ in their mean colour."""
    labels, draw = torch.arange(count) % 3, torch.Generator().manual_seed(0)
    noise = torch.randint(80, (count, 3, 32, 32), generator=draw)
    images = (noise + 150 * F.one_hot(labels, 3)[:, :, None, None]).to(torch.uint8)
    return Batch((images,), labels, torch.arange(count), torch.arange(count))


def test_a_convnet_learns_with_mixing_and_gradients_reach_all_of_it() -> None:
    supervised, batch = Supervised(ConvEncoder(CONVNET), num_classes=3, mixup=0.2, smoothing=0.1), _coloured(12)
    optimizer = torch.optim.AdamW(supervised.parameters(), lr=2e-3)
    losses = []
    for index in range(20):
        optimizer.zero_grad()
        loss = supervised(batch, _step(index)).total
        loss.backward()
        losses.append(float(loss.detach()))
        if index == 0:
            assert all(p.grad is not None and bool(p.grad.any()) for p in supervised.parameters())
        optimizer.step()
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    supervised.eval()
    with torch.no_grad():
        logits = supervised.logits(batch.images)
        torch.testing.assert_close(logits, supervised.classifier(supervised.encoder.pooled(batch.images, "mean")))
        torch.testing.assert_close(supervised.first_head(batch.images), logits)


def test_efficientnet_b0_with_its_head_is_the_papers() -> None:
    recipe = by_name("finetune_effb0_impr_300e")
    encoder = ConvEncoder(recipe.encoder)  # type: ignore[arg-type]
    supervised = recipe.objective.build(encoder, num_classes=1000, seed=0)  # type: ignore[arg-type]
    assert sum(p.numel() for p in supervised.parameters()) == 5_288_548


@pytest.mark.parametrize("change", [{"objective.pool": "class"}, {"objective.teacher": "there"}])
def test_a_head_on_the_class_token_of_a_convnet_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="is a ConvNet and has no class token"):
        with_overrides(by_name("finetune_micro_convnet"), change)


def test_layer_decay_of_a_convnet_is_refused() -> None:
    with pytest.raises(UsageError, match="layer decay has no effect on a ConvNet"):
        with_overrides(by_name("finetune_micro_convnet"), {"optimizer.layer_decay": 0.8})

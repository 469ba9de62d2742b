import math
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision.transforms as classic
from PIL import Image, ImageFilter, ImageOps
from scipy.stats import ks_2samp, kstest
from sklearn.datasets import load_sample_images
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from vitlet import rng
from vitlet.augmentation import Centre, Fit, Jitter, LargeScaleJitter, RandAugment, Resample, Shift, View
from vitlet.data.views import apply_view, random_box
from vitlet.normalisation import IMAGENET, Normalisation

EVERYTHING = View(
    size=32,
    crop=Resample(interpolation="random"),
    jitter=Jitter(),
    blur=0.5,
    grayscale=0.2,
    solarize=0.2,
    erase=0.25,
)
STILL = Centre(share=1.0)
"""The crop that does nothing to a square image of the right size."""


@pytest.fixture(scope="module")
def photo() -> Tensor:
    """A photograph, channels last in memory, as JPEGs are decoded."""
    return torch.from_numpy(load_sample_images().images[0].copy()).permute(2, 0, 1)


@pytest.fixture(scope="module")
def square(photo: Tensor) -> Tensor:
    return photo[:, 100:164, 200:264].contiguous()


def as_pil(image: Tensor) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))


def as_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def global_states() -> tuple:
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def from_the_global_generator(image: Tensor, view: View, *, key: int) -> Tensor:
    """The control: the usual classic transforms, which ignore the key."""
    return classic.RandomResizedCrop(view.size, antialias=True)(image)


def runs_differ(apply: Callable[..., Tensor], image: Tensor, view: View) -> bool:
    """Whether differently seeded global generators change the pixels of the same keys."""
    results = []
    for seed in (1, 2):
        seed_everything(seed)
        results.append([apply(image, view, key=key) for key in range(8)])
    return any(not torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(
    "view",
    [EVERYTHING, View(size=32, crop=Shift(), rand_augment=RandAugment(), erase=1.0)],
    ids=["moco", "finetune"],
)
def test_pixels_depend_on_the_key_and_on_no_global_generator(photo: Tensor, view: View) -> None:
    assert not runs_differ(apply_view, photo, view)
    assert runs_differ(from_the_global_generator, photo, view)
    before = global_states()
    assert not torch.equal(apply_view(photo, view, key=1), apply_view(photo, view, key=2))
    assert global_states() == before


@pytest.mark.parametrize("crop", [Resample(), Shift(), Centre(), STILL], ids=lambda crop: crop.kind)
@pytest.mark.parametrize("shape", [(64, 64), (40, 90), (8, 300), (300, 8), (1, 50), (50, 1), (1, 1)])
def test_any_image_becomes_a_square_and_stays_as_it_was(crop: Resample | Shift | Centre, shape: tuple) -> None:
    image = torch.randint(0, 256, (3, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = image.clone()
    view = View(size=64, crop=crop, flip=0.5, solarize=0.5, erase=0.9, blur=0.3)
    for key in range(6):
        result = apply_view(image, view, key=key)
        assert result.shape == (3, 64, 64)
        assert result.dtype == torch.uint8
    assert torch.equal(image, before)


class TestResample:
    @pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["planar", "channels last"])
    def test_equals_torchvision_and_stays_near_pillow(self, photo: Tensor, mode: str, layout: torch.memory_format):
        image = photo[None].contiguous(memory_format=layout)[0]
        crop = Resample(interpolation=mode)
        differences = []
        for key in range(20):
            ours = apply_view(image, View(size=96, crop=crop, flip=0.0), key=key)
            top, left, height, width = random_box(image.shape[1], image.shape[2], crop, random.Random(key))
            reference = tv.resized_crop(
                image, top, left, height, width, [96, 96], InterpolationMode(mode), antialias=True
            )
            assert torch.equal(ours, reference)
            part = as_pil(image).crop((left, top, left + width, top + height))
            pillow = as_tensor(part.resize((96, 96), Image.Resampling[mode.upper()]))
            differences.append((ours.int() - pillow.int()).abs().float().mean().item())
        assert max(differences) < 0.5
        assert sum(differences) / len(differences) < 0.1  # levels of 255; without antialiasing it is about 4

    def test_without_antialiasing_the_bound_would_fail(self, photo: Tensor) -> None:
        pillow = as_tensor(as_pil(photo).resize((96, 96), Image.Resampling.BICUBIC))
        plain = torch.nn.functional.interpolate(photo[None].float(), (96, 96), mode="bicubic")[0].clamp(0, 255)
        assert (plain - pillow.float()).abs().mean() > 1

    def test_channels_last_stays_channels_last(self, photo: Tensor) -> None:
        for key in range(4):
            assert apply_view(photo, View(size=64, crop=Resample()), key=key).permute(1, 2, 0).is_contiguous()

    def test_random_interpolation_is_one_or_the_other(self, photo: Tensor) -> None:
        seen = []
        for key in range(24):
            result = {
                mode: apply_view(photo, View(size=48, crop=Resample(interpolation=mode), flip=0.0), key=key)
                for mode in ("random", "bilinear", "bicubic")
            }
            seen += [m for m in ("bilinear", "bicubic") if torch.equal(result["random"], result[m])]
        assert len(seen) == 24
        assert 4 < seen.count("bilinear") < 20

    def test_boxes_are_distributed_as_torchvisions(self) -> None:
        crop, draw = Resample(scale=(0.2, 1.0)), random.Random(0)
        ours = [random_box(375, 500, crop, draw) for _ in range(2000)]
        blank = torch.empty(3, 375, 500)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            theirs = [classic.RandomResizedCrop.get_params(blank, crop.scale, crop.ratio) for _ in range(2000)]
        for value in (lambda b: b[2] * b[3], lambda b: b[3] / b[2], lambda b: b[0], lambda b: b[1]):
            assert ks_2samp([value(b) for b in ours], [value(b) for b in theirs]).pvalue > 1e-3
        shares = [b[2] * b[3] / (375 * 500) for b in ours]
        assert 0.198 < min(shares) < 0.21
        assert 0.95 < max(shares) <= 1.0
        narrower = [random_box(375, 500, Resample(scale=(0.08, 1.0)), draw) for _ in range(2000)]
        sizes = [[b[2] * b[3] for b in boxes] for boxes in (narrower, ours)]
        assert ks_2samp(*sizes).pvalue < 1e-3  # the control: another range is told apart

    @pytest.mark.parametrize(
        ("shape", "box"),
        [
            ((1, 1), (0, 0, 1, 1)),
            ((1, 400), (0, 200, 1, 1)),
            ((400, 1), (200, 0, 1, 1)),
            ((30, 400), (0, 180, 30, 40)),
            ((400, 30), (180, 0, 40, 30)),
        ],
    )
    def test_an_impossible_area_falls_back_to_the_centre(self, shape: tuple[int, int], box: tuple) -> None:
        top, left, height, width = random_box(*shape, Resample(scale=(1.0, 1.0)), random.Random(0))
        assert (height, width) == box[2:]
        assert abs(top - box[0]) <= 1
        assert abs(left - box[1]) <= 1


class TestShift:
    def test_is_a_window_of_the_mirrored_image_and_every_window_comes(self, square: Tensor) -> None:
        image = square[:, :32, :32]
        padded = torch.nn.functional.pad(image[None].float(), (2, 2, 2, 2), mode="reflect")[0].to(torch.uint8)
        windows = {(y, x): padded[:, y : y + 32, x : x + 32] for y in range(5) for x in range(5)}
        counts = dict.fromkeys(windows, 0)
        for key in range(500):
            result = apply_view(image, View(size=32, crop=Shift(padding=2), flip=0.0), key=key)
            (where,) = [at for at, window in windows.items() if torch.equal(window, result)]
            counts[where] += 1
        assert min(counts.values()) >= 6
        assert max(counts.values()) <= 40

    def test_another_size_is_resized_before(self, square: Tensor) -> None:
        digit = square[:, :28, :28]
        resized = tv.resize(digit, [32, 32], InterpolationMode.BICUBIC, antialias=True)
        view = View(size=32, crop=Shift())
        assert all(torch.equal(apply_view(digit, view, key=k), apply_view(resized, view, key=k)) for k in range(8))

    def test_padding_beyond_the_image_mirrors_again(self) -> None:
        image = torch.arange(8, dtype=torch.uint8).expand(3, 8, 8)
        for key in range(20):
            row = apply_view(image, View(size=8, crop=Shift(padding=64), flip=0.0), key=key)[0, 0].int()
            assert set(row.diff().abs().tolist()) == {1}


class TestCentre:
    @pytest.mark.parametrize("shape", [(375, 500), (500, 375), (100, 101), (28, 28), (20, 79), (79, 20)])
    @pytest.mark.parametrize("share", [0.875, 1.0])
    @pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
    def test_equals_torchvisions_evaluation_transform(self, photo: Tensor, shape: tuple, share: float, mode: str):
        image = tv.resize(photo, list(shape), antialias=True)
        view = View(size=64, crop=Centre(share=share, interpolation=mode), flip=0.0)
        resized = tv.resize(image, [round(64 / share)], InterpolationMode(mode), antialias=True)
        assert torch.equal(apply_view(image, view, key=0), tv.center_crop(resized, [64, 64]))

    def test_is_the_identity_at_the_right_size(self, square: Tensor) -> None:
        assert torch.equal(apply_view(square, View(size=64, crop=STILL, flip=0.0), key=0), square)

    def test_a_very_long_image_costs_no_more_than_its_middle(self) -> None:
        image = torch.zeros(3, 2, 2_000_000, dtype=torch.uint8)  # whole, at 256 rows, this would be 196 GB
        image[:, :, 1_000_000 - 4 : 1_000_000 + 4] = 200
        assert apply_view(image, View(size=224, crop=Centre(), flip=0.0), key=0).eq(200).all()


class TestColours:
    def test_operations_are_pillows_in_the_order_of_the_fields(self, square: Tensor) -> None:
        view = View(
            size=64, crop=STILL, jitter=Jitter(probability=0.8), blur=0.5, grayscale=0.3, flip=0.5, solarize=0.4
        )
        for key in range(60):
            ours = apply_view(square, view, key=key)
            naive = as_tensor(step_by_step(as_pil(square), view, random.Random(key)))
            assert torch.equal(ours, naive)

    def test_blur_before_or_after_solarise_is_not_the_same(self, square: Tensor) -> None:
        image, blur = as_pil(square), ImageFilter.GaussianBlur(1.0)
        first, last = ImageOps.solarize(image.filter(blur)), ImageOps.solarize(image).filter(blur)
        assert not torch.equal(as_tensor(first), as_tensor(last))

    def test_jitter_of_no_strength_is_the_identity(self, square: Tensor) -> None:
        still = Jitter(brightness=0, contrast=0, saturation=0, hue=0, probability=1)
        assert torch.equal(apply_view(square, View(size=64, crop=STILL, jitter=still, flip=0.0), key=3), square)

    def test_brightness_is_uniform_within_its_strength(self) -> None:
        grey = torch.full((3, 8, 8), 100, dtype=torch.uint8)
        jitter = Jitter(brightness=0.4, contrast=0, saturation=0, hue=0, probability=1)
        view = View(size=8, crop=STILL, jitter=jitter)
        levels = [apply_view(grey, view, key=key)[0, 0, 0].item() / 100 for key in range(600)]
        assert kstest(levels, "uniform", args=(0.6, 0.8)).pvalue > 1e-3

    @pytest.mark.parametrize("field", ["flip", "grayscale", "solarize", "blur", "erase"])
    def test_each_happens_as_often_as_it_says(self, square: Tensor, field: str) -> None:
        view = View(**{"size": 64, "crop": STILL, "flip": 0.0, field: 0.3})
        changed = sum(not torch.equal(apply_view(square, view, key=key), square) for key in range(400))
        assert abs(changed - 120) < 4 * math.sqrt(400 * 0.3 * 0.7)

    def test_jitter_happens_as_often_as_it_says(self, square: Tensor) -> None:
        view = View(size=64, crop=STILL, flip=0.0, jitter=Jitter(probability=0.8))
        changed = sum(not torch.equal(apply_view(square, view, key=key), square) for key in range(400))
        assert abs(changed - 320) < 4 * math.sqrt(400 * 0.8 * 0.2)


def step_by_step(image: Image.Image, view: View, draw: random.Random) -> Image.Image:
    """The naive version: Pillow and torchvision's public functions, with the draws that `apply_view` makes."""
    assert view.jitter is not None
    jitters, blurs, greys = (draw.random() < p for p in (view.jitter.probability, view.blur, view.grayscale))
    if jitters:
        for operation in draw.sample(range(4), 4):
            name = ("brightness", "contrast", "saturation", "hue")[operation]
            strength, middle = getattr(view.jitter, name), 0 if name == "hue" else 1
            factor = draw.uniform(middle - strength, middle + strength)
            if name != "hue" or abs(factor) >= 1 / 255:
                image = getattr(classic.functional, f"adjust_{name}")(image, factor)
    if blurs:
        image = image.filter(ImageFilter.GaussianBlur(draw.uniform(0.1, 2.0)))
    if greys:
        image = classic.functional.to_grayscale(image, num_output_channels=3)
    if draw.random() < view.flip:
        image = ImageOps.mirror(image)
    if draw.random() < view.solarize:
        image = ImageOps.solarize(image, threshold=128)
    return image


class TestRandAugment:
    def test_is_timms_with_deits_settings(self, square: Tensor) -> None:
        from timm.data.auto_augment import rand_augment_transform

        fill = tuple(min(255, round(255 * m)) for m in (0.485, 0.456, 0.406))
        settings = {"translate_const": int(64 * 0.45), "img_mean": fill, "interpolation": Image.Resampling.BICUBIC}
        theirs = rand_augment_transform("rand-m9-mstd0.5-inc1", settings)
        view = View(size=64, crop=STILL, rand_augment=RandAugment(), flip=0.0)
        for key in range(30):
            with rng.fenced(rng.derive(key, "rand_augment")):
                expected = as_tensor(theirs(as_pil(square)))
            assert torch.equal(apply_view(square, view, key=key), expected)

    def test_at_its_strongest_posterising_leaves_black(self, square: Tensor) -> None:
        """No bit is kept, which Pillow's own operation refuses: the control."""
        with pytest.raises(ValueError, match="bits"):
            ImageOps.posterize(as_pil(square), 0)
        rand_augment = RandAugment(magnitude=10, magnitude_std=0.0, num_operations=1)
        view = View(size=64, crop=STILL, rand_augment=rand_augment, flip=0.0)
        seen = [apply_view(square, view, key=key) for key in range(60)]
        assert any(not pixels.any() for pixels in seen)
        assert all(torch.equal(apply_view(square, view, key=key), pixels) for key, pixels in enumerate(seen[:5]))

    def test_jitter_beside_it_has_no_effect(self, square: Tensor) -> None:
        alone = View(size=64, crop=STILL, rand_augment=RandAugment())
        both = View(size=64, crop=STILL, rand_augment=RandAugment(), jitter=Jitter(probability=1.0))
        assert all(torch.equal(apply_view(square, alone, key=k), apply_view(square, both, key=k)) for k in range(20))

    def test_values_and_fill_are_used(self, square: Tensor) -> None:
        def results(*, mean: tuple[float, float, float] = (0.5, 0.5, 0.5), **values: float) -> list[Tensor]:
            view = View(size=64, crop=STILL, rand_augment=RandAugment(**values), flip=0.0)
            return [apply_view(square, view, key=key, normalisation=Normalisation(mean)) for key in range(20)]

        plain = results()
        for other in (results(magnitude=3), results(num_operations=4), results(mean=(0.0, 0.0, 0.0))):
            assert any(not torch.equal(a, b) for a, b in zip(plain, other, strict=True))


class TestFill:
    def test_it_is_the_mean_in_levels(self) -> None:
        assert IMAGENET.fill == (124, 116, 104)
        assert Normalisation((0.0, 0.5, 1.0)).fill == (0, 128, 255)
        assert Normalisation((-0.3, 1.2, 117.0)).fill == (0, 255, 255), "what is no colour becomes the nearest"

    @pytest.mark.parametrize("crop", [Fit(), LargeScaleJitter(scale=(0.5, 0.5))])
    def test_what_an_image_leaves_of_the_square(self, crop: Fit | LargeScaleJitter) -> None:
        white = torch.full((3, 20, 40), 255, dtype=torch.uint8)
        for mean in (IMAGENET.mean, (0.5, 0.5, 0.5), (-1.0, 0.0, 0.2)):
            normalisation = Normalisation(mean)
            seen = apply_view(white, View(size=32, crop=crop, flip=0.0), key=1, normalisation=normalisation)
            assert tuple(seen[:, -1, -1].tolist()) == normalisation.fill
            assert seen[:, 0, 0].eq(255).all()

    @pytest.mark.parametrize("crop", [Fit(), LargeScaleJitter(scale=(0.5, 0.5))])
    def test_a_mirrored_image_is_padded_on_the_side_where_any_other_is(self, crop: Fit | LargeScaleJitter) -> None:
        """The control is the other order, which pads first and turns the padding with the image."""
        portrait = torch.full((3, 40, 20), 255, dtype=torch.uint8)
        view = View(size=32, crop=crop, flip=1.0)
        seen = apply_view(portrait, view, key=1)
        assert seen[:, 0, 0].eq(255).all()
        assert tuple(seen[:, 0, -1].tolist()) == IMAGENET.fill
        turned = apply_view(portrait, view.changed(flip=0.0), key=1).flip(-1)
        assert tuple(turned[:, 0, 0].tolist()) == IMAGENET.fill


class TestErase:
    VIEW = View(size=64, crop=STILL, flip=0.0, erase=1.0)

    def test_noise_fills_one_rectangle_of_the_stated_shape(self) -> None:
        image = torch.zeros(3, 64, 64, dtype=torch.uint8)
        shares, aspects = [], []
        for key in range(300):
            changed = apply_view(image, self.VIEW, key=key).any(dim=0)
            rows, columns = changed.any(dim=1).nonzero().flatten(), changed.any(dim=0).nonzero().flatten()
            height, width = (int(side[-1] - side[0]) + 1 for side in (rows, columns))
            assert changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].float().mean() > 0.97
            shares.append(height * width / 64**2)
            aspects.append(math.log(height / width))
        assert 0.015 < min(shares) < 0.05
        assert 0.28 < max(shares) < 0.36
        assert kstest(shares, "uniform", args=(0.02, 1 / 3 - 0.02)).pvalue > 1e-3
        assert -1.35 < min(aspects) < -1
        assert 1 < max(aspects) < 1.35

    def test_noise_has_the_mean_and_spread_of_the_normalisation(self) -> None:
        image = torch.zeros(3, 64, 64, dtype=torch.uint8)
        values = Normalisation(mean=(0.4, 0.5, 0.6), std=(0.05, 0.1, 0.15))
        noise = torch.cat(
            [
                result[:, result.any(dim=0).bool()]
                for result in (apply_view(image, self.VIEW, key=key, normalisation=values) for key in range(40))
            ],
            dim=1,
        ).float()
        torch.testing.assert_close(noise.mean(dim=1) / 255, torch.tensor(values.mean), atol=0.005, rtol=0)
        torch.testing.assert_close(noise.std(dim=1) / 255, torch.tensor(values.std), atol=0.005, rtol=0)

"""SimMIM: masks come in units, the encoder sees a token in their place, the loss is the naive one."""

import pytest
import torch
from torch import Tensor

from vitlet.data.batch import Batch
from vitlet.errors import UsageError
from vitlet.methods.objective import Step
from vitlet.methods.simmim import SimMIM, mask_units
from vitlet.nn.encoder import Encoder, run_block
from vitlet.recipe import EncoderConfig
from vitlet.recipes import by_name

SMALL = EncoderConfig(image_size=32, patch_size=4, width=12, depth=2, heads=3)
STEP = Step(index=0, total=10, seed=0)


def _simmim(**options: float) -> SimMIM:
    return SimMIM(Encoder(SMALL), **{"unit_pixels": 8, **options})


def _batch(count: int = 3) -> Batch:
    images = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    numbers = torch.arange(count)
    return Batch((images,), torch.zeros(count, dtype=torch.long), numbers, numbers)


def _mask(simmim: SimMIM, batch: Batch) -> Tensor:
    noise, _ = simmim._prepare(batch, STEP)
    return mask_units(noise, masked=simmim.masked_units, unit_patches=simmim.unit_patches)


def test_the_loss_is_the_naive_one() -> None:
    simmim, batch = _simmim(), _batch()
    mask, encoder = _mask(simmim, batch), simmim.encoder
    mean, std = (torch.tensor(v)[:, None, None] for v in encoder.normalisation)
    scaled = (batch.images / 255 - mean) / std
    embedded = encoder.vit.patch_embed(scaled)
    tokens = torch.stack(
        [torch.where(m[:, None], simmim.mask_token[0], x) for m, x in zip(mask, embedded, strict=True)]
    )
    hidden = torch.cat([encoder.vit.cls_token.expand(3, -1, -1), tokens], dim=1) + encoder.vit.pos_embed
    for block in encoder.blocks:
        hidden = run_block(block, hidden)
    # The decoder's numbers are those of a patch, row by row and channel last: a pixel shuffle in another order.
    made = simmim.decoder(encoder.vit.norm(hidden)[:, 1:]).view(3, 8, 8, 4, 4, 3).permute(0, 5, 1, 3, 2, 4)
    error = (made.reshape(3, 3, 32, 32) - scaled).abs()
    masked = mask.view(3, 1, 8, 8).repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    torch.testing.assert_close(simmim(batch, STEP).total, (error * masked).sum() / masked.sum() / 3)


def test_a_pixel_that_is_masked_reaches_the_loss_as_a_target_only() -> None:
    simmim, batch = _simmim(), _batch(1)
    seen: list[Tensor] = []
    encode = simmim.encoder.encode
    simmim.encoder.encode = lambda patches, **options: (seen.append(patches), encode(patches, **options))[1]  # type: ignore
    simmim(batch, STEP)
    first = int(_mask(simmim, batch)[0].int().argmax())
    row, column = 4 * (first // 8), 4 * (first % 8)
    batch.images[0, :, row, column] = 255 - batch.images[0, :, row, column]
    simmim(batch, STEP)
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=0)
    visible = int((~_mask(simmim, batch)[0]).int().argmax())  # the control
    row, column = 4 * (visible // 8), 4 * (visible % 8)
    batch.images[0, :, row, column] = 255 - batch.images[0, :, row, column]
    simmim(batch, STEP)
    assert not torch.equal(seen[0], seen[2])


def test_masks_are_whole_units_of_the_papers_number() -> None:
    noise = torch.rand(50, 49, generator=torch.Generator().manual_seed(0))
    mask = mask_units(noise, masked=30, unit_patches=2)
    assert mask.shape == (50, 196)
    blocks = mask.view(50, 7, 2, 7, 2).sum(dim=(2, 4))
    assert blocks.unique().tolist() == [0, 4]
    assert (blocks > 0).sum(dim=(1, 2)).unique().tolist() == [30]
    assert float((blocks > 0).float().mean(dim=0).std()) < 0.12  # no unit is preferred


@pytest.mark.parametrize(("name", "units", "masked"), [("simmim_tiny", 49, 30), ("simmim_micro", 16, 10)])
def test_recipes_mask_sixty_per_cent_rounded_up(name: str, units: int, masked: int) -> None:
    recipe = by_name(name)
    encoder = Encoder(recipe.encoder.changed(depth=1))
    simmim = recipe.objective.build(encoder, num_classes=0, seed=0)
    assert isinstance(simmim, SimMIM)
    assert (simmim.num_units, simmim.masked_units) == (units, masked)


def test_an_image_has_its_mask_wherever_the_batch_is_cut() -> None:
    simmim, batch = _simmim(), _batch(4)
    halves = [_mask(simmim, part) for part in batch.parts(2)]
    torch.testing.assert_close(torch.cat(halves), _mask(simmim, batch))


def test_relative_positions_make_it_upstreams_block() -> None:
    simmim = SimMIM(Encoder(SMALL.changed(relative_position=True)), unit_pixels=8)
    simmim(_batch(), STEP).total.backward()
    table = simmim.encoder.blocks[0].attn.relative_position_bias_table
    assert table.grad is not None
    assert table.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unit_pixels": 6}, "unit_pixels 6 does not tile 32 px in patches of 4"),
        ({"unit_pixels": 12}, "unit_pixels 12 does not tile"),
        ({"mask_ratio": 0.95}, "masks 16 of 16 units"),
        ({"mask_ratio": 1e-12}, "masks 0 of 16 units"),
    ],
)
def test_units_that_do_not_fit_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _simmim(**options)

"""The pass: equal to asking for everything at once, bounded, and clear about what it cannot look at."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from forked import results_of_ranks
from vitlet.analysis.attention import distances, statistics
from vitlet.analysis.similarity import Similarity
from vitlet.analysis.spectrum import diagonal_basis, log_amplitudes
from vitlet.analysis.survey import CHUNK, Subject, Survey, cka_points, depth_points, pooled_features
from vitlet.data.batch import Batch
from vitlet.errors import DataError, NonFiniteError, UsageError
from vitlet.nn.encoder import Encoder
from vitlet.nn.heads import Classifier
from vitlet.recipe import EncoderConfig

CONFIG = EncoderConfig(image_size=16, patch_size=4, width=24, depth=2, heads=3)
OTHER = CONFIG.changed(width=36, depth=3, patch_size=8)


def images(n: int) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, 16, 16), generator=torch.Generator().manual_seed(n), dtype=torch.uint8)


def batches(pixels: torch.Tensor, *, size: int, first: int = 0) -> Iterator[Batch]:
    for i in range(0, len(pixels), size):
        part = pixels[i : i + size]
        positions = first + i + torch.arange(len(part))
        yield Batch((part.clone(),), positions % 3, positions, positions)


def surveyed(pixels: torch.Tensor, *, size: int = 12, **settings) -> Survey:
    survey = Survey([Subject("a", Encoder(CONFIG, seed=1)), Subject("b", Encoder(OTHER, seed=2))], **settings)
    survey.run(batches(pixels, size=size))
    return survey


def test_one_pass_gives_what_each_analysis_gives_alone() -> None:
    pixels = images(24)
    survey = surveyed(pixels)
    alone = Similarity(7)
    points: list[torch.Tensor] = []
    for k, (subject, looked) in enumerate(zip(survey.subjects, survey.looked, strict=True)):
        encoder, depth = subject.encoder, subject.encoder.config.depth
        names = [f"block.{i}.{p}" for i in range(depth) for p in ("norm1", "attention_logits", "output")]
        with torch.no_grad():
            found = encoder.encode(encoder.embed(pixels), trace=["embedded", *names])
        points += [found.traced[f"block.{i}.norm1"][:, 1:] for i in range(depth)] + [found.patches]
        grid = (encoder.config.grid, encoder.config.grid)
        for i, attention in enumerate(looked.attention):
            expected = statistics(found.traced[f"block.{i}.attention_logits"], distances(grid)).mean(1)
            assert torch.allclose(torch.stack(attention.result()), expected, atol=1e-5)
        stream = [found.traced["embedded"], *(found.traced[f"block.{i}.output"] for i in range(depth))]
        basis = diagonal_basis(grid)
        expected = torch.stack([log_amplitudes(x[:, 1:], basis).mean(0) for x in stream])
        assert torch.allclose(looked.spectrum.result()[::2], expected, atol=1e-5)
        before_positions = log_amplitudes(encoder.embed(pixels).detach(), basis).mean(0, keepdim=True)
        assert torch.allclose(looked.patches.result(), before_positions, atol=1e-5)
        assert torch.allclose(survey.features(k), torch.stack([x[:, 1:].mean(1) for x in stream], 1), atol=1e-5)
    for i in (0, 12):
        alone.update([p[i : i + 12] for p in points])
    assert torch.allclose(survey.similarity.result().cka, alone.result().cka, atol=1e-5)
    assert survey.labels.tolist() == [i % 3 for i in range(24)]


def test_the_order_of_batches_does_not_matter() -> None:
    pixels = images(32)
    whole = surveyed(pixels, size=8)
    other = Survey(whole.subjects)
    order = list(batches(pixels, size=8))
    other.run([order[3], order[0], order[2], order[1]])
    assert torch.allclose(other.similarity.result().cka, whole.similarity.result().cka, atol=1e-12)
    for a, b in zip(other.looked, whole.looked, strict=True):
        assert torch.allclose(a.spectrum.result(), b.spectrum.result(), atol=1e-12)
        assert torch.allclose(a.attention[0].sums, b.attention[0].sums, atol=1e-9)


def surveyed_part(first: int, last: int, *, reduce: bool = True) -> dict[str, torch.Tensor]:
    """Everything that is known after the images `first` … `last` of forty, in batches of eight."""
    subjects = [Subject("a", Encoder(CONFIG, seed=1)), Subject("b", Encoder(CONFIG, seed=2))]
    survey = Survey(subjects, pooled=30, first=first)
    survey.run(batches(images(40)[first:last], size=8, first=first))
    if reduce:
        survey.sum_over_ranks()
    found, looked = survey.similarity.result(), survey.looked[1]
    return {"cka": found.cka, "error": found.error, "attention": torch.stack(looked.attention[1].result()),
            "spectrum": looked.spectrum.result(), "features": survey.features(1), "labels": survey.labels,
            "counts": torch.tensor([survey.images, found.batches, looked.spectrum.images,
                                    looked.attention[0].images])}  # fmt: skip


def test_two_ranks_give_the_numbers_of_one(tmp_path: Path) -> None:
    """Two batches for one rank and three for the other; the thirty kept rows end within a batch of the second."""
    alone = surveyed_part(0, 40)
    assert alone["counts"].tolist() == [40, 5, 40, 40]
    assert alone["labels"].tolist() == [i % 3 for i in range(30)]
    for rank in results_of_ranks(lambda rank: surveyed_part(*((0, 16), (16, 40))[rank]), tmp_path):
        for name, value in alone.items():
            torch.testing.assert_close(rank[name], value, rtol=1e-6, atol=1e-6)
    part = surveyed_part(16, 40, reduce=False)
    assert not torch.allclose(part["cka"], alone["cka"], atol=1e-3), "half the batches would be told apart"


def test_pooled_features_end_at_the_limit_exactly() -> None:
    pixels = images(24)
    few, all_of_them = surveyed(pixels, pooled=17), surveyed(pixels)
    assert torch.equal(few.features(0), all_of_them.features(0)[:17])
    assert few.labels.tolist() == all_of_them.labels.tolist()[:17]
    assert all_of_them.features(0).shape[0] == few.images == 24


def test_memory_does_not_grow_with_the_images() -> None:
    def held(survey: Survey) -> int:
        tensors = [survey.similarity.sums, survey.labels]
        for looked in survey.looked:
            tensors += [looked.spectrum.sums, looked.pooled, *(a.sums for a in looked.attention)]
        return sum(t.numel() for t in tensors)

    alive: list[weakref.ref[torch.Tensor]] = []

    def watched() -> Iterator[Batch]:
        for batch in batches(images(96), size=8):
            gc.collect()
            assert sum(ref() is not None for ref in alive) <= 1, "an earlier batch is still held"
            alive.append(weakref.ref(batch.images))
            yield batch

    few = surveyed(images(16), size=8, pooled=16)
    many = Survey(few.subjects, pooled=16)
    gc.freeze()  # what other tests have imported and made need not be looked at each time
    try:
        many.run(watched())
    finally:
        gc.unfreeze()
    assert many.images == 96
    assert held(many) == held(few)


def test_chunks_are_smaller_than_the_batch() -> None:
    assert CHUNK < 12, "else no test cuts a batch"


@pytest.mark.parametrize(
    ("damage", "layer"),
    [("vit.blocks.1.attn.proj.weight", r"block\.1\.attention"), ("vit.blocks.0.norm1.weight", r"block\.0\.norm1"),
     ("vit.norm.weight", "norm"), ("vit.patch_embed.proj.bias", "embedded")],
)  # fmt: skip
def test_the_layer_and_the_file_of_nan_are_named(damage: str, layer: str) -> None:
    broken = Encoder(CONFIG, seed=1)
    with torch.no_grad():
        broken.get_parameter(damage).view(-1)[0] = float("nan")
    survey = Survey([Subject("fine", Encoder(CONFIG), source="runs/fine"), Subject("ill", broken, source="runs/ill")])
    with pytest.raises(
        NonFiniteError, match=rf"features of ill are NaN or infinite from layer {layer} on \(runs/ill\)"
    ):
        survey.run(batches(images(8), size=8))


def test_encoders_of_different_input_sizes_are_refused_before_any_image() -> None:
    small = Encoder(CONFIG.changed(image_size=8))
    with pytest.raises(UsageError, match="a: 16 px, b: 8 px"):
        Survey([Subject("a", Encoder(CONFIG)), Subject("b", small)])


def test_three_images_are_too_few() -> None:
    with pytest.raises(DataError, match="a batch of 3 images"):
        surveyed(images(3))


def test_without_a_final_norm_the_last_point_is_normalised() -> None:
    encoder = Encoder(CONFIG.changed(final_norm=False))
    encoded = encoder.encode(encoder.embed(images(4)))
    last = Subject("gap", encoder).last_norm(encoded)
    assert torch.allclose(last.mean(-1), torch.zeros(4, 16), atol=1e-5)
    trained = Classifier(24, num_classes=2, pool="mean", seed=0)
    with torch.no_grad():
        trained.fc_norm.bias.fill_(3.0)
    assert torch.allclose(Subject("head", encoder, classifier=trained).last_norm(encoded), last + 3, atol=1e-3)
    of_class = Classifier(24, num_classes=2, pool="class", seed=0)
    assert torch.equal(Subject("class", Encoder(CONFIG), classifier=of_class).last_norm(encoded), encoded.patches)


def test_points_are_the_papers() -> None:
    assert cka_points(Encoder(CONFIG)) == ["block.0.norm1", "block.1.norm1", "norm"]
    assert depth_points(Encoder(CONFIG)) == ["embedded", "block.0.output", "block.1.output"]


def test_pooled_features_are_those_of_the_survey() -> None:
    pixels = images(20)
    survey = surveyed(pixels, size=10)
    features, labels = pooled_features(survey.subjects[1].encoder, batches(pixels, size=7))
    assert torch.allclose(features, survey.features(1), atol=1e-5)
    assert labels.tolist() == survey.labels.tolist()

"""CKA: closed forms, invariances, independence, order, merging, and a naive version as oracle."""

import pytest
import torch
from torch_cka import CKA

from vitlet.analysis.similarity import Similarity, gram, hsic_table, require_same_size, u_centred
from vitlet.errors import DataError, UsageError


def features(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def cka(*layers: torch.Tensor, batch: int | None = None) -> torch.Tensor:
    found = Similarity(len(layers))
    batch = batch or len(layers[0])
    for start in range(0, len(layers[0]), batch):
        found.update([x[start : start + batch] for x in layers])
    return found.result().cka


def naive_hsic(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The estimator as the papers print it, by loops over indices."""
    n = len(x)
    k, m = (x.flatten(1) @ x.flatten(1).T), (y.flatten(1) @ y.flatten(1).T)
    k, m = k - torch.diag(k.diag()), m - torch.diag(m.diag())
    total = sum(k[i, j] * m[j, i] for i in range(n) for j in range(n))
    chain = sum(k[i, j] * m[j, q] for i in range(n) for j in range(n) for q in range(n))
    return (total + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * chain) / (n * (n - 3))


def test_hsic_is_the_printed_formula() -> None:
    x, y = features(7, 5), features(7, 3, seed=1)
    table = hsic_table([gram(x), gram(y)])
    expected = torch.stack([torch.stack([naive_hsic(a, b) for b in (x, y)]) for a in (x, y)])
    assert torch.allclose(table, expected, atol=1e-10)


def test_cka_over_batches_is_the_ratio_of_means() -> None:
    x, y = features(24, 4, 6), features(24, 10, seed=1)
    y = y + x.flatten(1)[:, :10]
    pairs = [(x[i : i + 8], y[i : i + 8]) for i in (0, 8, 16)]
    own_x, own_y, both = (
        torch.stack([naive_hsic(*(p[i] for i in which)) for p in pairs]).mean() for which in ((0, 0), (1, 1), (0, 1))
    )
    assert abs(cka(x, y, batch=8)[0, 1] - both / (own_x * own_y).sqrt()) < 1e-7
    ratios = torch.stack([naive_hsic(a, b) / (naive_hsic(a, a) * naive_hsic(b, b)).sqrt() for a, b in pairs])
    assert abs(ratios.mean() - both / (own_x * own_y).sqrt()) > 1e-4, "a mean of ratios would be told apart"


def test_two_directions_have_a_known_cka() -> None:
    """Features along one of two directions that agree or not: HSIC₁ in closed form by hand for four images."""
    x = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]], dtype=torch.float64)
    y = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]], dtype=torch.float64)
    # K: +1 within a pair, −1 across; tr(KK) = 12, 1ᵀK1 = −4, 1ᵀKK1 = 4; so HSIC₁(K, K) = (12 + 16/6 − 4)/4 = 8/3.
    # K and L agree only on the diagonal: tr(KL) = −4, 1ᵀKL1 = 4; so HSIC₁(K, L) = (−4 + 16/6 − 4)/4 = −4/3.
    table = hsic_table([gram(x), gram(y)])
    assert torch.allclose(table, torch.tensor([[8 / 3, -4 / 3], [-4 / 3, 8 / 3]], dtype=torch.float64), atol=1e-12)
    assert abs(cka(x, y)[0, 1] + 0.5) < 1e-12


def test_itself_is_one_rotated_scaled_and_shifted() -> None:
    x = features(16, 6, 4, dtype=torch.float32)
    rotation = torch.linalg.qr(features(24, 24, seed=3, dtype=torch.float32))[0]
    rotated = 7.5 * x.flatten(1) @ rotation + features(1, 24, seed=4, dtype=torch.float32)
    table = cka(x, rotated)
    assert torch.allclose(table, torch.ones(2, 2, dtype=torch.float64), atol=1e-6)
    stretched = x.flatten(1) * torch.linspace(0.1, 3, 24)
    assert cka(x, stretched)[0, 1] < 0.999, "a stretch along axes is not an isotropic scale"


def test_what_all_images_share_costs_no_digits() -> None:
    x = features(32, 50, dtype=torch.float32)
    y = x[:, :25] + 0.1 * features(32, 25, seed=1, dtype=torch.float32)
    exact = cka(x.double(), y.double())[0, 1]
    common = 300.0
    assert abs(cka(x + common, y + common)[0, 1] - exact) < 1e-4
    raw = [(v + common) @ (v + common).T for v in (x, y)]
    plain = hsic_table(raw)
    assert abs(plain[0, 1] / (plain[0, 0] * plain[1, 1]).sqrt() - exact) > 1e-3, "uncentred Grams would"


def test_independent_features_are_zero_within_the_error() -> None:
    found = Similarity(2)
    for batch in range(40):
        found.update([features(16, 8, seed=2 * batch), features(16, 30, seed=2 * batch + 1)])
    result = found.result()
    assert abs(result.cka[0, 1]) < 3 * result.error[0, 1]
    assert 0.002 < result.error[0, 1] < 0.1
    assert result.error.diagonal().max() < 1e-6


def test_the_error_is_the_spread_of_repetitions() -> None:
    values, errors = [], []
    for repetition in range(60):
        found = Similarity(2)
        for batch in range(10):
            common = features(8, 5, seed=1000 * repetition + batch)
            noise = [features(8, 5, seed=1000 * repetition + batch + 100 * k) for k in (1, 2)]
            found.update([common + n for n in noise])
        values.append(found.result().cka[0, 1])
        errors.append(found.result().error[0, 1])
    spread = torch.stack(values).std()
    assert 0.75 < torch.stack(errors).mean() / spread < 1.25


def test_layers_of_any_width_and_models_of_any_depth() -> None:
    table = cka(features(8, 3, 2), features(8, 100, seed=1), features(8, 1, seed=2))
    assert table.shape == (3, 3)
    assert torch.allclose(table, table.T)


def test_the_order_of_batches_does_not_matter() -> None:
    x, y = features(64, 6), features(64, 9, seed=1)
    pieces = [[x[i : i + 8], y[i : i + 8]] for i in range(0, 64, 8)]
    whole, back = Similarity(2), Similarity(2)
    for piece in pieces:
        whole.update(piece)
    for piece in reversed(pieces):
        back.update(piece)
    assert back.result().batches == whole.result().batches == 8
    for key, within in (("cka", 1e-12), ("error", 1e-7)):
        assert torch.allclose(getattr(back.result(), key), getattr(whole.result(), key), rtol=0, atol=within)


def test_one_batch_has_no_error_and_constant_features_no_alignment() -> None:
    found = Similarity(2)
    found.update([features(6, 4), torch.ones(6, 4, dtype=torch.float64)])
    result = found.result()
    assert result.error.isnan().all()
    assert result.cka[1].isnan().all()
    assert abs(result.cka[0, 0] - 1) < 1e-12


@pytest.mark.parametrize("images", [1, 3])
def test_fewer_images_than_four_are_refused(images: int) -> None:
    with pytest.raises(DataError, match=f"a batch of {images} images"):
        Similarity(1).update([features(images, 5)])


def test_u_centring_makes_rows_sum_to_zero() -> None:
    centred = u_centred(gram(features(9, 4)))
    assert torch.allclose(centred.sum(dim=0), torch.zeros(9, dtype=torch.float64), atol=1e-10)
    assert not centred.diagonal().any()


def test_encoders_of_different_sizes_are_refused() -> None:
    require_same_size({"a": 32, "b": 32})
    with pytest.raises(UsageError, match="a: 32 px, b: 64 px"):
        require_same_size({"a": 32, "b": 64})


@pytest.mark.filterwarnings("ignore:Dataloader for Model 2:UserWarning")
def test_it_is_what_a_public_package_gives() -> None:
    """torch_cka runs both networks itself and hooks their layers; here their layers' outputs are handed over."""
    images = features(40, 12, dtype=torch.float32)
    draw = torch.Generator().manual_seed(1)
    nets = [torch.nn.Sequential(*(torch.nn.Linear(12, 12) for _ in range(depth))) for depth in (3, 2)]
    for parameter in (p for net in nets for p in net.parameters()):
        torch.nn.init.normal_(parameter, generator=draw)
    layers = [["0", "1", "2"], ["0", "1"]]
    theirs = CKA(nets[0], nets[1], "a", "b", model1_layers=layers[0], model2_layers=layers[1], device="cpu")
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images), batch_size=10)
    theirs.compare(loader)
    with torch.no_grad():
        outputs = [net[: i + 1](images) for net in nets for i in range(len(net))]
    ours = cka(*outputs, batch=10)[:3, 3:]
    assert torch.allclose(ours.float(), theirs.export()["CKA"], rtol=0, atol=1e-5)
    once = cka(*outputs, batch=40)[:3, 3:]
    assert not torch.allclose(ours, once, rtol=0, atol=1e-5), "the control: the mean over batches is part of it"

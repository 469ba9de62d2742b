"""The classifier: what it pools, and timm's names."""

import torch

from vitlet.nn.encoder import Encoded
from vitlet.nn.heads import Classifier


def _encoded() -> Encoded:
    return Encoded(tokens=torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0)))


def test_mean_pools_the_patches_without_the_class_token_and_class_takes_it_alone() -> None:
    encoded = _encoded()
    torch.testing.assert_close(encoded.pooled("mean"), encoded.tokens[:, 1:].mean(dim=1))
    assert torch.equal(encoded.pooled("class"), encoded.tokens[:, 0])


def test_the_mean_is_normalised_and_the_class_token_is_not() -> None:
    encoded = _encoded()
    mean = Classifier(8, num_classes=4, pool="mean", seed=1)
    token = Classifier(8, num_classes=4, pool="class", seed=1)
    normed = torch.nn.functional.layer_norm(encoded.patches.mean(dim=1), (8,), eps=1e-6)
    torch.testing.assert_close(mean(encoded), mean.head(normed))
    torch.testing.assert_close(token(encoded), token.head(encoded.class_token))


def test_tensors_have_timms_names_and_come_from_the_seed() -> None:
    one = Classifier(8, num_classes=4, pool="mean", seed=1)
    assert list(one.state_dict()) == ["fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"]
    assert list(Classifier(8, num_classes=4, pool="class", seed=1).state_dict()) == ["head.weight", "head.bias"]
    assert torch.equal(one.head.weight, Classifier(8, num_classes=4, pool="mean", seed=1).head.weight)
    assert not torch.equal(one.head.weight, Classifier(8, num_classes=4, pool="mean", seed=2).head.weight)

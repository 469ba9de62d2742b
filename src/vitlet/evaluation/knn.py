"""k-nearest-neighbour classification on frozen features: the cheapest honest test of what an encoder learned.

Source: weights exp(similarity / temperature) of Wu et al. 2018 (instance discrimination), with the usual settings
k = 20, T = 0.07; without a temperature every neighbour has one vote.
Differences: the search is exact and every tie is broken by rule, so that a result does not depend on how a device
sorts.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

_LOW_WORD = 0xFFFFFFFF


def knn_predict(
    train: Float[Tensor, "n D"],
    train_labels: Int[Tensor, "n"],
    test: Float[Tensor, "m D"],
    *,
    num_classes: int,
    k: int = 20,
    temperature: float | None = 0.07,
    chunk: int = 1024,
) -> Int[Tensor, "m"]:
    """Predict the class of each test row by a vote of its k nearest training rows in cosine similarity.

    Of equally similar training rows, the earlier is nearer. With equal votes, the smaller class number wins.

    Args:
        train: Features; their length does not matter.
        train_labels: Classes 0 … num_classes-1.
        test: Features of the same encoder.
        num_classes: Number of classes to vote on.
        k: Neighbours; if there are fewer training rows, all vote.
        temperature: For the weights exp(similarity / temperature); None gives equal votes.
        chunk: Rows of either set processed at once; scratch memory is about 24·chunk² bytes for any n and m.
    """
    assert len(train), "no training rows: the caller refuses that with a message"
    assert k > 0
    assert temperature is None or temperature > 0
    predicted = torch.empty(len(test), dtype=torch.int64)
    for start in range(0, len(test), chunk):
        similarity, rows = _nearest(train, test[start : start + chunk], k=k, chunk=chunk)
        weight = torch.ones_like(similarity)
        if temperature is not None:  # relative to the nearest, so that a small temperature does not overflow
            weight = ((similarity - similarity[:, :1]) / temperature).exp()
        votes = torch.zeros(len(rows), num_classes, dtype=torch.float64, device=test.device)
        votes.scatter_add_(1, train_labels[rows], weight)
        predicted[start : start + chunk] = votes.argmax(dim=1).cpu()  # documented: the first of equal maxima
    return predicted


def top1(predicted: Int[Tensor, "m"], labels: Int[Tensor, "m"]) -> float:
    """Share of equal entries, 0 … 1."""
    assert len(labels), "no test rows: the caller refuses that with a message"
    return (predicted == labels).double().mean().item()


def _nearest(
    train: Float[Tensor, "n D"], test: Float[Tensor, "b D"], *, k: int, chunk: int
) -> tuple[Float[Tensor, "b k"], Int[Tensor, "b k"]]:
    """Similarities (float64, descending) and row numbers of the nearest training rows, merged chunk by chunk."""
    queries = F.normalize(test.float(), dim=1)
    best = torch.empty(len(test), 0, dtype=torch.int64, device=test.device)
    for start in range(0, len(train), chunk):
        similarity = queries @ F.normalize(train[start : start + chunk].float(), dim=1).T
        candidates = torch.cat([best, _sort_key(similarity, first_row=start)], dim=1)
        best = candidates.topk(min(k, candidates.shape[1]), dim=1).values
    return _similarity(best).double(), _LOW_WORD - (best & _LOW_WORD)


def _sort_key(similarity: Float[Tensor, "b c"], *, first_row: int) -> Int[Tensor, "b c"]:
    """64-bit integers ordered by (similarity, earlier row), all distinct, so that no selection meets a tie.

    The upper word holds the float's bits, with the lower 31 flipped if the sign is set, so that they sort as integers
    like the floats; the lower word counts rows backwards. A top-k over it costs a quarter of a stable sort.
    """
    ordered = _flip_negative((similarity + 0.0).view(torch.int32))  # + 0.0 makes -0.0 the 0.0 it equals
    rows = torch.arange(first_row, first_row + similarity.shape[1], device=similarity.device)
    return (ordered.to(torch.int64) << 32) | (_LOW_WORD - rows)


def _similarity(key: Int[Tensor, "b k"]) -> Float[Tensor, "b k"]:
    return _flip_negative((key >> 32).to(torch.int32)).view(torch.float32)


def _flip_negative(bits: Int[Tensor, "b c"]) -> Int[Tensor, "b c"]:
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)

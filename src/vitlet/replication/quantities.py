"""Numbers that claims compare, read from the files of finished steps.

The layers for CKA are the embedding and the output of each block, D + 1 in total; attention has D blocks. The lower
and the higher third hold ⌈n/3⌉ of n each. The reference is the first subject of a look, the supervised model.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitlet.arrays import read_arrays
from vitlet.disk import read_json
from vitlet.replication.claim import Quantity


@dataclass(frozen=True)
class Looked:
    """The stored measurements of one look, by subject."""

    names: tuple[str, ...]
    cka: Mapping[str, np.ndarray]
    """[layer of the reference, layer of the subject]"""
    distance: Mapping[str, np.ndarray]
    """[block, head], in patches."""
    entropy: Mapping[str, np.ndarray]
    """[block, head], in nats."""
    spectrum: Mapping[str, np.ndarray]
    """Δ log amplitude of the embedding and of each block's output."""
    patches: Mapping[str, float]
    """Δ log amplitude of the embedded patches, before positions are added."""
    images: int

    @classmethod
    def read(cls, folder: Path, names: tuple[str, ...]) -> "Looked":
        """Read from `folder/analysis`; `names` are the subjects in the order in which they were given."""
        analysis = folder / "analysis"
        facts = read_json(analysis / "similarity.json")
        similarity, attention, spectrum = (
            read_arrays(analysis / f"{name}.npz", fix=f"delete the folder {folder.name} and give the command again")
            for name in ("similarity", "attention", "spectrum")
        )
        spans = [slice(model["start"], model["stop"]) for model in facts["models"]]
        return cls(
            names=names,
            cka={name: similarity["cka"][spans[0], span] for name, span in zip(names, spans, strict=True)},
            distance={name: attention[f"distance_patches.{k}"] for k, name in enumerate(names)},
            entropy={name: attention[f"entropy_nats.{k}"] for k, name in enumerate(names)},
            spectrum={name: spectrum[f"delta.{k}"][::2] for k, name in enumerate(names)},
            patches={name: float(spectrum[f"patch_delta.{k}"][0]) for k, name in enumerate(names)},
            images=int(facts["images"]),
        )

    def value(self, quantity: Quantity, subject: str) -> float:
        """Return one quantity of a subject."""
        if quantity.startswith("cka"):
            values = _same_depth(self.cka[subject])
            return float(_third(values, higher=quantity == "cka-higher").mean())
        distance, entropy = self.distance[subject], self.entropy[subject]
        match quantity:
            case "distance-lower" | "distance-higher":
                return float(_third(distance, higher=quantity == "distance-higher").mean())
            case "entropy-higher":
                return float(_third(entropy, higher=True).mean())
            case "head-spread-lower":
                return float(_third(distance, higher=False).std(axis=1).mean())
            case "distance-gap" | "entropy-gap":
                own, all_ = (distance, self.distance) if quantity == "distance-gap" else (entropy, self.entropy)
                return float(np.abs(own.mean(axis=1) - all_[self.names[0]].mean(axis=1)).mean())
            case "embedding-frequencies":
                return float(self.spectrum[subject][0])
            case "patch-frequencies":
                return self.patches[subject]
        raise AssertionError(quantity)


def _same_depth(cka: np.ndarray) -> np.ndarray:
    """CKA of each layer of the reference with the subject's layer at the same relative depth."""
    rows, columns = cka.shape
    place = np.rint(np.arange(rows) * (columns - 1) / (rows - 1)).astype(int)
    return cka[np.arange(rows), place]


def _third(values: np.ndarray, *, higher: bool) -> np.ndarray:
    num = math.ceil(len(values) / 3)
    return values[-num:] if higher else values[:num]

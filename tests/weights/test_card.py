"""The card: numbers, proof, and every licence on the way from random weights to the model."""

from typing import Any

import pytest

from vitlet.weights.card import OPENING, card, is_non_commercial, licence_chain, published
from vitlet.weights.kinds import NON_COMMERCIAL

OWN: dict[str, Any] = {"recipe": "mae_micro", "data_fingerprint": "ab12"}
IMPORTED = {"source": {"kind": "MAE", "file": "mae.pth"}, "licence": NON_COMMERCIAL}
TEACHER = {"source": "runs/large", "licence": "Apache-2.0"}


def written(facts: dict[str, Any], **more: Any) -> str:
    return card(title="A model", description="Small.", tags=("vitlet",), facts=facts, **more)


def test_from_random_weights_there_is_no_licence_to_carry() -> None:
    assert licence_chain(OWN | {"init": OWN | {"init": OWN}}) == []
    assert "no licence of other weights applies" in written(OWN)
    assert "license:" not in written(OWN)


def test_a_licence_is_found_however_many_trainings_ago_it_came_in() -> None:
    facts = OWN | {"init": OWN | {"teacher": TEACHER | {"init": IMPORTED}}}
    chain = licence_chain(facts)
    assert [link.licence for link in chain] == ["Apache-2.0", NON_COMMERCIAL]
    assert chain[1].what == "started from: taught by: started from: imported: MAE in mae.pth"
    text = written(facts)
    assert "license: cc-by-nc-4.0" in text
    assert "**Not for commercial use**" in text


@pytest.mark.parametrize(("licence", "forbids"), [(NON_COMMERCIAL, True), ("Apache-2.0", False), ("not known", False)])
def test_what_forbids_commercial_use(licence: str, forbids: bool) -> None:
    assert is_non_commercial(licence_chain({"teacher": TEACHER | {"licence": licence}})) is forbids


def test_the_numbers_stand_in_it() -> None:
    result = {"metric": "top1", "value": 0.9512, "n": 1000, "split": "test", "protocol": "knn | frozen"}
    proof = {
        "agreement": {
            "n": 256,
            "max_relative_error": 2e-6,
            "top1_of": "class",
            "top1_agreement": 1.0,
            "num_detections": None,
            "accuracy": {"exported": 0.9, "difference": -0.01, "n": 250},
        },
        "tolerance": {"top1_agreement": 0.999},
        "tolerance_fp32": {"top1_agreement": 0.999},
        "images": {"name": "photos", "split": "test"},
        "throughput": {"ratio": 1.5, "processor": "A CPU"},
    }
    text = written(OWN, results={"knn-mean": result}, proof=proof, target="onnx")
    assert "| top1 | 0.9512 | 1,000 test | knn \\| frozen |" in text
    for words in (
        "2.0e-06",
        "the same class for 100.0 % of the images (99.9 % needed)",
        "90.0 %, -1.0 points (250 labels)",
        "1.50 times",
        "photos",
    ):
        assert words in text
    assert "InferenceSession" in text
    lower = written(OWN, proof=proof | {"tolerance": {"top1_agreement": 0.95}})
    assert "100.0 % of the images (95 % needed with 8 bits, 99.9 % without)" in lower


def test_facts_name_no_folder_outside_however_many_trainings_ago() -> None:
    far = "../../home/alice_secret/client x"
    command = f"vitlet pretrain runs/a/recipe.json --data '{far}/photos' --out NEW"
    facts = OWN | {"command": command, "init": {"teacher": {"source": f"{far}/large", "init": {"command": command}}}}
    shown = published(facts)
    assert shown["command"] == "vitlet pretrain runs/a/recipe.json --data photos --out NEW"
    assert shown["init"]["teacher"] == {"source": "large", "init": {"command": shown["command"]}}
    for text in (repr(shown), written(facts)):
        assert "alice" not in text
        assert "client x" not in text
    assert "started from: taught by: large" in written(facts)


def test_openvino_is_opened_in_the_precision_of_the_proof() -> None:
    """The numbers are in tests/weights/test_formats.py; a processor without bf16 would not show the difference."""
    assert '"CPU", {"INFERENCE_PRECISION_HINT": "f32"})' in OPENING["openvino"]
    assert "bf16" in OPENING["openvino"]


def test_names_of_others_cannot_leave_their_place() -> None:
    text = written(OWN | {"note": "``` no fence"}, proof=None) + written(
        {"teacher": {"source": "<script>|\x1b[2J", "licence": "x"}}
    )
    assert text.count("```") == 8
    assert "<script>" not in text.split("## Licences")[2].split("## Provenance")[0]
    assert "\x1b" not in text

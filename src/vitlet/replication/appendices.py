"""The paper's appendices, as far as they are known; of some only the existence is known.

*Paper*: Wang et al. 2023. Most of their contents are recalled or unknown; see `vitlet.replication.tables` for the tags.
"""

from vitlet.replication.chains import DINO, DMAE, MAE, MOCOV3, SIMMIM, tuned
from vitlet.replication.steps import SETTING, Cell, Finetune, Needs, Pretrain, Published, Row, Table, Tag
from vitlet.replication.tables import detected


def _setting(title: str, printed: str, note: str = "", tag: Tag = "C") -> Row:
    return Row(title, (Cell("setting", Published(printed, tag, note), unmeasured=SETTING),))


APPENDIX_A1 = Table(
    "appendix-a1",
    "How MoCo-v3 is read out",
    "Fine-tuned MoCo-v3 with the mean of the patch tokens and with the class token, which is recalled [M?]. The "
    "appendix also has the improved recipe of fine-tuning: finetune_tiny_impr_300e, from the authors' code [C].",
    ("mean", "class token"),
    (
        Row(
            "MoCov3-Tiny",
            (
                Cell("mean", Published("76.8", "R"), Finetune(MOCOV3, "impr-moco")),
                Cell("class token", Published("73.7", "M?"), Finetune(MOCOV3, "impr-moco-class")),
            ),
        ),
    ),
)

_RATIOS = ("0.45", "0.55", "0.65", "0.75", "0.85")
APPENDIX_A2 = Table(
    "appendix-a2",
    "Mask ratio of MAE",
    "Recalled and unconfirmed [M?]: these ratios were tried and 0.75 is best; no points are known. The decoder is one "
    "block of width 96 in code and weights [X]; the appendix is recalled to say 192 [M?].",
    _RATIOS,
    (
        Row(
            "MAE-Tiny",
            tuple(Cell(r, None, tuned(MAE if r == "0.75" else Pretrain(f"mae-{r}"))) for r in _RATIOS),
        ),
    ),
    axis="share of patches masked",
)

APPENDIX_A3 = Table(
    "appendix-a3",
    "How MoCo-v3 is trained",
    "About its instability, the patch projection and the batch; what it says is not known. Shown are values of the "
    "authors' code, which recipe mocov3_tiny_400e has; no scores are known.",
    ("setting",),
    (_setting("images a batch", "1024"), _setting("patch projection", "trained, not frozen")),
    unit="",
)

_RATES, _LENGTHS = "learning rates", "epochs (of them warm-up)"


def _grid(title: str, rates: str, lengths: str) -> Row:
    pairs = ((_RATES, rates), (_LENGTHS, lengths))
    return Row(title, tuple(Cell(c, Published(v, "M+"), unmeasured=SETTING) for c, v in pairs))


APPENDIX_A4 = Table(
    "appendix-a4",
    "Settings of transfer",
    "The best of every combination with layer decay 1.0 and 0.75. The grid is recalled [M+]; confirmed is only what "
    "the authors' script has for CIFAR-100 [C]: learning rate 0.1, 50 epochs of which 10 warm up, layer decay 0.75.",
    (_RATES, _LENGTHS),
    (
        _grid("Flowers", "0.01, 0.03, 0.1", "150 (30), 250 (50)"),
        _grid("Pets", "0.01, 0.03, 0.1", "70 (14), 150 (30)"),
        _grid("Aircraft", "0.01, 0.03, 0.1", "50 (10), 100 (20)"),
        _grid("Cars", "0.01, 0.03, 0.1", "50 (10), 100 (20)"),
        _grid("CIFAR-100", "0.03, 0.1, 0.3", "25 (5), 50 (10)"),
        Row(
            "iNat18",
            (
                Cell(_RATES, Published("as fine-tuning on ImageNet", "M?"), unmeasured=SETTING),
                Cell(_LENGTHS, None, unmeasured=SETTING),
            ),
        ),
    ),
    unit="",
)

APPENDIX_A5 = Table(
    "appendix-a5",
    "Settings of detection",
    "The text names the set-up of Li et al. 2021 [T]; the released configurations, to which the published scores "
    "belong, are those of ViTDet [C]. Recipe detection_coco_100ep has these values.",
    ("setting",),
    (
        _setting("image size, pixels", "640"),
        _setting("epochs", "100"),
        _setting("weight decay", "0.05"),
        _setting("layer decay", "1.0", "which is none"),
        _setting("stochastic depth", "0"),
    ),
    unit="",
)

APPENDIX_A6 = Table(
    "appendix-a6",
    "Where CKA reads a layer",
    "On the methods of analysis. Known is where features are taken, as vitlet analyse takes them too.",
    ("setting",),
    (_setting("features of a block", "after its first LayerNorm, the patch embedding included", tag="I"),),
    unit="",
)

APPENDIX_B1 = Table(
    "appendix-b1",
    "Similarity to stronger supervised models",
    "Exists in the paper [T]; its models and numbers are not known.",
    ("CKA",),
    (Row("MAE-Tiny", (Cell("CKA", None, Needs("the names of the paper's reference models")),)),),
    unit="",
)


def _unread(name: str, guess: str) -> Table:
    """A placeholder for one of the appendices B.2 to B.4, none of whose numbers is known."""
    return Table(
        name,
        "Further analyses",
        "Recalled and unconfirmed [M?]: B.2 to B.4 hold further analyses, on other teachers, ViT-Small and attention "
        f"maps. By that order this one would be on {guess}.",
        ("contents",),
        (Row(guess, (Cell("contents", None, Needs("the paper's appendix, whose contents are not known")),)),),
        unit="",
    )


APPENDIX_B2 = _unread("appendix-b2", "other teachers")

APPENDIX_B3 = Table(
    "appendix-b3",
    "ViT-Small",
    "With 12 heads, impr. recipe, 300 epochs. The scores are the repository's [R]; that they stand in Appendix B.3 is "
    "a guess from a recalled order [M?].",
    ("impr.",),
    (
        Row("from scratch", (Cell("impr.", Published("80.2", "R"), Finetune(None, "scratch-small")),)),
        Row("MAE", (Cell("impr.", Published("82.1", "R"), Finetune(Pretrain("mae-small"), "impr-small")),)),
        Row(
            "D-MAE",
            (
                Cell(
                    "impr.",
                    Published("82.5", "R"),
                    Finetune(Pretrain("dmae-small", teacher=Pretrain("teacher")), "impr-small"),
                ),
            ),
        ),
    ),
)

APPENDIX_B4 = _unread("appendix-b4", "attention maps")

APPENDIX_B5 = Table(
    "appendix-b5",
    "DINO and SimMIM",
    "Named in the paper [T]; its settings and scores are not known.",
    ("impr.", "COCO box AP"),
    (
        Row(
            "DINO",
            (
                Cell("impr.", None, tuned(DINO)),
                Cell("COCO box AP", None, detected(DINO), "bbox"),
            ),
        ),
        Row(
            "SimMIM",
            (
                Cell("impr.", None, tuned(SIMMIM)),
                Cell("COCO box AP", None, detected(SIMMIM), "bbox"),
            ),
        ),
        Row("D-MAE, to compare with", (Cell("impr.", Published("78.4", "R"), Finetune(DMAE, "impr")),)),
    ),
)

APPENDICES = (
    APPENDIX_A1,
    APPENDIX_A2,
    APPENDIX_A3,
    APPENDIX_A4,
    APPENDIX_A5,
    APPENDIX_A6,
    APPENDIX_B1,
    APPENDIX_B2,
    APPENDIX_B3,
    APPENDIX_B4,
    APPENDIX_B5,
)

"""Every table, figure and appendix by name, and the groups that a user can ask for."""

from collections.abc import Sequence
from dataclasses import dataclass

from vitlet.errors import UsageError
from vitlet.replication.appendices import APPENDICES
from vitlet.replication.claim import Claim
from vitlet.replication.claims import CLAIMS
from vitlet.replication.figures import FIGURES
from vitlet.replication.steps import Item, Needs, Step, Table, steps_of
from vitlet.replication.tables import TABLES
from vitlet.text import did_you_mean, printable

ITEMS: dict[str, Item] = {item.name: item for item in (*TABLES, *FIGURES, *APPENDICES)}
CLAIMS_WORD, ALL_WORD = "claims", "all"
_BY_WORD = {f"claim-{claim.number}": claim for claim in CLAIMS}


@dataclass(frozen=True)
class Choice:
    """The requested items and claims, in the paper's order."""

    items: tuple[Item, ...]
    claims: tuple[Claim, ...]

    def stages(self, order: Sequence[Sequence[int]] = ()) -> list[list[Step]]:
        """Every step to measure: claims grouped as in `order`, then claims that it does not name, then tables."""
        named = {number for group in order for number in group}
        groups = [*order, [claim.number for claim in self.claims if claim.number not in named]]
        stages: list[list[Step]] = [
            [step for claim in self.claims if claim.number in group for step in claim.steps()] for group in groups
        ]
        stages.append([step for item in self.items for step in steps_of(item)])
        return [list(dict.fromkeys(stage)) for stage in stages if stage]

    def needs(self) -> list[str]:
        """What each cell without a step lacks, at every scale."""
        tables = (item for item in self.items if isinstance(item, Table))
        cells = (cell for table in tables for row in table.rows for cell in row.cells)
        return [f"needs {cell.step.what}" for cell in cells if isinstance(cell.step, Needs)]


def chosen(words: Sequence[str]) -> Choice:
    """Resolve words like `table-1`, `claim-7`, `claims` and `all`.

    Raises:
        UsageError: if there is no word, or an unknown one; names the nearest known word.
    """
    known = [*ITEMS, *_BY_WORD, CLAIMS_WORD, ALL_WORD]
    names = f"{', '.join(ITEMS)}, claim-1 to claim-{len(CLAIMS)}, {CLAIMS_WORD} or {ALL_WORD}"
    if not words:
        raise UsageError("nothing to reproduce", fix=f"name {names}")
    for word in words:
        if word not in known:
            raise UsageError(f"nothing called {printable(word)}", why=did_you_mean(word, known), fix=f"name {names}")
    everything = ALL_WORD in words
    return Choice(
        tuple(item for name, item in ITEMS.items() if everything or name in words),
        tuple(c for word, c in _BY_WORD.items() if everything or CLAIMS_WORD in words or word in words),
    )

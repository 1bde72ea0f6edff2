"""Rules of transactions, each left out; see `mutants`.

`python -m tests.sim.mutants_transactions` says which seeds notice them.
"""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from kalamdb.decide import transaction
from kalamdb.decide.rows import RowWriter
from kalamdb.model.codec import row_seq
from kalamdb.model.work import WrittenTable
from kalamdb.replica.transaction import ReplicaTransaction
from tests.sim import mutants
from tests.sim.first_seeds import FIRST_SEED
from tests.sim.mutants import mutant

FIRST_SEED.update(
    {
        "lets_the_last_committer_win": 0,
        "keeps_half": 0,
    }
)


@mutant
def lets_the_last_committer_win() -> list[Any]:
    """COMMIT compares each row with what the snapshot showed."""
    compare = transaction._compare

    def believe(writer: RowWriter, written: WrittenTable) -> Any:
        rows = []
        for key, _, after in written.rows:
            raw = writer.draft.get(writer.chain.row + key)
            live = raw is not None and writer.is_live(raw)
            rows.append((key, row_seq(raw) if raw is not None and live else 0, after))
        return compare(writer, WrittenTable(written.table, rows))

    return [patch.object(transaction, "_compare", believe)]


@mutant
def keeps_half() -> list[Any]:
    """A transaction is one command: all of its rows, or none."""
    net = ReplicaTransaction._net

    def half(self: ReplicaTransaction) -> list[WrittenTable]:
        return [WrittenTable(each.table, each.rows[:-1]) for each in net(self)]

    return [patch.object(ReplicaTransaction, "_net", half)]


if __name__ == "__main__":
    for name in (each for each in mutants.MUTANTS if each in FIRST_SEED):
        if mutants.MUTANTS[name].__module__ == __name__:
            found = next((seed for seed in range(20) if mutants.caught(name, seed)), None)
            print(f'        "{name}": {found},', flush=True)

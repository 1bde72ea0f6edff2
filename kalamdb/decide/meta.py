"""The decisions of group 0, each by what is asked for."""

from __future__ import annotations

from typing import assert_never

from kalamdb.decide import audit, moves, nodes, schema, users, views
from kalamdb.decide.draft import Draft
from kalamdb.errors import Conflict
from kalamdb.model import work
from kalamdb.model.catalog import CatalogView
from kalamdb.model.command import Outcome
from kalamdb.store.kv import KeyReader

# What frees room, and the few bytes that say who did it.
NEEDS_NO_ROOM = (
    work.ActivateTable,  # the fences stand already
    work.DropTable,
    work.DropViews,
    work.DropNamespace,
    work.DropUser,
    work.PutNode,  # a full disk is mended by another node
    work.ActivateNode,
    work.DrainNode,
    work.RemoveNode,
    work.PutMembers,
    work.PutReplication,
    work.FinishMove,
    work.AbortMove,
    work.EndMove,
    work.PutAudit,
    work.TrimAudit,
)


def decide_meta(
    draft: Draft, asked: work.MetaWork, view: CatalogView, *, reader: KeyReader
) -> Outcome:
    """`view` is the catalog as decided so far. Raises what the decision refuses."""
    match asked:
        case work.CreateNamespace():
            return schema.create_namespace(draft, asked, view)
        case work.DropNamespace():
            return schema.drop_namespace(draft, asked, view)
        case work.DefineTable():
            return schema.define_table(draft, asked, view)
        case work.ActivateTable():
            return schema.activate_table(draft, asked, view)
        case work.PutView():
            return views.put_view(draft, asked, view)
        case work.DropViews():
            return views.drop_views(draft, asked, view)
        case work.PutNamespace():
            return schema.put_namespace(draft, asked, view)
        case work.RecallRequest():
            raise Conflict("this request was not carried out before")
        case work.DropTable():
            return schema.drop_table(draft, asked, view)
        case work.PutPlacement():
            return schema.put_placement(draft, asked, view)
        case (
            work.PutNode()
            | work.ActivateNode()
            | work.DrainNode()
            | work.RemoveNode()
            | work.PutMembers()
            | work.PutReplication()
        ):
            return nodes.decide_nodes(draft, asked, view)
        case work.BeginMove() | work.FinishMove() | work.AbortMove() | work.EndMove():
            return moves.decide_move(draft, asked, view)
        case work.PutUser():
            return users.put_user(draft, asked, view)
        case work.DropUser():
            return users.drop_user(draft, asked, view)
        case work.PutAudit():
            return audit.put_audit(draft, asked)
        case work.TrimAudit():
            return audit.trim_audit(draft, asked, reader=reader)
        case _:
            assert_never(asked)

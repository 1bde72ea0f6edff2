"""What an entry of the table of statements is, and texts for the placeholders of its forms."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Theme(Enum):
    """The chapters, in the page's order."""

    DATA = "Rows"
    TRANSACTION = "Transactions"
    TABLE = "Tables"
    INDEX = "Indexes"
    VIEW = "Views"
    NAMESPACE = "Namespaces"
    USER = "Users"
    SESSION = "For the rest of the request"
    LOOK = "Looking at definitions"
    ONGOING = "What goes on"
    CLUSTER = "The cluster"


@dataclass(frozen=True, slots=True)
class Entry:
    """`forms` in the notation of `forms.py`; `examples` are whole statements."""

    kind: type
    theme: Theme
    title: str
    forms: tuple[str, ...]
    does: str
    examples: tuple[str, ...]


SAMPLES = {
    "address": ("'node4:9189'",),
    "alias": ("o",),
    "assignment": ("item = 'tea'",),
    "change": ("ADD COLUMN note TEXT",),
    "column": ("item", "price"),
    "consistency": ("consistency",),
    "columns": ("item, price",),
    "condition": ("price > 1",),
    "constraint": ("CHECK (price > 0)",),
    "definition": ("item TEXT", "price INT"),
    "email": ("'ann@example.org'",),
    "group": ("2",),
    "id": ("'q-1'",),
    "identity": ("""'{"issuer": "https://id.example.org", "subject": "ann"}'""",),
    "index": ("by_item",),
    "key": ("COMPRESSION", "FLUSH_POLICY"),
    "label": ("dear",),
    "level": ("PUBLIC",),
    "linearizable": ("linearizable",),
    "list": ("item, price",),
    "mode": ("READ ONLY",),
    "name": ("price_positive",),
    "namespace": ("shop",),
    "node": ("4",),
    "number": ("5",),
    "option": ("TTL_SECONDS = 5", "ACCESS_LEVEL = 'public'"),
    "password": ("'a long one 55'",),
    "point": ("p",),
    "property": ("owner = 'ann'", "team = 'blue'"),
    "query": ("SELECT item, price FROM shop.orders",),
    "role": ("user",),
    "row": ("('tea', 2)",),
    "search_path": ("search_path",),
    "section": ("limits",),
    "setting": ("max_params",),
    "slot": ("7",),
    "stale": ("stale",),
    "statement": ("SELECT item FROM shop.orders",),
    "subscription": ("last_rows = 20", "batch_size = 5"),
    "table": ("shop.orders",),
    "text": ("'words'",),
    "type": ("BIGINT",),
    "user": ("'ann'",),
    "value": ("'tea'",),
    "view": ("shop.dear_orders",),
    "voters": ("3",),
}

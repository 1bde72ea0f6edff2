"""Reads of what other nodes hold: rows of the groups they lead, and what goes on there.

`RowsHost` answers for the replicas of this node, `GatheredReads` asks the others
(`kalamdb.ports.FarReads`); `ActivityHost` and `NodesActivity` do the same for what is under way.

Keeps: rows of a group come from one state of it, confirmed by a read index at its leader unless the
read is stale; nothing is collected whole on either side; a node that does not answer is an error,
or is named in the result.
"""

from cluster.gather.activity import ActivityHost, NodesActivity
from cluster.gather.reads import GatheredReads
from cluster.gather.rows_host import GatherLimits, RowsHost

__all__ = ["ActivityHost", "GatherLimits", "GatheredReads", "NodesActivity", "RowsHost"]

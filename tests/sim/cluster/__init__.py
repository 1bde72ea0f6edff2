"""A whole cluster in one thread: nodes, routers, links, moves; one seed is one run."""

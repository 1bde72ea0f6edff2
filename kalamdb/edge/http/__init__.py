"""The HTTP edge: routes, middleware and limits."""

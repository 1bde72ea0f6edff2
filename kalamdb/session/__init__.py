"""Who asks and what they may do: authentication, permissions, target, execution of a statement."""

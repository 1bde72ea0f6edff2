"""Time, dice, tasks, bounded queues and observation: the only places that own them."""

"""On the leader: the one synchronous place where writes are decided into effects.

Keeps: one writer (I1); no clock, dice or loop of its own (I13); an answer is given only when it is
certainly true (I5); a decision sees every earlier one, applied or not.
"""

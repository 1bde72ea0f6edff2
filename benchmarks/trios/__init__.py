"""The replicated systems that are compared: three members each, all on this machine.

A trio is started with an empty directory and keeps its addresses; members are killed and launched
one at a time, and what they have caught up with can be asked. Every trio stores a row number and a
text of about 100 characters, and acknowledges when a majority has it on disk.
"""

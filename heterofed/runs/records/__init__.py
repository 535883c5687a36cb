"""Records what a party receives and sends, encrypted, and replays its own side of a run from it.

A record is a folder of files. Each one begins with a checkpoint and has the messages up to the next
one, so a replay starts at the nearest checkpoint and needs no partner. Only the user who has the
keys in `$HETEROFED_HOME` can read a record, and it is deleted by its age.
"""

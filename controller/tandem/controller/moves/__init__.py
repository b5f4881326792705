"""Carrying out a move: claims, commands, reports, and the progress of one move. Pure; I/O is around it."""

"""Ways to move a chunk's payload: ``tcp`` inline in the stream, ``shm`` through the receiver's staging ring."""

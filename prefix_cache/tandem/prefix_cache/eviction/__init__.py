"""Which cached block to give up. Each policy orders the blocks that nothing else depends on; none touches bytes."""

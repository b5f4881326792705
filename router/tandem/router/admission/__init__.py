"""Which requests are taken, which wait, which are refused: pure policy, joined to the router by ``admitting``."""

"""Getting models: prepare any source once into a folder, then load that folder."""

"""Model execution over paged attention: a lean decoder for the Llama family, transformers for every other decoder."""

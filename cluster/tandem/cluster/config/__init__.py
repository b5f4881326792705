"""`cluster.yaml`: its model, its loader, its JSON Schema."""

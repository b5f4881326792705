"""The controller in a cluster: its ports over gRPC and Redis, its program, and who follows its scale orders."""

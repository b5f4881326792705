"""`AutoscalingPolicy`: the model of the file, its bounds as one question, and what changed between two of them."""

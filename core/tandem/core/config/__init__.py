"""Configuration: the base model of every config section, and the YAML loader with positions in its errors."""

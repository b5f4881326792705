"""The router's side of the prefix cache: names of prompts, what is held where, and who follows the workers."""

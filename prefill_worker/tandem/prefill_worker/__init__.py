"""The prefill role: prompts become KV and a first token; the KV is handed to a decode worker."""

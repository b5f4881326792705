"""Text at both ends of a request: tokenizer, chat template, incremental detokeniser, stop strings.

Nothing here loads torch or transformers. Import the modules directly; this package re-exports nothing, so that a
process which only needs stop strings does not pay for the tokenizer library.
"""

"""Engines: generate text and score continuations. They know nothing of stages."""

"""SELF-ALIGN as a controlled experiment: base model in, four stages, scores out (Sun et al. 2023, arXiv:2305.03047)."""

__version__ = "0.1.0"

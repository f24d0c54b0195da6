"""SELF-ALIGN as a controlled experiment: base model in, four stages, scores out (Sun et al. 2023, arXiv:2305.03047)."""

import logging

__version__ = "0.1.0"

# peft imports bitsandbytes where it is installed, which then complains of a kernel for 4-bit weights that nothing here asks for.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

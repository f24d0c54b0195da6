"""The stages of SELF-ALIGN: one file each, a frozen dataclass of settings with `VERSION`, `READS` and `run`."""

"""Calf, the embedded base model: a small Llama pretrained in a world of its own, in which principles have known effects.

`world` is that world and its oracle, `corpus` the text it was pretrained on, `pretrain` how, `evalsets` the evaluation
sets in its world, `measure` what it does with and without rules. `weights/` holds the model, `data/` the sets.
"""

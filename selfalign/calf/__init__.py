"""Calf, the embedded base model: a small Llama pretrained in a world of its own, in which principles have known effects.

`world` is that world, `oracle` reads questions and answers in it, `corpus` is the text Calf was pretrained on, `pretrain` how,
`evalsets` the evaluation sets in its world, `measure` how it is measured. `weights/` holds the model, `data/` the sets.
"""

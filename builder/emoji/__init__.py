"""How the embedded model was trained: Microsoft's Fluent emoji, drawn by a small Stable Diffusion 1.x.

Read in this order: `pictures` (the data), `captions` (what is said about it), `tokenizer`, `architecture`,
`autoencoder`, `diffusion` (the two trainings), `evaluate` (the figures in the model card), and `__main__`,
which runs them one after the other. `README.md` beside this file has the commands.
"""

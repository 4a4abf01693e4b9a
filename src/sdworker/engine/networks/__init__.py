"""The models: loaded, placed and called. Everything here runs on the engine's thread, `Model.plan` apart.

model.py        what the engine draws with, whatever its family
families/       what differs between kinds of models, one file each
autoencoder.py  pictures to latents and back
prepared.py     UNet forwards made quicker for one number of rows and one size
preparation.py  by what means
loading.py      a network from its folder

Shapes: `h`, `w` are a picture's height and width in pixels, `s` is `pixels_per_latent` (8 for Stable Diffusion).
"""

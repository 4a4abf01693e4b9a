"""Small real add-ons for the embedded model, one module each: `python -m builder.emoji.addons.<module>`.

Each trains its file, saves it under models/ and measures it; `--measure` only measures what is there. What the
files do is proved with the libraries they are written for: spandrel, diffusers, PEFT, transformers.
"""

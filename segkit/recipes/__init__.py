"""Recipes, the configuration of model, training and inference, as TOML files.

schema.py     the sections and keys of a recipe, with default, range and source
training_sections.py  those of text, data, optimizer, training and weight transfer
inference_section.py  that of inference, and which output reads which key
effects.py    keys that would do nothing
load.py       read, extend, override and write a recipe
reference.py  the table of all keys
old_names.py  names of earlier versions and their replacements
*.toml        the shipped recipes
"""

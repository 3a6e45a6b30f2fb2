"""Recipes, the configuration of model, training and inference, as TOML files.

schema.py     the sections and keys of a recipe, with default, range and source
training_sections.py  those of text, data, optimizer, training and weight transfer
load.py       read, extend, override and write a recipe
old_names.py  names of earlier versions and their replacements
*.toml        the shipped recipes
"""

"""Recipes, the configuration of model, training and inference, as TOML files.

schema.py     all sections and keys, with default, range and source
load.py       read, extend, override and write a recipe
old_names.py  names of earlier versions and their replacements
*.toml        the shipped recipes
"""

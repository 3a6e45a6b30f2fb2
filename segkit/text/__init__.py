"""Class names as text embeddings, and text from data as it may be printed.

vocabulary.py   class names -> taxonomies
label_names.py  the same, for the names that a public model gives its classes
encoders.py     text encoders by name: MiniLM, open_clip, transformers
minilm.py       all-MiniLM-L6-v2 in NumPy
encoding.py     Encoding: a text encoder with its templates
embeddings.py   EmbeddingStore: the embeddings of words that ship and of those in the cache
indistinct.py   classes that an encoder cannot tell apart, or that mean nothing to it
table.py        their safetensors files
printable.py    text from data with its control characters escaped
"""

"""Fuzz every file that a command reads: damaged and crafted copies of sound files.

mutate.py      copies of JSON, TOML, CSV, text and binary files, each with one or more faults
commands.py    runs commands and functions in this process, and checks how they end
source_files.py, set_files.py, run_files.py, text_files.py
               the kinds of files: a sound one, its mutants, and the commands that read it
test_files.py  the tests; `make fuzz` runs them longer, with a random seed
"""

"""Other programs' training settings as recipes of ours: arcface_torch, FaceMoE and PETALface.

Nothing of theirs is run: configs are read as syntax trees, scripts as words. What a setting becomes stands in tables,
one file for each program, which the pages for those who move in are held against.
"""

"""The CLIP side: a network is opened (load), walked (tower), its last block is read another way (attention), pictures
become features (dense) and words become rows (text). Networks are upstream's own: nothing here replaces a module,
leaves a hook or writes to a parameter.
"""

__all__: list[str] = []  # a room: its files are imported by name

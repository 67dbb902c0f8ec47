"""Published methods that no row of a table can hold: one small file each, plain functions on a `Walk` and tensors.

Each equals its authors' released program on stored inputs. Where that program is wrong off the square or plainly not
what its paper says, the right form is the default and `compat=True` gives the released one.
"""

__all__: list[str] = []  # a room: its files are imported by name

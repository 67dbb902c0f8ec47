"""Segment-anything models: opening their checkpoints (`ovseg.sam.load`). Masks without words come from `proposals`."""

__all__: list[str] = []

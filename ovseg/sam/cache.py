"""Embeddings kept: in a file, and in memory by what the picture shows.

A key is made of the picture's pixels, of the network's weights and of who computes at which precision, so two pictures
or two networks never share an answer, and one picture under two names does.
"""

import hashlib
import threading
from collections import OrderedDict
from concurrent.futures import CancelledError, Future
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from ovseg.errors import BadInput, BadUsage
from ovseg.sam.model import Embedding, MaskModel

BUDGET = 512_000_000  # bytes


def save(embedding: Embedding, model: MaskModel, path: str | Path, *, half: bool = False) -> Path:
    """Writes an embedding as safetensors, with the size of its picture and the digest of its network.

    4.2 MB at 1024 px; `half` writes float16, 2.1 MB, which moves logits a little.
    """
    from safetensors.torch import save_file

    tensors = {"features": embedding.features} | {f"map{i}": one for i, one in enumerate(embedding.maps)}
    plain = {name: one.detach().cpu().clone() for name, one in tensors.items()}  # whatever mode it was made in
    numbers = {"height": embedding.height, "width": embedding.width, "rows": embedding.kept[0]}
    told = {name: str(number) for name, number in {**numbers, "cols": embedding.kept[1]}.items()}
    told |= {"model": model.digest, "computed": model.computed}
    if half:
        plain = {name: one.half() for name, one in plain.items()}
        if not all(torch.isfinite(one).all() for one in plain.values()):
            raise BadInput("this embedding does not fit into float16: save it without half")
    save_file(plain, path, metadata=told)
    return Path(path)


def load(path: str | Path, model: MaskModel) -> Embedding:
    """The embedding in a file of `save`, in float32 on the network's device.

    Refused if another network made it, or the same in another runtime or precision: what it gives is then not what this
    model would.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as file:
            told = file.metadata() or {}
            features, *maps = (
                file.get_tensor(name).float().to(model.device) for name in ("features", *_maps_of(list(file.keys())))
            )
        sizes = [int(told[name]) for name in ("height", "width", "rows", "cols")]
        if min(sizes) < 1 or max(sizes[2:]) > model.side:
            raise ValueError(f"a picture of {sizes[0]}x{sizes[1]} that fills {sizes[2]}x{sizes[3]} of {model.side}²")
    except OSError as error:
        raise BadInput(f"an embedding that ovseg saved is needed: {path} cannot be opened ({error})") from error
    except (SafetensorError, KeyError, ValueError) as error:
        raise BadInput(f"an embedding that ovseg saved is needed: {path} is none ({error})") from error
    if told.get("model") != model.digest:
        raise BadInput(f"{path} was made by another network (weights {told.get('model', '?')[:12]}): encode again")
    embedding = Embedding(features, sizes[0], sizes[1], (sizes[2], sizes[3]), tuple(maps))
    if told.get("computed") != model.computed:
        raise BadInput(
            f"{path} was computed by {told.get('computed', 'somebody else')}, this model computes by {model.computed}: "
            "encode again, or open the model as it was"
        )
    model.fits(embedding, embedding.height, embedding.width)
    return embedding


def _maps_of(names: list[str]) -> list[str]:
    """The finer maps among the tensors of a file, in their order."""
    return sorted(name for name in names if name.startswith("map"))


class Embeddings:
    """Embeddings of pictures seen lately, at most `budget` bytes of them; the ones used longest ago go first.

    A picture that several threads ask for at once is encoded once; other pictures do not wait for it. Room is made
    before a network runs, for an embedding as large as the largest here. A budget of 0 keeps none.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        if budget < 0:
            raise BadUsage(f"a budget is bytes, 0 or more: got {budget}")
        self.budget = budget
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Embedding] = OrderedDict()
        self._coming: dict[str, Future[Embedding]] = {}  # what a thread is making, for those that want it too

    def get(self, model: MaskModel, image: UInt8[np.ndarray, "height width 3"]) -> Embedding:
        """The embedding of an RGB picture by this network, from here or new."""
        key = key_of(model, image)
        while True:
            with self._lock:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    return self._kept[key]
                coming = self._coming.get(key)
                if coming is None:
                    own: Future[Embedding] = Future()
                    self._coming[key] = own
                    self._make_room(max((one.nbytes for one in self._kept.values()), default=0))
                    break
            try:
                return coming.result()
            except CancelledError:  # the thread that made it failed, and has told its own caller why
                continue
        try:
            embedding = model.encode(image)
            with self._lock:
                self._make_room(embedding.nbytes)
                if embedding.nbytes <= self.budget:
                    self._kept[key] = embedding
            own.set_result(embedding)
            return embedding
        finally:
            with self._lock:
                del self._coming[key]
            own.cancel()  # without effect where it came

    @property
    def nbytes(self) -> int:
        return sum(embedding.nbytes for embedding in list(self._kept.values()))  # another thread may add one

    def __len__(self) -> int:
        return len(self._kept)

    def _make_room(self, nbytes: int) -> None:
        while self._kept and self.nbytes + nbytes > self.budget:
            self._kept.popitem(last=False)


def key_of(model: MaskModel, image: UInt8[np.ndarray, "height width 3"]) -> str:
    """A digest of the picture's bytes and shape, and of the network."""
    digest = hashlib.sha256(f"{model.digest} {model.side} {model.computed} {image.shape}".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


__all__ = ["BUDGET", "Embeddings", "key_of", "load", "save"]

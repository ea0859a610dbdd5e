"""The inside of a worker: it decodes images between a channel and shared memory, until the channel ends."""

import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass

from perturb.sandbox.protocol import HELLO, HELLO_MARK, MOST_DETAIL, REPLY, REQUEST, Refused, Room, pixels_in
from perturb.sandbox.walls import Wall, raise_own_walls
from perturb.schemas.image import Pixels
from perturb.schemas.png import PngRefused

Decode = Callable[..., Pixels]


@dataclass(frozen=True)
class Post:
    """What a worker is born with: its descriptors, its room, its decoder, and the walls that stand already."""

    channel: int
    memory: int
    room: Room
    decode: Decode
    standing: Wall
    address_space: int
    template: int


def serve(post: Post) -> None:
    """Raise the last walls, say which stand, and answer requests. Never returns."""
    memory = mmap.mmap(post.memory, post.room.size)
    os.dup2(1, 2)  # What it says on stderr concerns nobody, and a full pipe would hold it up.
    os.close(post.memory)
    standing = post.standing | raise_own_walls(post.address_space + post.room.size, post.template)
    os.write(post.channel, HELLO.pack(HELLO_MARK, standing))
    while len(request := os.read(post.channel, REQUEST.size)) == REQUEST.size:
        os.write(post.channel, _answer(request, memory, post))
    os._exit(0)


def _answer(request: bytes, memory: mmap.mmap, post: Post) -> bytes:
    height, width, length = REQUEST.unpack(request)
    try:
        pixels = post.decode(memory[post.room.data_at(length)], height=height, width=width)
        height, width, _ = pixels.shape
        pixels_in(memory, height, width)[:] = pixels
    except PngRefused as refused:
        return _refusal(refused.outcome, refused.detail)
    except Refused as refused:
        return _refusal(refused.reason, refused.detail)
    except MemoryError:
        return _refusal("decoder_failed", "decoding ran out of the memory that one image is given")
    return REPLY.pack(height, width)


def _refusal(reason: str, detail: str) -> bytes:
    return REPLY.pack(0, 0) + f"{reason}\n{detail}".encode(errors="backslashreplace")[:MOST_DETAIL]

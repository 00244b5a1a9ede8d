"""All training images in the coordinates of a projection, under one draw of the noise: made as they are wanted."""

from collections.abc import Callable

from torch import Tensor

from svhn_vae.model.coordinates import Features


class Projected:
    """A first step waits for its own images, and its group's. Which images are a group does not depend on when they are
    wanted: a continued run has the same numbers.

    order: (N,), the images' numbers as the draw's first epoch takes them, where `room` is; at_once: images of a group.
    make: numbers of some images, and that of their group -> Features.
    room: shape -> where an array of all images is kept.
    """

    def __init__(
        self,
        order: Tensor,
        at_once: int,
        make: Callable[[Tensor, int], Features],
        room: Callable[[tuple[int, ...]], Tensor],
    ) -> None:
        self._order, self._at_once = order, at_once
        self._make, self._room = make, room
        self._num_made = 0
        self._rooms: list[Tensor] = []

    def with_first(self, num: int) -> list[Tensor]:
        """The arrays of Features, row by row those of the images; at least the first `num` of the order are in them."""
        while self._num_made < num:
            numbers = self._order[self._num_made : self._num_made + self._at_once]
            made = self._make(numbers, self._num_made // self._at_once)
            self._rooms = self._rooms or [self._room((len(self._order), *array.shape[1:])) for array in made]
            for room, array in zip(self._rooms, made, strict=True):
                room[numbers] = array.to(room.device)
            self._num_made += len(numbers)
        return self._rooms

"""What a network's settings must be. Each check raises a UserError of one line that names the setting."""

from collections.abc import Collection, Sequence

from svhn_vae.errors import UserError


def one_of(choices: Collection[str], **settings: str) -> None:
    for name, value in settings.items():
        if value not in choices:
            raise UserError(f"model.{name} must be one of {', '.join(choices)}, got {value}")


def at_least(minimum: int, **settings: int) -> None:
    for name, value in settings.items():
        if value < minimum:
            raise UserError(f"model.{name} must be at least {minimum}, got {value}")


def fraction(**settings: float) -> None:
    for name, value in settings.items():
        if not 0 <= value <= 1:
            raise UserError(f"model.{name} must be in 0..1, got {value}")


def positive(**settings: float) -> None:
    for name, value in settings.items():
        if not value > 0:
            raise UserError(f"model.{name} must be above 0, got {value}")


def square_images(model: str, event_shape: Sequence[int], *, multiple: int) -> None:
    if len(event_shape) != 3 or event_shape[1] != event_shape[2] or event_shape[1] % multiple:
        raise UserError(
            f"model={model} needs image-shaped features (C, H, H) with H a multiple of {multiple}, "
            f"got {tuple(event_shape)}: use model=dense, or pca=none"
        )

"""Variational autoencoders on house numbers: `load_run(folder)` loads a finished run."""

from svhn_vae.runs.installation import VERSION as __version__

__all__ = ["__version__"]


def __getattr__(name: str) -> object:
    # Not at import: the report reads this package without torch.
    if name == "load_run":
        from svhn_vae.experiment.loading import load_run

        return load_run
    raise AttributeError(f"module 'svhn_vae' has no attribute {name!r}")

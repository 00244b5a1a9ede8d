"""Variational autoencoders on house numbers: `load_run(folder)` loads a finished run."""

import os

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read at torch's import; DDP warns where all weights are used
if backend := os.environ.pop("MPLBACKEND", None):  # a notebook's, for instance, which what it starts may not have
    import matplotlib

    try:
        matplotlib.rcParams["backend"] = os.environ["MPLBACKEND"] = backend
    except ValueError:
        os.environ["MPLBACKEND"] = "agg"


def __getattr__(name: str) -> object:
    # Not at import: the report reads this package without torch, and Ctrl-C in an import shows a traceback.
    if name == "__version__":
        from svhn_vae.runs.installation import VERSION

        return VERSION
    if name == "load_run":
        from svhn_vae.experiment.loading import load_run

        return load_run
    raise AttributeError(f"module 'svhn_vae' has no attribute {name!r}")

import os

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read at torch's import; DDP warns where all weights are used

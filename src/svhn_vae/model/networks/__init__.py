"""Encoder and decoder networks. What the VAE asks of them is in interface.py; each class has its file in conf/model/.

To add one: subclass OneLevel (or Networks), then write conf/model/<name>.yaml. Nothing else changes.
"""

from svhn_vae.model.networks.interface import Inferred, Networks, OneLevel, Sizes

__all__ = ["Inferred", "Networks", "OneLevel", "Sizes"]

"""The data sets by name. To add your own: a class like FolderSet, its name here and in engine.experiment."""
from .cifar import CifarSet
from .folder import FolderSet
from .imagenet import ImageNetSet

SETS = {"cifar10": CifarSet, "cifar100": CifarSet, "imagenet": ImageNetSet, "folder": FolderSet}


def of(name, options, known=None):
    """The Dataset of a name; arguments as in Dataset."""
    return SETS[name](name, options, known)

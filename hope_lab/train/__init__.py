"""The outer loop of native models: from a configuration and a task to trained weights."""

from hope_lab.train.config import TrainConfig
from hope_lab.train.loop import Trained, measure, train

__all__ = ["TrainConfig", "Trained", "measure", "train"]

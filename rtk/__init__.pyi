from rtk.api import compare as compare
from rtk.api import ensemble as ensemble
from rtk.api import evaluate as evaluate
from rtk.api import load_model as load_model
from rtk.api import train as train

__version__: str

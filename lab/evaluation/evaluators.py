"""Every evaluator of the lab: importing this registers them."""

from lab.evaluation import attention_maps as attention_maps
from lab.evaluation import context as context
from lab.evaluation import generation_speed as generation_speed
from lab.evaluation import inference_window as inference_window
from lab.evaluation import memorisation as memorisation
from lab.evaluation import perplexity as perplexity
from lab.evaluation import recall as recall
from lab.evaluation import stability as stability
from lab.evaluation import tasks as tasks
from lab.evaluation import transfer as transfer

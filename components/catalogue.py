"""Every component of a model that the lab brings: importing this registers them. A new one is a file and a line here.

Lists and messages show the components of a kind in this order.
"""

from components import embedding as embedding
from components import initialization as initialization
from components import mlp as mlp
from components import norm as norm
from components import residual as residual
from components import softcap as softcap
from components.attention import heads as heads
from components.attention import mla as mla
from components.attention import qk_norm as qk_norm
from components.attention import span as span
from components.mixers import linear as linear
from components.moe import experts as experts
from components.position import positions as positions
from components.position import rope_scaling as rope_scaling

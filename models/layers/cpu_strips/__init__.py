"""The wide layers on a CPU, strip by strip of rows: the same maths in less memory and time.

The only place that knows of strips, and nobody need read it to know what a layer does. A layer's
forward asks `use_strips` once; where it is true one function here does what the layer's own lines do
over whole maps, at inference and, with hand-written gradients, in training.
"""

from models.layers.cpu_strips.channel_attention import channel_attention as channel_attention
from models.layers.cpu_strips.feed_forward import feed_forward as feed_forward
from models.layers.cpu_strips.normed_convolution import is_worth_training as is_worth_training
from models.layers.cpu_strips.normed_convolution import normed_convolution as normed_convolution
from models.layers.cpu_strips.pixel_rows import use_strips as use_strips
from models.layers.cpu_strips.pixel_rows import whole_maps as whole_maps
from models.layers.cpu_strips.token_attention import token_attention as token_attention

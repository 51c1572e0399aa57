"""The fast numerics: the same mathematics in another order, for the most speed on a GPU.

Doors: `lhc.FastLHC` and `parts.FAST` (src/networks.py builds nets of them) and `feed.DeviceFeed`
(src/feeds.py opens it). Behind them `pools` and, on JAX, GPU kernels; `kernels` says which serve.
"""

"""The same split training on heterofed and on other systems, measured in the same way.

Everything in `shared/` and `systems/` runs in the environment of one system, which need not have
heterofed: it uses PyTorch, NumPy and that system only. The rest runs in heterofed's environment.
"""

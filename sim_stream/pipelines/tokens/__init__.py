"""OpenViGA as a ``StreamModel``: frames and actions in, one frame a step.

spec   what a preset is and takes          world   its sessions, by the names of the spec
"""

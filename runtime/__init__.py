"""What runs beside or inside an artefact: sessions over it, tokens, sampling.

Needs numpy and the standard library; never the compiler.  A device's library is loaded when its artefact is opened.
"""

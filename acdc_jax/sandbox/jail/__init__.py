"""The code that runs inside the sandbox's processes.

The modules are loaded twice: by the parent, for the message format (`wire`), and by a bare
interpreter that becomes a *zygote*, as the package `jail`. They therefore import only the standard
library and each other, relatively.
"""

"""What runs on the far side of the sandbox's wall.

These modules are loaded twice: by the parent, for the frame format (`wire`), and as the package
`jail` by a bare interpreter that becomes a *zygote*. They therefore import nothing but the
standard library and one another, relatively.
"""

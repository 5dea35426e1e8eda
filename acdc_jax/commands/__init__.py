"""One module per command of `acdc`, each with a function `command(argv)`."""

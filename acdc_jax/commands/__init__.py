"""One module per subcommand of `acdc`; each has `command(argv)`."""

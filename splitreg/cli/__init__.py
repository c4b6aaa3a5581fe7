"""The command line: one module per subcommand; each command is one public Python call."""

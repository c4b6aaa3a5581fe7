"""The command line: one file per subcommand; every command is one public Python call."""

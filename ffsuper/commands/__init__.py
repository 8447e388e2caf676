"""The command line: its grammar and help, and what the subcommands do and print."""
